"""The file operations with which a collection is written: each one stands here, and only here.

Tests replace the module's `os` to let an operation fail, or to record all of them and play back
what a power failure leaves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from layertap.errors import CollectionError, LayertapError, OutputError
from layertap.format.atomic import (
    ABANDONED_SECONDS,
    TEMPORARY,
    is_open_at,
    lock,
    machine,
    temporary_path,
    wait_for_lock,
)
from layertap.format.source import open_regular

MADE, EMPTY = os.O_CREAT, os.O_CREAT | os.O_TRUNC

UNFINISHED = ".layertap-unfinished"
"""Marks a folder that is being made, where it has its name already."""

BUFFER = 1 << 20
"""Bytes that are collected before they are written."""


class File:
    """An open file that is written at given places."""

    def __init__(self, path: Path, flags: int = 0) -> None:
        """
        Args:
            path: the file.
            flags: `MADE` to make it if it is missing, `EMPTY` to empty it, too.

        Raises:
            OSError: it is missing, or cannot be written.
        """
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | flags | getattr(os, "O_BINARY", 0), 0o666)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of the data at a place."""
        left = memoryview(data).cast("B") if len(data) else memoryview(b"")
        while left:
            written = _write_at(self.descriptor, left, offset)
            left, offset = left[written:], offset + written

    def truncate(self, size: int) -> None:
        """Cut it off, or extend it by zeros that take no space on the disk."""
        os.ftruncate(self.descriptor, size)

    def synchronize(self) -> None:
        """Bring the data to the disk."""
        getattr(os, "fdatasync", os.fsync)(self.descriptor)

    def size(self) -> int:
        """In bytes."""
        return os.fstat(self.descriptor).st_size

    def lock(self) -> bool:
        """Lock it until it is closed; false if another process has."""
        return lock(self.descriptor) is not False

    def has_its_name(self) -> bool:
        """Whether the path still leads to it."""
        return is_open_at(self.descriptor, self.path)

    def check_name(self) -> None:
        """
        Raises:
            CollectionError: the path does not lead to it any more; what is written would be lost.
        """
        if not self.has_its_name():
            raise CollectionError(
                f"{str(self.path)!r} was removed, moved or replaced while it was written. Put it "
                "back if it was moved, and run the same command again; or give another folder."
            )

    def close(self) -> None:
        """Close it, and give up the lock."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _write_at(descriptor: int, data: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # on Windows
    return os.write(descriptor, data)


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """A file of a collection, open for reading; a pipe in its place is not waited for.

    Raises:
        FileNotFoundError: it is missing.
        CollectionError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise CollectionError(f"cannot read {str(path)!r}: {exc.strerror or exc}.") from exc


def write_file(path: Path, pieces: Iterable[bytes], *, size: int | None = None) -> None:
    """Write a file and bring it to the disk; its name is not, until the folder is.

    Args:
        path: the file; one that is there is overwritten.
        pieces: the data.
        size: extend it to that many bytes.
    """
    file = File(path, EMPTY)
    try:
        at, held = 0, bytearray()
        for piece in pieces:
            held += piece
            if len(held) >= BUFFER:
                file.write(bytes(held), at)
                at, held = at + len(held), bytearray()
        file.write(bytes(held), at)
        if size is not None:
            file.truncate(size)
        file.synchronize()
    finally:
        file.close()


def replace_file(path: Path, pieces: Iterable[bytes], *, size: int | None = None) -> None:
    """Write a file under a temporary name, and rename it: whole or as it was, also after a kill.

    Args:
        path: the file.
        pieces: its data.
        size: as in `write_file`.
    """
    temporary = path.with_name(f".{path.name}.part")
    write_file(temporary, pieces, size=size)
    rename(temporary, path)


def rename(source: Path, target: Path) -> None:
    """Give a file another name in its folder, and bring that to the disk."""
    os.replace(source, target)
    synchronize_folder(target.parent)


def rename_later(source: Path, target: Path) -> None:
    """Give a file another name; the caller brings that to the disk, for many files at once."""
    os.replace(source, target)


def remove(path: Path) -> None:
    """Remove a file, and bring that to the disk; nothing is done if it is missing."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        synchronize_folder(path.parent)


def make_folder(path: Path) -> None:
    """Create a folder, unless it exists, and bring that to the disk."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
        synchronize_folder(path.parent)


def new_folder(path: Path) -> None:
    """Create a folder inside one that `create_folder` fills, which brings it to the disk."""
    os.mkdir(path)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time do something: others that do the same wait.

    Args:
        path: a file or folder that all of them have, and that is never replaced.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        wait_for_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def synchronize_folder(path: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        if os.name == "nt":
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def create_folder(target: Path, fill: Callable[[Path], object], replaced: bool = False) -> bool:
    """Create a folder with its contents: whole or not at all, also after a kill.

    It is filled under a temporary name next to `target`. What creations that were killed have left
    there is removed. A folder whose name cannot be given to another one, as in a container where it
    is mounted, is filled in place; until it is complete it holds a file of the name `UNFINISHED`.

    Args:
        target: the name of the folder; it may exist, empty.
        fill: writes the contents, and brings the files, though not the folders, to the disk.
        replaced: whether a folder with contents is replaced.

    Returns:
        Whether it was created: false if another process was faster.
    """
    if target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK)):
        return _create_in_place(target, fill, replaced)
    os.makedirs(target.parent, exist_ok=True)
    sweep_folders(target.parent)
    folder, descriptor = _new_folder(target)
    old = None
    try:
        fill(folder)
        for root, _, _ in os.walk(folder, topdown=False):
            synchronize_folder(Path(root))
        if replaced and target.exists():
            old = temporary_path(target, "")
            os.rename(target, old)
        try:
            os.rename(folder, target)
        except OSError:
            if old is not None:
                os.rename(old, target)
                old = None
            elif target.is_dir() and any(target.iterdir()):
                return False
            raise
        synchronize_folder(target.parent)
        return True
    finally:
        try:
            for one in (folder, old):
                if one is not None and one.exists():
                    remove_folder(one)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _create_in_place(target: Path, fill: Callable[[Path], object], replaced: bool) -> bool:
    with alone(target):
        if os.listdir(target) and not (target / UNFINISHED).exists() and not replaced:
            return False
        write_file(target / UNFINISHED, [])
        synchronize_folder(target)
        for path in target.iterdir():
            if path.is_dir() and not path.is_symlink():
                remove_folder(path)
            elif path.name != UNFINISHED:
                os.unlink(path)
        fill(target)
        for root, _, _ in os.walk(target, topdown=False):
            synchronize_folder(Path(root))
        remove(target / UNFINISHED)
        return True


def _new_folder(target: Path) -> tuple[Path, int | None]:
    """An empty folder under a temporary name, and the descriptor that keeps it locked."""
    while True:
        folder = temporary_path(target, "")
        os.mkdir(folder)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except PermissionError:  # Windows opens no folders
            return folder, None
        lock(descriptor)
        if is_open_at(descriptor, folder):
            return folder, descriptor
        os.close(descriptor)  # another process took it for an abandoned one


def remove_folder(folder: Path) -> None:
    """Remove a folder with its contents, as far as that is possible."""
    for root, folders, files in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # what other processes remove at the same time
            for name in files:
                os.unlink(os.path.join(root, name))
            for name in folders:
                path = os.path.join(root, name)
                (os.unlink if os.path.islink(path) else os.rmdir)(path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def sweep_folders(parent: Path) -> None:
    """Remove folders under temporary names whose creators have ended."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            found = TEMPORARY.fullmatch(name)
            if found:
                _remove_if_abandoned(parent / name, here=found[1] == machine())


def _remove_if_abandoned(folder: Path, here: bool) -> None:
    """As `layertap.format.atomic` does with files."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            status = os.fstat(descriptor)
            old = time.time() - status.st_mtime > ABANDONED_SECONDS
            locked = lock(descriptor)
            free = old if locked is None else locked and (here or old)
            if free and stat.S_ISDIR(status.st_mode):
                remove_folder(folder)
        finally:
            os.close(descriptor)


@contextmanager
def explaining(path: Path, more: str = "") -> Iterator[Any]:
    """Turn an error of the operating system into one that says what to do.

    Args:
        path: what is written.
        more: a sentence for the end of the message.

    Raises:
        OutputError: instead of an `OSError`.
    """
    try:
        yield
    except OSError as exc:
        if isinstance(exc, LayertapError):
            raise
        name = os.fsdecode(exc.filename) if exc.filename else str(path)
        reason = exc.strerror or str(exc)
        raise OutputError(f"cannot write {name!r}: {reason}.{more and ' '}{more}") from exc
