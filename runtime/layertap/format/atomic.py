"""Writing files so that a failure leaves what stood there before."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layertap.errors import OutputError


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


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder, and those above it, if it is not there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as exc:
        raise OutputError(
            f"cannot make the folder {os.fsdecode(folder)!r}: {exc.strerror}."
        ) from exc


def check_target(target: str | os.PathLike[str]) -> None:
    """Raise what `replacing` would raise at its start: before long work, not after it.

    Raises:
        OutputError: the folder is missing or not writable.
    """
    _beside(Path(target)).unlink()


def _beside(target: Path) -> Path:
    """A new, empty file beside the target, with the mode that a plain `open` would give it."""
    home = Path(os.path.realpath(target))
    try:
        _check_replaceable(target)
        if not home.parent.is_dir():
            missing = home.parent if target.parent.is_dir() else target.parent
            raise _failure(target, f"there is no folder {str(missing)!r}")
        temporary = home.with_name(f".{home.stem[:32]}.{os.urandom(4).hex()}{home.suffix}")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as exc:
        raise _failure(target, exc.strerror or str(exc)) from exc
    return temporary


def _check_replaceable(target: Path) -> None:
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        raise OutputError(f"cannot write {str(target)!r}: it is a folder. Give a file name.")
    if not stat.S_ISREG(mode):  # /dev/null, say, which must not become a file
        raise OutputError(f"cannot write {str(target)!r}: it is not a regular file.")


def _failure(target: Path, reason: str) -> OutputError:
    return OutputError(f"cannot write {str(target)!r}: {reason}. Nothing was written.")
