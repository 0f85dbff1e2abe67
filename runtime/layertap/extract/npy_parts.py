"""The arrays of a collection as `.npy` files: one folder for each column, one file for each shard.

A part has its full size from the beginning. Rows that are not computed yet are zeros, which take no
space on most file systems.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import CollectionError

from .columns import Column
from .disk import File, make_folder, new_folder, reading, replace_file
from .layout import HEADER, Grid, Place, as_bytes, header, little, row_bytes


class NpyParts:
    """The parts of one shard, open for writing."""

    def __init__(
        self, place: Place, columns: Sequence[Column], grid: Grid, shard: int, fresh: bool
    ) -> None:
        """Open the parts; make those that are missing.

        Args:
            place: the collection.
            columns: with the folders that they have in it.
            grid: which rows are where.
            shard: its index.
            fresh: whether no row has been written yet.

        Raises:
            CollectionError: a part with rows is missing, or has another size.
            OSError: a part cannot be written.
        """
        self._rows = grid.rows_of(shard)
        self._bytes = {column.key: row_bytes(column) for column in columns}
        self._files: dict[str, File] = {}
        try:
            for column in columns:
                path = place.part(column.folder, shard)
                size = HEADER + len(self._rows) * self._bytes[column.key]
                if fresh and not (path.exists() and path.stat().st_size == size):
                    make_folder(path.parent)
                    shape = (len(self._rows), *column.shape)
                    replace_file(path, [header(little(column.dtype), shape)], size=size)
                self._files[column.key] = _opened(path, size)
        except BaseException:
            self.close()
            raise

    def write(self, key: str, first: int, block: NDArray[Any]) -> None:
        """Write the rows of a chunk.

        Args:
            key: of the column.
            first: the row of the whole list.
            block: contiguous, with the dtype of the file.
        """
        at = HEADER + (first - self._rows.start) * self._bytes[key]
        self._files[key].write(as_bytes(block), at)

    def synchronize(self) -> None:
        """Bring all rows to the disk.

        Raises:
            CollectionError: a file is not there any more.
        """
        for file in self._files.values():
            file.synchronize()
            file.check_name()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def make_folders(root: Path, columns: Sequence[Column]) -> None:
    """The folders of the columns, in a new collection."""
    for column in columns:
        new_folder(root / column.folder)


def _opened(path: Path, size: int) -> File:
    try:
        file = File(path)
    except FileNotFoundError as exc:
        raise _missing(path) from exc
    if file.size() != size:
        found = file.size()
        file.close()
        raise CollectionError(
            f"{str(path)!r} is damaged: it has {found} bytes, not {size}. Restore it from a copy, "
            "or overwrite the collection."
        )
    return file


def _missing(path: Path) -> CollectionError:
    return CollectionError(
        f"{str(path)!r} is missing, but the journal says that it has rows. Restore it from a copy, "
        "or overwrite the collection."
    )


def read_part(place: Place, column: Column, grid: Grid, shard: int) -> NDArray[Any] | None:
    """The rows of a shard, as a read-only memmap; `None` if there is no such file.

    Raises:
        CollectionError: it is damaged.
    """
    path = place.part(column.folder, shard)
    shape, dtype = (len(grid.rows_of(shard)), *column.shape), little(column.dtype)
    try:
        with reading(path) as file:
            begins = file.read(HEADER)
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        return None
    if begins != header(dtype, shape) or size != HEADER + shape[0] * row_bytes(column):
        raise CollectionError(
            f"{str(path)!r} is damaged: its header or size is not that of {shape} in {dtype}. "
            "Restore it from a copy, or extract again into another folder."
        )
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", HEADER, shape)
