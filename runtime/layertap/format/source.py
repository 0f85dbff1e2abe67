"""Where a model comes from: a file, or bytes."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from layertap.errors import ModelFileError, suggest

from .wire import Buffer

if TYPE_CHECKING:
    from pathlib import Path


class FileStamp(NamedTuple):
    """What changes when a file is written again."""

    size: int
    mtime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, stat: os.stat_result) -> FileStamp:
        """The stamp of the file that was asked for its `stat`."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)


class Reading:
    """A context manager that gives the bytes of a model and releases them at the end."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def __enter__(self) -> Buffer:
        return self._buffer

    def __exit__(self, *_: object) -> None:
        if isinstance(self._buffer, mmap.mmap):
            try:
                self._buffer.close()
            except BufferError:  # an exception that is being raised still holds a view
                return


class BytesSource:
    """A model in memory."""

    path: Path | None = None
    name = "the model"
    size = 0
    """Bytes of the file: 0, because there is none."""

    def __init__(self, data: bytes) -> None:
        if not data:
            raise ModelFileError("the model's bytes are empty.")
        self.data = data

    def read(self, sparsely: bool = False) -> Reading:
        """The bytes, as a context manager."""
        return Reading(self.data)


class FileSource:
    """A model file. It is open only while it is read, and must not change."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self.name = repr(str(path))
        self.size = 0
        """Bytes of the file; 0 before it was first read."""
        self._stamp: FileStamp | None = None

    @property
    def path(self) -> Path:
        """Where the file is."""
        from pathlib import Path

        return Path(self._path)

    def read(self, sparsely: bool = False) -> Reading:
        """The file's bytes, mapped instead of read, as a context manager.

        Args:
            sparsely: whether only a few small spans are read. Otherwise the system reads some
                megabytes ahead at each: half of a large file that is not in memory yet.

        Raises:
            ModelFileError: it cannot be opened, or has changed since the first read.
        """
        try:
            with open_regular(self._path) as file:
                stamp = FileStamp.of(os.fstat(file.fileno()))
                if self._stamp is None:
                    if not stamp.size:
                        raise ModelFileError(f"{self.name} is empty. Copy or export it again.")
                    self._stamp, self.size = stamp, stamp.size
                elif stamp != self._stamp:
                    raise ModelFileError(
                        f"{self.name} was changed since it was opened. Open it again with "
                        "layertap.open."
                    )
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as exc:
            raise ModelFileError(self._trouble(exc)) from exc
        if sparsely and hasattr(mmap, "MADV_RANDOM"):  # not on Windows
            mapped.madvise(mmap.MADV_RANDOM)
        return Reading(mapped)

    def _trouble(self, exc: OSError | ValueError) -> str:
        if isinstance(exc, FileNotFoundError):
            return f"there is no file {self.name}.{suggest(self.path.name, self._neighbours())}"
        if self.path.is_dir():
            inside = sorted(item.name for item in self.path.glob("*.onnx"))
            hint = f": {', '.join(map(repr, inside[:3]))}" if inside else ""
            return f"{self.name} is a folder. Give the .onnx file in it{hint}."
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        return f"{self.name} cannot be read: {reason}."

    def _neighbours(self) -> list[str]:
        try:
            return sorted(item.name for item in self.path.parent.glob("*.onnx"))
        except OSError:
            return []


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, as `open(path, "rb")` does, if it is a regular file.

    A pipe would be waited for, and a device may never end.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe or a device.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", os.fspath(path))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def describe(start: bytes) -> str:
    """What a file that is no ONNX model looks like, from its first bytes; empty if like nothing."""
    text = start.lstrip().lower()
    for mark, what in _LOOKS:
        if text.startswith(mark) or start.startswith(mark):
            return what
    if start[4:8] == b"ORTM":
        return "a model in onnxruntime's own format; give the .onnx file that it was made from"
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model; export the Keras model with `layertap export`"
    if text and all(byte in _PRINTABLE for byte in start):
        return "a text file"
    return ""


_PRINTABLE = frozenset({9, 10, 12, 13, *range(32, 127)})
_HTML = "an HTML page: perhaps an error or login page came instead of the file"
_KERAS = "export it with `layertap export`"
_LOOKS = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the model itself with `git lfs pull`"),
    (b"<!doctype html", _HTML),
    (b"<html", _HTML),
    (b"<", "an XML file"),
    (b"{", "a JSON file"),
    (b"\x89HDF", f"an HDF5 file, perhaps a Keras model; {_KERAS}"),
    (b"PK\x03\x04", f"a zip archive, perhaps a Keras model; {_KERAS}"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
