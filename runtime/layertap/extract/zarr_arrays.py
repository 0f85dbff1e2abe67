"""The arrays of a collection as a zarr v3 store: an array for each column, a file for each chunk.

zarr encodes the chunks and describes the arrays, in memory; the files are written here, so that
they are on the disk before the journal says so. A chunk file is whole or missing. Rows of missing
chunks read as NaN, or 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from layertap.errors import CollectionError, DependencyError, install_hint

from .columns import Column, fill_of
from .disk import new_folder, rename_later, synchronize_folder, write_file
from .layout import ZARR_HOME, Grid, Place, little


class ZarrArrays:
    """The arrays of a collection, open for writing the chunks of one shard."""

    def __init__(self, place: Place, columns: Sequence[Column], grid: Grid) -> None:
        """
        Raises:
            DependencyError: zarr is not installed.
        """
        self._place, self._grid = place, grid
        self._arrays = {}
        self._folders = {column.key: place.root / column.folder for column in columns}
        for column in columns:
            values: dict[str, Any] = {}
            self._arrays[column.key] = _array(values, column, grid), values

    def write(self, key: str, first: int, block: NDArray[Any]) -> None:
        """Write a chunk; its name is not on the disk until `synchronize`.

        Args:
            key: of the column.
            first: the row of the whole list.
            block: the rows.
        """
        array, values = self._arrays[key]
        for name in [name for name in values if not name.endswith("zarr.json")]:
            del values[name]
        array[first : first + len(block)] = block
        for name, value in values.items():
            if not name.endswith("zarr.json"):
                path = self._folders[key] / name.rpartition("/")[2]
                part = path.with_name(f".{path.name}.part")
                write_file(part, [value.to_bytes()])
                rename_later(part, path)

    def synchronize(self) -> None:
        """Bring the names of all chunks to the disk."""
        for folder in self._folders.values():
            synchronize_folder(folder)

    def close(self) -> None:
        """There is nothing to close."""


def make_store(root: Path, columns: Sequence[Column], grid: Grid) -> None:
    """The group and the arrays, without chunks, in a new collection."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    new_folder(root / ZARR_HOME)
    for folder in (root, root / ZARR_HOME):
        write_file(folder / "zarr.json", [json.dumps(group, indent=2).encode()])
    for column in columns:
        values: dict[str, Any] = {}
        _array(values, column, grid)
        new_folder(root / column.folder)
        (described,) = (value for name, value in values.items() if name.endswith("zarr.json"))
        write_file(root / column.folder / "zarr.json", [described.to_bytes()])


def _array(values: dict[str, Any], column: Column, grid: Grid) -> Any:
    """An array of zarr whose files are the items of a dict."""
    zarr = _zarr()
    dtype = little(column.dtype)
    return zarr.create_array(
        zarr.storage.MemoryStore(values),
        shape=(grid.rows, *column.shape),
        chunks=(grid.chunk, *(max(1, size) for size in column.shape)),
        dtype=dtype,
        fill_value=fill_of(dtype),
        compressors=None,
        filters=None,
        dimension_names=("item", *column.dims),
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"layertap": dict(column.asked)},
        config={"write_empty_chunks": True},
    )


def open_array(place: Place, column: Column) -> Any:
    """The array of zarr, to read.

    Raises:
        DependencyError: zarr is not installed.
        CollectionError: it cannot be opened.
    """
    zarr = _zarr()
    try:
        return zarr.open_array(str(place.root / column.folder), mode="r")
    except Exception as exc:  # zarr has no common error
        raise CollectionError(
            f"{str(place.root / column.folder)!r} cannot be opened by zarr: {exc}."
        ) from exc


def _zarr() -> Any:
    try:
        import zarr
        import zarr.storage
    except ImportError as exc:
        hint = install_hint("zarr")
        raise DependencyError(f"a collection in .zarr needs the package zarr: {hint}.") from exc
    if int(zarr.__version__.split(".")[0]) < 3:
        raise DependencyError(
            f"a collection in .zarr needs zarr 3 or newer, got {zarr.__version__}: "
            f"{install_hint('zarr')}."
        )
    return zarr
