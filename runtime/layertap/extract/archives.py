"""Images in `.tar` and `.zip` archives, and rows of `.npy` files, read in any order."""

from __future__ import annotations

import os
import posixpath
import tarfile
import threading
import weakref
import zipfile
from array import array
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap._engine.feeds import as_pixels
from layertap.errors import ImageError, InputError
from layertap.format.source import open_regular
from layertap.images.preprocessing import Preprocessing

from .images import image_suffixes
from .items import MOST_BYTES, Data, Items, ItemTable, too_large

ARCHIVES = (".tar", ".zip", ".npy")
"""The suffixes of files that hold several items."""

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""The suffixes of compressed tar files, which can only be read from their start."""

_MARKS = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"(\xb5/\xfd": "unzstd"}
"""The first bytes of compressed files, and the program that unpacks them."""


def is_archive(path: str) -> bool:
    """Whether a file holds several items, by its suffix."""
    return path.lower().endswith(ARCHIVES + COMPRESSED)


def open_archive(path: str, recipe: Preprocessing | None, any_suffix: bool) -> Items:
    """The items of an archive.

    Args:
        path: a file with one of the suffixes in `ARCHIVES`.
        recipe: how images become inputs, if they do.
        any_suffix: take all members, whatever their suffix.

    Raises:
        ImageError: it cannot be read, is damaged, compressed, or holds no image.
    """
    lower = path.lower()
    try:
        with open_regular(path) as file:
            start = file.read(8)
        unpack = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
        if unpack is not None or lower.endswith(COMPRESSED):
            raise ImageError(
                f"{path}: it is compressed, so its images cannot be read in any order. Unpack it "
                f"(`{unpack or 'unpack'}` leaves a .tar file); images are compressed themselves."
            )
        made: Items
        if lower.endswith(".npy"):
            made = ArrayItems(_mapped(path), recipe, os.stat(path).st_mtime_ns)
        elif lower.endswith(".zip"):
            made = ZipItems(path, any_suffix)
        else:
            made = TarItems(path, any_suffix)
    except FileNotFoundError as exc:
        raise ImageError(f"{path}: there is no such file.") from exc
    except (OSError, ValueError, EOFError, tarfile.TarError, zipfile.BadZipFile) as exc:
        if isinstance(exc, ImageError):
            raise
        raise ImageError(f"{path}: it cannot be read as an archive ({exc}).") from exc
    if not made.items:
        made.close()
        raise ImageError(f"{path}: there is no image in it.")
    return made


class TarItems(Items):
    """The images in a `.tar` file, in the order of the file.

    As in WebDataset, the id is the key: the path up to the first dot of the file name. If two
    images have one key, the ids are the whole paths.
    """

    def __init__(self, path: str, any_suffix: bool) -> None:
        names: list[str] = []
        self._offsets, sizes, mtimes = array("q"), array("q"), array("q")
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse() and _wanted(member.name, any_suffix):
                    names.append(_normal(member.name))
                    self._offsets.append(member.offset_data)
                    sizes.append(member.size)
                    mtimes.append(int(member.mtime) * 10**9)
        keys = [_key(name) for name in names]
        self._sizes = sizes
        self.items = ItemTable(keys if len({*keys}) == len(keys) else names, sizes, mtimes)
        self._file = open_regular(path)
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, self._file.close)

    def read(self, row: int) -> Data:
        """The bytes of one image."""
        size = self._sizes[row]
        if size > MOST_BYTES:
            raise ImageError(too_large(size))
        try:
            with self._lock:  # which Windows needs, as it lacks os.pread
                self._file.seek(self._offsets[row])
                content = self._file.read(size)
        except OSError as exc:
            raise ImageError(f"it cannot be read ({exc.strerror}).") from exc
        if len(content) < size:
            raise ImageError(f"it is cut off: {len(content)} of {size} bytes are there.")
        return Data(content, self.sha256(content))

    def close(self) -> None:
        """Close the file."""
        self._close()


class ZipItems(Items):
    """The images in a `.zip` file, sorted by their paths, which are the ids."""

    def __init__(self, path: str, any_suffix: bool) -> None:
        self._archive = zipfile.ZipFile(path)
        self._close = weakref.finalize(self, self._archive.close)
        members = [
            (_normal(member.filename), member)
            for member in self._archive.infolist()
            if not member.is_dir() and _wanted(member.filename, any_suffix)
        ]
        members.sort(key=lambda pair: pair[0])
        self._members = [member for _, member in members]
        sizes = array("q", (member.file_size for member in self._members))
        self.items = ItemTable([name for name, _ in members], sizes, array("q"))

    def read(self, row: int) -> Data:
        """The bytes of one image."""
        member = self._members[row]
        if member.file_size > MOST_BYTES:
            raise ImageError(too_large(member.file_size))
        try:
            content = self._archive.read(member)
        except Exception as exc:  # zipfile, zlib, bz2 and lzma raise many different exceptions
            raise ImageError(f"it cannot be unpacked ({exc or type(exc).__name__}).") from exc
        return Data(content, self.sha256(content))

    def close(self) -> None:
        """Close the file."""
        self._close()


class ArrayItems(Items):
    """The rows of an array, which are pixels or ready for the model; the ids are their numbers.

    As in `Model.predict`, integers are pixels if there is a recipe; others are ready.
    """

    def __init__(self, rows: NDArray[Any], recipe: Preprocessing | None, mtime_ns: int = 0) -> None:
        """
        Args:
            rows: `(n, ...)`, also a memmap.
            recipe: how images become inputs, if they do.
            mtime_ns: when its file was changed.
        """
        if rows.ndim < 2:
            raise ValueError(f"its shape is {rows.shape}, and it must have a row for each item")
        if rows.dtype.kind not in "biuf":
            raise ValueError(f"its dtype is {rows.dtype}, and it must hold numbers")
        self.ready = recipe is None or rows.dtype.kind not in "iu" or rows.ndim not in (3, 4)
        if not self.ready and recipe is not None and rows.ndim == 4:
            channels = recipe.channel_count
            if recipe.channels == "first" and rows.shape[1] == channels != rows.shape[3]:
                rows = rows.transpose(0, 2, 3, 1)
        self._rows = rows
        count = len(rows)
        size = rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
        sizes, mtimes = array("q", [size]) * count, array("q", [mtime_ns]) * count
        self.items = ItemTable([*map(str, range(count))], sizes, mtimes)

    def read(self, row: int) -> Data:
        """A copy of one row."""
        content = np.array(self._rows[row], order="C")
        hashed = self.sha256(content.data)
        return Data(content if self.ready else pixels(content), hashed)


def pixels(values: NDArray[Any]) -> Any:
    """An array of integers as one that an image is read from.

    Raises:
        ImageError: its values are not pixels; the message is the reason alone.
    """
    try:
        return as_pixels("array", values)
    except InputError as exc:
        raise ImageError(str(exc).removeprefix("array: ")) from exc


def _mapped(path: str) -> NDArray[Any]:
    mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _wanted(name: str, any_suffix: bool) -> bool:
    """Whether a member is an image by its name. Hidden files are left out, as in a folder."""
    path = PurePosixPath(_normal(name))
    hidden = (part.startswith(".") and part != ".." for part in path.parts)
    if any(hidden) or "__MACOSX" in path.parts:
        return False
    return any_suffix or path.suffix.lower() in image_suffixes()


def _normal(name: str) -> str:
    return posixpath.normpath(name)


def _key(name: str) -> str:
    """A member's key: its path up to the first dot of the file name."""
    folder, name = posixpath.split(name)
    return posixpath.join(folder, name.partition(".")[0])
