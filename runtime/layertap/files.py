"""Writing files so that a failure leaves what stood there before."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `target`; rename it over `target` when the block ends well.

    On any exception, Ctrl-C included, the temporary file is removed and `target` is what it was.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(target)
    if target.is_dir():
        raise OutputError(f"cannot write {str(target)!r}: it is a folder. Give a file name.")
    try:
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix
        )
        os.close(handle)
    except OSError as exc:
        raise _failure(target, exc) from exc
    temporary = Path(name)
    try:
        try:
            yield temporary
            _open_as_usual(temporary)
            os.replace(temporary, target)
        except OSError as exc:
            raise _failure(target, exc) from exc
    finally:
        temporary.unlink(missing_ok=True)


def _open_as_usual(path: Path) -> None:
    """Give the file the mode that a plain `open(..., "w")` would have given it."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _failure(target: Path, exc: OSError) -> OutputError:
    reason = exc.strerror or str(exc)
    return OutputError(f"cannot write {str(target)!r}: {reason}. Nothing was written.")
