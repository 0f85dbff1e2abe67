"""Collections of made-up rows, which need no model: each row comes from a seed of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.extract.columns import Column
from layertap.extract.identity import Identity, identity_of
from layertap.extract.items import Item
from layertap.extract.workers import Chunk, Finished
from layertap.extract.writer import Writer

COLUMNS = (
    Column("bn", "bn", {"layer": "bn", "reduction": "mean"}, "float16", (5,), ("channel",)),
    Column("maps", "maps", {"layer": "maps"}, "float32", (2, 3), ("height", "width")),
    Column("top", "top", {"layer": "top"}, "int64", (), ()),
)

FAILING = 7
"""Every so manieth row fails."""


def items_of(rows: int) -> list[Item]:
    return [Item(f"images/{row}.png", 1000 + row, row * 10**9) for row in range(rows)]


def identity(rows: int, chunk: int, shards: int = 1, **changed: Any) -> Identity:
    given: dict[str, Any] = {
        "items": items_of(rows),
        "columns": COLUMNS,
        "model": "0" * 64,
        "preprocess": {"size": [8, 8]},
        "chunk": chunk,
        "batch": 1,
        "shards": shards,
    }
    given.update(changed)
    return identity_of(given.pop("items"), given.pop("columns"), **given)


def row_of(column: Column, row: int) -> NDArray[Any]:
    seed = int.from_bytes(hashlib.sha256(f"{column.key} {row}".encode()).digest()[:4], "little")
    drawn = np.random.default_rng(seed).standard_normal(column.shape) * 100
    return np.asarray(drawn).astype(column.dtype)


def finished(chunk: Chunk, columns: Sequence[Column] = COLUMNS, failing: int = FAILING) -> Finished:
    rows = range(chunk.first, chunk.first + chunk.count)
    blocks = {column.key: np.stack([row_of(column, row) for row in rows]) for column in columns}
    failed = {row: f"row {row} is broken" for row in rows if row % failing == failing - 1}
    hashes = tuple(hashlib.sha256(str(row).encode()).hexdigest() for row in rows)
    nonfinite = {column.key: int(column.key == "bn" and chunk.number == 1) for column in columns}
    return Finished(chunk, blocks, hashes, failed, nonfinite)


def expected(column: Column, rows: int, failing: int = FAILING) -> NDArray[Any]:
    """The whole array."""
    found = np.stack([row_of(column, row) for row in range(rows)])
    fill = np.nan if found.dtype.kind == "f" else 0
    found[failing - 1 :: failing] = fill
    return found


def extract(
    folder: Path, rows: int, chunk: int, shard: tuple[int, int] = (0, 1), **options: Any
) -> None:
    """What `extract` does: continues until everything is done."""
    asked = identity(rows, chunk, shard[1])
    with Writer.open(folder, asked, items_of(rows), COLUMNS, shard=shard, **options) as writer:
        for one in writer.todo():
            writer.write(finished(one))
        writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return dict(_files(folder))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


class System:
    """The module `os`, for `layertap.extract.disk`, which does not wait for the disk.

    Subclasses let operations fail, or record them.
    """

    mounted = False
    """Whether folders cannot be made next to the collection."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def access(self, path: Any, mode: int) -> bool:
        return not self.mounted and os.access(path, mode)

    def fsync(self, descriptor: int) -> None:
        os.fstat(descriptor)

    fdatasync = fsync
