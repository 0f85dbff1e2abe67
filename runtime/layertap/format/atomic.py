"""Atomic writes: if writing a file fails, the previous file is unchanged."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layertap.errors import OutputError


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `target`; rename it to `target` on success.

    On any exception, Ctrl-C included, the temporary file is removed and `target` is unchanged. If
    `target` is a symbolic link, the file that it points to is replaced.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(target)
    temporary = _temporary_file(target)
    try:
        try:
            yield temporary
            os.replace(temporary, os.path.realpath(target))
        except OSError as exc:
            raise _failure(target, exc.strerror or str(exc)) from exc
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Create a folder and its parents, unless it exists.

    Raises:
        OutputError: the folder cannot be created.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as exc:
        raise OutputError(
            f"cannot create the folder {os.fsdecode(folder)!r}: {exc.strerror}."
        ) from exc


def check_target(target: str | os.PathLike[str]) -> None:
    """Check that `target` can be written. Call this before long work, to fail early.

    Raises:
        OutputError: the folder is missing or not writable.
    """
    _temporary_file(Path(target)).unlink()


def _temporary_file(target: Path) -> Path:
    """A new, empty file in the target's folder, with the mode that a plain `open` would set."""
    resolved = Path(os.path.realpath(target))
    try:
        _check_replaceable(target)
        if not resolved.parent.is_dir():
            missing = resolved.parent if target.parent.is_dir() else target.parent
            raise _failure(target, f"the folder {str(missing)!r} does not exist")
        name = f".{resolved.stem[:32]}.{os.urandom(4).hex()}{resolved.suffix}"
        temporary = resolved.with_name(name)
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
    if not stat.S_ISREG(mode):  # for example /dev/null, which must not be replaced
        raise OutputError(f"cannot write {str(target)!r}: it is not a regular file.")


def _failure(target: Path, reason: str) -> OutputError:
    return OutputError(f"cannot write {str(target)!r}: {reason}. Nothing was written.")
