"""items.tsv: the frozen list of items, one line each, `id <tab> bytes <tab> mtime_ns`.

Names of files may hold anything, also line breaks and bytes that are not UTF-8. In an id, these are
written as in a Python string: the backslash (`\\\\`), tab, line feed and carriage return (`\\t`,
`\\n`, `\\r`), other control characters (`\\x1b`), invisible ones that change lines or the direction
of writing, and surrogates (`\\u2028`, `\\udc80`). The set is fixed: no
version of Unicode changes it.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Container, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from layertap.errors import CollectionError, UsageError

from .disk import reading
from .items import Item, fields_of

SPECIAL = re.compile(
    "[\\\\\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_SHORT = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_LONG = {value: key for key, value in _SHORT.items()}
_ESCAPE = re.compile(r"\\(?:[\\tnr]|x[0-9a-f]{2}|u[0-9a-f]{4})|(\\)")


def escaped(text: str) -> str:
    """An id as it is written."""
    return SPECIAL.sub(_escape, text) if SPECIAL.search(text) else text


def _escape(found: re.Match[str]) -> str:
    one = found[0]
    number = ord(one)
    return _SHORT.get(one) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")


def unescaped(text: str) -> str:
    """An id from its written form.

    Raises:
        ValueError: a backslash has no meaning there.
    """

    def plain(found: re.Match[str]) -> str:
        if found[1]:
            raise ValueError("a backslash without meaning")
        return _LONG.get(found[0]) or chr(int(found[0][2:], 16))

    return _ESCAPE.sub(plain, text) if "\\" in text else text


def _written(ids: Sequence[str]) -> list[str]:
    """All ids in their written form; a list without special characters is searched once."""
    joined = "".join(ids)
    # No special character but the backslash is printable.
    plain = joined.isprintable() and "\\" not in joined
    return list(ids) if plain else list(map(escaped, ids))


def _ended(lines: Sequence[str]) -> bytes:
    return "".join(("\n".join(lines), "\n" if lines else "")).encode()


def digest(items: Sequence[Item]) -> str:
    """The SHA-256 of ids and sizes, which is part of the identity.

    It is that of all ids as they are written, each followed by a line feed, and then all sizes in
    decimal digits, each followed by a line feed.
    """
    fields = fields_of(items)
    data = _ended(_written(fields.ids))
    data += _ended([*map(str, fields.sizes)])
    return hashlib.sha256(data).hexdigest()


def digest_of_times(items: Sequence[Item]) -> str:
    """The SHA-256 of the times of modification, likewise."""
    return hashlib.sha256(_ended([*map(str, fields_of(items).mtimes)])).hexdigest()


def written(items: Sequence[Item]) -> Iterator[bytes]:
    """The file, in pieces."""
    step = 10_000
    for start in range(0, len(items), step):
        part = items[start : start + step]
        ids, sizes, mtimes = fields_of(part)
        lines = (
            f"{text}\t{size}\t{mtime}\n"
            for text, size, mtime in zip(_written(ids), sizes, mtimes, strict=True)
        )
        yield "".join(lines).encode()


def check_unique(items: Sequence[Item]) -> None:
    """
    Raises:
        UsageError: two items have the same id.
    """
    ids = fields_of(items).ids
    if len(set(ids)) == len(ids):
        return
    seen: dict[str, int] = {}
    for row, text in enumerate(ids):
        if text in seen:
            raise UsageError(
                f"the items {seen[text]} and {row} have the same id, {text!r}. Each needs an id of "
                "its own, by which its row can be found."
            )
        seen[text] = row


class ItemList(Sequence[str]):
    """The ids of a collection, which are read from the file as they are accessed.

    `ids[3]` is a text; a slice, a mask or a list of rows gives a list. The file is opened, and its
    lines are counted, on first use.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self._path, self._rows = path, rows
        self._opened: tuple[bytes | mmap.mmap, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: Any) -> Any: ...
    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, (int, np.integer)):
            return self.item(range(self._rows)[at]).id
        return [self.item(int(row)).id for row in np.arange(self._rows)[at].ravel()]

    def __iter__(self) -> Iterator[str]:
        return (item.id for item in self.items())

    def __repr__(self) -> str:
        shown = [*self[:3]] if self._rows > 4 else [*self]
        dots = ", ..." if self._rows > 4 else ""
        return f"<{self._rows:,} ids: {', '.join(map(repr, shown))}{dots}>"

    def item(self, row: int) -> Item:
        """One row of the list.

        Raises:
            CollectionError: the file is damaged.
        """
        data, ends = self._file()
        start = int(ends[row - 1]) + 1 if row else 0
        return self._parsed(bytes(data[start : int(ends[row])]), row)

    def items(self) -> Iterator[Item]:
        """All rows of the list.

        Raises:
            CollectionError: the file is damaged.
        """
        data, ends = self._file()
        start = 0
        for row, end in enumerate(ends.tolist()):
            yield self._parsed(bytes(data[start:end]), row)
            start = end + 1

    def written(self) -> list[str]:
        """The ids of all rows as they are written.

        Raises:
            CollectionError: the file is damaged.
        """
        data, _ = self._file()
        try:
            return [line.partition("\t")[0] for line in bytes(data).decode().split("\n")[:-1]]
        except ValueError as exc:
            raise self._damaged("it is not UTF-8") from exc

    def _parsed(self, line: bytes, row: int) -> Item:
        try:
            text, size, time = line.decode().split("\t")
            return Item(unescaped(text), int(size), int(time))
        except ValueError as exc:
            raise self._damaged(f"line {row + 1} is not an item") from exc

    def _file(self) -> tuple[bytes | mmap.mmap, NDArray[np.int64]]:
        """The data, and where each line ends."""
        if self._opened is None:
            data = _mapped(self._path)
            step = 1 << 24
            found = [
                np.flatnonzero(np.frombuffer(data, np.uint8, min(step, len(data) - at), at) == 10)
                + at
                for at in range(0, len(data), step)
            ]
            ends = np.concatenate(found) if found else np.empty(0, np.int64)
            if len(ends) != self._rows:
                raise self._damaged(f"it has {len(ends)} lines, not {self._rows}")
            self._opened = data, ends
        return self._opened

    def _damaged(self, reason: str) -> CollectionError:
        return CollectionError(
            f"{str(self._path)!r} is damaged: {reason}. Restore it from a copy, or extract again "
            "into another folder."
        )


class Known(Container[str]):
    """Which ids a collection has; the list is read when that is asked for first."""

    def __init__(self, ids: ItemList) -> None:
        self._ids = ids

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and escaped(text) in self._written

    @cached_property
    def _written(self) -> frozenset[str]:
        return frozenset(self._ids.written())


def _mapped(path: Path) -> bytes | mmap.mmap:
    try:
        with reading(path) as file:
            size = file.seek(0, 2)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except FileNotFoundError as exc:
        raise CollectionError(f"cannot read {str(path)!r}: {exc.strerror}.") from exc


def file_digest(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        CollectionError: it cannot be read.
    """
    return hashlib.sha256(_mapped(path)).hexdigest()
