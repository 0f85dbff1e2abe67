"""The frozen list of what a collection consists of, and the data of one row.

Row `i` is item `i`, always: an item that cannot be read leaves its row empty.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, overload

from layertap.errors import ImageError
from layertap.format.source import open_regular

MOST_BYTES = 1 << 31
"""Larger files are not read. An image that Pillow reads is smaller."""


class Item(NamedTuple):
    """One row of a collection."""

    id: str
    """Unique in the list: a path with `/`, the key of a member of an archive, or the row's number.
    May hold surrogates, where the name of a file is not UTF-8."""
    size: int = -1
    """In bytes; -1 where it is not known."""
    mtime_ns: int = 0
    """When the file was changed, in nanoseconds since 1970; 0 where it is not known."""


class Data(NamedTuple):
    """What an item holds."""

    content: Any
    """An image as `Preprocessing` takes it; or a row that is ready, without the batch axis."""
    sha256: str = ""
    """Of exactly the bytes that were read; empty where they are not hashed."""


class Items(ABC):
    """What a collection consists of. It is safe to use from several threads."""

    items: Sequence[Item]
    """Row `i` is `items[i]`."""
    ready: bool = False
    """Whether the rows are arrays that the model takes, and not images."""
    digest: bool = True
    """Whether `read` computes hashes."""

    @abstractmethod
    def read(self, row: int) -> Data:
        """The data of one row.

        Raises:
            ImageError: it cannot be read; the message is the reason, without a name.
        """

    def path(self, row: int) -> str | None:
        """The file of a row, if it is one."""
        return None

    def close(self) -> None:  # noqa: B027 - most have no files open
        """Close the files that are open; nothing can be read afterwards."""

    def hashing(self, digest: bool) -> None:
        """Say whether `read` computes hashes."""
        self.digest = digest

    def sha256(self, data: Any) -> str:
        """The hash of some bytes; empty where they are not hashed."""
        return hashlib.sha256(data).hexdigest() if self.digest else ""


class Fields(NamedTuple):
    """The fields of all items, each in the order of the rows."""

    ids: Sequence[str]
    sizes: Sequence[int]
    mtimes: Sequence[int]


def fields_of(items: Sequence[Item]) -> Fields:
    """The fields of items; of an `ItemTable`, without making the items."""
    if isinstance(items, ItemTable):
        return items.fields()
    return Fields(*([item[at] for item in items] for at in range(3)))  # type: ignore[arg-type]


class ItemTable(Sequence[Item]):
    """A long list of items, which are made when they are asked for."""

    def __init__(self, ids: Sequence[str], sizes: array[int], mtimes: array[int]) -> None:
        """
        Args:
            ids: of all rows.
            sizes: in bytes, of all rows, or of none if they are not known.
            mtimes: likewise, in nanoseconds.
        """
        self._ids, self._sizes, self._mtimes = ids, sizes, mtimes

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Item]: ...
    def __getitem__(self, row: int | slice) -> Item | Sequence[Item]:
        if isinstance(row, slice):
            return ItemTable(self._ids[row], self._sizes[row], self._mtimes[row])
        return Item(
            self._ids[row],
            self._sizes[row] if self._sizes else -1,
            self._mtimes[row] if self._mtimes else 0,
        )

    def __iter__(self) -> Iterator[Item]:
        return map(Item, *self.fields())

    def fields(self) -> Fields:
        """The fields of all items."""
        count = len(self._ids)
        sizes = self._sizes or array("q", [-1]) * count
        return Fields(self._ids, sizes, self._mtimes or array("q", [0]) * count)


class FileItems(Items):
    """Files, each an image."""

    def __init__(self, paths: Sequence[str], ids: Sequence[str]) -> None:
        self._paths = paths
        sizes, mtimes = array("q"), array("q")
        for path in paths:
            try:
                status = os.stat(path)
                size, mtime = status.st_size, status.st_mtime_ns
            except (OSError, ValueError):
                size, mtime = -1, 0
            sizes.append(size)
            mtimes.append(mtime)
        self.items = ItemTable(ids, sizes, mtimes)

    def path(self, row: int) -> str:
        """The file of a row."""
        return self._paths[row]

    def read(self, row: int) -> Data:
        """The bytes of the file."""
        content = file_bytes(self._paths[row])
        return Data(content, self.sha256(content))


def file_bytes(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        ImageError: it cannot be read; the message is the reason alone.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_BYTES:
                raise ImageError(too_large(size))
            return file.read()
    except ImageError:
        raise
    except FileNotFoundError as exc:
        raise ImageError("there is no such file.") from exc
    except (OSError, ValueError, MemoryError) as exc:
        if os.path.isdir(path):
            raise ImageError("this is a folder, not an image.") from exc
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        raise ImageError(f"it cannot be read ({reason}).") from exc


def too_large(size: int) -> str:
    """The reason why something of `size` bytes is not read."""
    return f"it has {size / 1e9:.1f} GB, and files of up to {MOST_BYTES / 1e9:.1f} GB are read."


class JoinedItems(Items):
    """Several lists, one after another."""

    def __init__(self, parts: Sequence[Items]) -> None:
        self._parts = parts
        self._starts = [0, *accumulate(len(part.items) for part in parts)]
        self.items = _JoinedTable([part.items for part in parts], self._starts)
        self.ready = parts[0].ready

    def part(self, row: int) -> tuple[Items, int]:
        """The list that a row belongs to, and its row there."""
        at = bisect_right(self._starts, row) - 1
        return self._parts[at], row - self._starts[at]

    def read(self, row: int) -> Data:
        """The data of one row of one of the lists."""
        part, at = self.part(row)
        return part.read(at)

    def path(self, row: int) -> str | None:
        """The file of a row of one of the lists, if it is one."""
        part, at = self.part(row)
        return part.path(at)

    def hashing(self, digest: bool) -> None:
        """Say whether `read` computes hashes."""
        self.digest = digest
        for part in self._parts:
            part.hashing(digest)

    def close(self) -> None:
        """Close all lists."""
        for part in self._parts:
            part.close()


class _JoinedTable(Sequence[Item]):
    """The rows of several lists."""

    def __init__(self, parts: Sequence[Sequence[Item]], starts: Sequence[int]) -> None:
        self._parts, self._starts = parts, starts

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Item]: ...
    def __getitem__(self, row: int | slice) -> Item | Sequence[Item]:
        if isinstance(row, slice):
            return [self[at] for at in range(*row.indices(len(self)))]
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(row)
        at = bisect_right(self._starts, row) - 1
        return self._parts[at][row - self._starts[at]]

    def __iter__(self) -> Iterator[Item]:
        for part in self._parts:
            yield from part
