"""Writing files so that a failure leaves what stood there before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `target`; rename it over `target` when the block ends well.

    On any exception, Ctrl-C included, the temporary file is removed and `target` is what it was.
    Where `target` is a link, the file that it leads to is replaced.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(target)
    temporary = _beside(target)
    try:
        try:
            yield temporary
            os.replace(temporary, os.path.realpath(target))
        except OSError as exc:
            raise _failure(target, exc.strerror or str(exc)) from exc
    finally:
        temporary.unlink(missing_ok=True)


def check_target(target: str | os.PathLike[str]) -> None:
    """Raise what `replacing` would raise at its start: before long work, not after it.

    Raises:
        OutputError: the folder is missing or not writable.
    """
    _beside(Path(target)).unlink()


def _beside(target: Path) -> Path:
    """A new, empty file beside the target, with the mode that a plain `open` would give it."""
    if target.is_dir():
        raise OutputError(f"cannot write {str(target)!r}: it is a folder. Give a file name.")
    if target.exists() and not target.is_file():
        # A device, as /dev/null; it must not be replaced by a file.
        raise OutputError(f"cannot write {str(target)!r}: it is not a regular file.")
    home = Path(os.path.realpath(target))
    if not home.parent.is_dir():
        raise _failure(target, f"there is no folder {str(target.parent)!r}")
    temporary = home.with_name(f".{home.stem[:32]}.{os.urandom(4).hex()}{home.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as exc:
        raise _failure(target, exc.strerror or str(exc)) from exc
    return temporary


def _failure(target: Path, reason: str) -> OutputError:
    return OutputError(f"cannot write {str(target)!r}: {reason}. Nothing was written.")
