"""How a collection lies on the disk: names, rows and shards, `.npy` headers, canonical JSON.

docs/collections.md describes the same for people who read or write collections without layertap.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap.errors import UsageError
from layertap.format.file_names import clash_key

from .columns import Column
from .workers import Chunk

IDENTITY, ITEMS, JOURNAL = "extract.json", "items.tsv", "journal"
MANIFEST, OK, SUMMARY = "manifest.csv", "ok.npy", "summary.json"
ZARR_HOME = "layertap"
"""The folder in a zarr store that holds what is not an array."""
MOST_SHARDS = 1_000_000
"""Of one collection."""

RESERVED = {IDENTITY, ITEMS, JOURNAL, MANIFEST, OK, SUMMARY, ZARR_HOME, "zarr.json"}

HEADER = 4096
"""Bytes before the first row of a part: rows are at a multiple of a page."""


class Place(NamedTuple):
    """Where a collection is."""

    root: Path
    """The folder, in which the arrays are."""
    zarr: bool
    """Whether the arrays are a zarr store."""

    @property
    def home(self) -> Path:
        """The folder of everything else."""
        return self.root / ZARR_HOME if self.zarr else self.root

    def journal(self, shard: int) -> Path:
        """The journal of a shard."""
        return self.home / JOURNAL / f"{shard:05d}.jsonl"

    def part(self, folder: str, shard: int) -> Path:
        """The array of a column for one shard."""
        return self.root / folder / f"{shard:05d}.npy"


def place(folder: str | os.PathLike[str]) -> Place:
    """The place of a collection, which is there or will be; links are followed.

    It is a zarr store if it was written as one, or else, if its name ends in `.zarr`.

    Raises:
        UsageError: it is no path.
    """
    if not isinstance(folder, (str, os.PathLike)) or isinstance(os.fspath(folder), bytes):
        raise UsageError(f"the folder of a collection must be text or a Path, got {folder!r}.")
    if not os.fspath(folder) or "\0" in os.fspath(folder):
        raise UsageError(f"the folder of a collection must have a name, got {folder!r}.")
    root = Path(os.path.realpath(folder))
    if (root / IDENTITY).exists():
        return Place(root, False)
    zarr = root.suffix.lower() == ".zarr" or (root / ZARR_HOME / IDENTITY).exists()
    return Place(root, zarr)


class Grid(NamedTuple):
    """Which rows belong to which chunk and shard.

    Shards are contiguous: shard k of s has the chunks from c * k // s on, of c chunks.
    """

    rows: int
    chunk: int
    shards: int

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.rows // self.chunk)

    def of_shard(self, shard: int) -> range:
        """The numbers of the chunks of a shard."""
        first, end = (self.chunks * at // self.shards for at in (shard, shard + 1))
        return range(first, end)

    def rows_of(self, shard: int) -> range:
        """The rows of a shard."""
        numbers = self.of_shard(shard)
        return range(*(min(self.rows, at * self.chunk) for at in (numbers.start, numbers.stop)))

    def count(self, numbers: Collection[int]) -> int:
        """How many rows some chunks have."""
        last = self.chunks - 1
        return len(numbers) * self.chunk - (self.chunks * self.chunk - self.rows) * (
            last in numbers
        )

    def at(self, number: int) -> Chunk:
        """A chunk by its number."""
        first = number * self.chunk
        return Chunk(number, first, min(self.chunk, self.rows - first))

    def parts(self) -> Iterator[tuple[int, range]]:
        """The shards that have rows, with their rows."""
        for shard in range(self.shards):
            if self.rows_of(shard):
                yield shard, self.rows_of(shard)


def canonical(value: Any) -> bytes:
    """JSON as the identity and the journal have it: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: a number is not finite.
        TypeError: something is not JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def readable(value: Any) -> bytes:
    """JSON for people, in a form that depends on the value only."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False).encode() + b"\n"


def folders(columns: Sequence[Column]) -> dict[str, str]:
    """The folder of each column, by key: `Column.folder`, with `_` behind a name that is taken."""
    taken = {clash_key(name) for name in RESERVED}
    taken |= {clash_key(column.folder) for column in columns} - taken
    found: dict[str, str] = {}
    for column in columns:
        name = column.folder
        if clash_key(name) in {clash_key(one) for one in RESERVED}:
            while clash_key(name) in taken:
                name += "_"
            taken.add(clash_key(name))
        found[column.key] = name
    return found


def little(dtype: str) -> np.dtype[Any]:
    """The dtype as it is stored, least significant byte first.

    Raises:
        UsageError: its values have no fixed size, or are no numbers.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found.kind not in "biufc":
        raise UsageError(f"a collection holds numbers, not {dtype}.")
    stored: np.dtype[Any] = found.newbyteorder("<")
    return stored


def header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header of a `.npy` file, version 1.0, padded to 4096 bytes."""
    fields = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    text = "".join(("{", *(f"'{name}': {value!r}, " for name, value in fields.items()), "}"))
    length = HEADER - 10
    return (
        b"\x93NUMPY\x01\x00"
        + length.to_bytes(2, "little")
        + text.encode().ljust(length - 1)
        + b"\n"
    )


def row_bytes(column: Column) -> int:
    """The bytes of one row."""
    return int(np.prod(column.shape, dtype=np.int64)) * little(column.dtype).itemsize


def as_bytes(block: NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    return block.reshape(-1).view(np.uint8).data


def spread(rows: Sequence[int], count: int) -> list[int]:
    """Up to `count` of the rows, at equal distances."""
    if len(rows) <= count:
        return list(rows)
    return [rows[(2 * at + 1) * len(rows) // (2 * count)] for at in range(count)]
