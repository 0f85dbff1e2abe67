"""Reads a collection that `extract` has written, finished or not."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._public import public
from layertap.errors import CollectionError, LayerNotFoundError, OutputError, suggest
from layertap.format.text import Readable, aligned, number_of, printable, shape_text

from .columns import Column
from .disk import reading
from .identity import Stored, read_identity
from .item_list import ItemList, file_digest
from .journal import Record, Summary, records, summary_of
from .layout import ITEMS, OK, RESERVED, SUMMARY, Place, as_bytes, header, little, place, row_bytes
from .npy_parts import read_part
from .rows import Rows
from .zarr_arrays import open_array


@public
def features(path: str | os.PathLike[str]) -> Features:
    """Open a collection of features: what `layertap extract` and `Model.extract` have written.

    Args:
        path: the folder, or the zarr store. It may be unfinished, or still be written to.

    Raises:
        CollectionError: it is no collection, it is damaged, or a newer layertap wrote it.
    """
    return Features(path)


class Damage(NamedTuple):
    """Rows that are not as they were written."""

    key: str
    """The column."""
    first: int
    """The first row."""
    rows: int
    """The number of rows."""


class Verification(NamedTuple):
    """The result of `Features.verify`."""

    rows: int
    """Rows that were compared."""
    missing: int
    """Rows that are not finished."""
    damaged: tuple[Damage, ...]
    """Rows that are not as they were written."""
    problems: tuple[str, ...]
    """What else is wrong."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; unfinished rows are not."""
        return not self.damaged and not self.problems

    def __str__(self) -> str:
        words = [
            f"{one.key}: rows {one.first} to {one.first + one.rows - 1} are damaged"
            if one.rows > 1
            else f"{one.key}: row {one.first} is damaged"
            for one in self.damaged
        ]
        words += self.problems
        if self.missing:
            words.append(f"{number_of(self.missing, 'row')} not finished")
        if self.ok:
            words.insert(0, f"{number_of(self.rows, 'row')} as written")
        return printable("; ".join(words))


@public
class Features(Readable):
    """A collection: an array for each layer, whose row i belongs to item i.

    `features["bn"]` is an array on the disk, `(rows, ...)`; `features.ok` says which of its rows
    hold values. Rows of items that failed are NaN, or 0 where a dtype has no NaN; rows that are not
    computed yet have any values. Like a data frame, it has as many elements as rows, and iterates
    over the names of its columns.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """
        Raises:
            CollectionError: see `features`.
        """
        self._place: Place = place(path)
        self.path = Path(path)
        """The folder."""
        self.identity: Stored = read_identity(self._place)
        """What was requested, and what it was computed with."""
        self.columns: tuple[Column, ...] = self.identity.columns
        """What was computed, in order."""
        self._grid = self.identity.grid
        self.ids = ItemList(self._place.home / ITEMS, self._grid.rows)
        """The ids of the items, a sequence of texts, which are read as they are accessed."""
        self._arrays: dict[str, Any] = {}

    def __len__(self) -> int:
        return self._grid.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def keys(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.key for column in self.columns)

    def column(self, key: str) -> Column:
        """A column by its name.

        Raises:
            LayerNotFoundError: there is none of this name.
        """
        for column in self.columns:
            if column.key == key:
                return column
        hint = suggest(key, self.keys()) if isinstance(key, str) else ""
        known = ", ".join(map(repr, self.keys()[:10]))
        raise LayerNotFoundError(f"no column is called {key!r}; there are {known}.{hint}")

    def __getitem__(self, key: str) -> Any:
        """The rows of a column, `(rows, ...)`.

        A `numpy.memmap`, or, where the rows are in several files or in a zarr store, an object that
        is indexed like one and read by `numpy.asarray`.

        Raises:
            LayerNotFoundError: there is no column of this name.
            CollectionError: a file is damaged.
        """
        column = self.column(key)
        if key not in self._arrays:
            self._arrays[key] = self._opened(column)
        return self._arrays[key]

    def _opened(self, column: Column) -> Any:
        grid, dtype = self._grid, little(column.dtype)
        shape = (grid.rows, *column.shape)
        parts: list[tuple[range, Any]]
        if self._place.zarr:
            parts = [(range(grid.rows), open_array(self._place, column))]
        else:
            parts = [
                (rows, read_part(self._place, column, grid, shard)) for shard, rows in grid.parts()
            ]
            if len(parts) == 1 and parts[0][1] is not None:
                return parts[0][1]
        return Rows(parts, shape, dtype)

    @cached_property
    def complete(self) -> bool:
        """Whether every row is finished, failed ones included."""
        if self._summary is not None:
            return True
        return self.done_rows == len(self)

    @cached_property
    def done_rows(self) -> int:
        """How many rows are finished, failed ones included."""
        if self._summary is not None:
            return len(self)
        return sum(self._grid.count(one.places) for one in self._journals.values())

    @cached_property
    def ok(self) -> NDArray[np.bool_]:
        """Which rows hold values, `(rows,)`: they are finished and did not fail."""
        if self._summary is not None:
            found = self._stored_ok()
            if found is not None:
                return found
        ok = np.zeros(len(self), np.bool_)
        for one in self._journals.values():
            for number in one.places:
                chunk = self._grid.at(number)
                ok[chunk.first : chunk.first + chunk.count] = True
        ok[list(self.errors)] = False
        return ok

    @cached_property
    def errors(self) -> Mapping[int, str]:
        """Why rows failed: reasons in one line, by row."""
        if self._summary is not None and not self._summary["failed"]:
            return {}
        return {row: text for one in self._journals.values() for row, text in one.failed.items()}

    @cached_property
    def nonfinite(self) -> Mapping[str, int]:
        """By column, how many values of good rows are not finite; columns without any are left
        out."""
        if self._summary is not None:
            found: Mapping[str, int] = self._summary["nonfinite"]
            return found
        total: dict[str, int] = {}
        for one in self._journals.values():
            for key, count in one.nonfinite.items():
                total[key] = total.get(key, 0) + count
        return total

    @cached_property
    def failed_rows(self) -> int:
        """How many rows failed."""
        return self._summary["failed"] if self._summary is not None else len(self.errors)

    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes."""
        return len(self) * sum(map(row_bytes, self.columns))

    @cached_property
    def _summary(self) -> dict[str, Any] | None:
        """summary.json; `None` if the collection is not finished, or the file is damaged."""
        try:
            with reading(self._place.home / SUMMARY) as file:
                found = json.loads(file.read())
            fits = found["identity"] == self.identity.sha256 and found["rows"] == len(self)
            plain = isinstance(found["failed"], int) and isinstance(found["nonfinite"], dict)
            return found if fits and plain else None
        except (OSError, CollectionError, ValueError, KeyError, TypeError):
            return None

    def _stored_ok(self) -> NDArray[np.bool_] | None:
        expected = header(np.dtype(np.bool_), (len(self),))
        try:
            with reading(self._place.home / OK) as file:
                data = file.read()
        except (OSError, CollectionError):
            return None
        if data[: len(expected)] != expected or len(data) != len(expected) + len(self):
            return None
        flags = np.frombuffer(data, np.uint8, offset=len(expected))
        return None if (flags > 1).any() else flags.view(np.bool_)

    @cached_property
    def _journals(self) -> dict[int, Summary]:
        """What the journals say, by shard."""
        return {
            shard: summary_of(self._place.journal(shard), self._grid.of_shard(shard), self._grid)
            for shard, _ in self._grid.parts()
        }

    def records(self, only: int | None = None) -> Iterator[Record]:
        """What the journals say of the finished chunks, in order, one in memory at a time.

        Args:
            only: a shard by its index; all of them if it is left out.
        """
        for shard, summary in self._journals.items():
            if only in (None, shard):
                numbers = self._grid.of_shard(shard)
                yield from records(self._place.journal(shard), numbers, self._grid, summary)

    def block(self, key: str, record: Record) -> NDArray[Any] | None:
        """The rows of a chunk; `None` if they are not those that were written.

        Raises:
            CollectionError: a file is missing, or has another size.
        """
        chunk, rows = record.chunk, self[key]
        try:
            found = np.ascontiguousarray(rows[chunk.first : chunk.first + chunk.count])
        except Exception:  # zarr has no common error for files that are cut off
            if self._place.zarr:
                return None
            raise
        return found if zlib.crc32(as_bytes(found)) == record.crc.get(key) else None

    def hashes(self) -> Iterator[str]:
        """The SHA-256 of what was read for each row, in order; "" where nothing was."""
        row = 0
        for record in self.records():
            yield from [""] * (record.chunk.first - row)
            yield from record.sha256 or [""] * record.chunk.count
            row = record.chunk.first + record.chunk.count
        yield from [""] * (len(self) - row)

    def done_in(self, shard: int) -> int:
        """How many rows of a shard are finished, failed ones included."""
        return self._grid.count(self._journals[shard].places)

    def table(self, columns: str | Sequence[str] | None = None) -> Any:
        """The vectors as a table: a `pandas.DataFrame`, or a `pyarrow.Table` without pandas.

        Its columns are `row`, `id`, `ok`, `sha256` (of the bytes that were read), `error` ("" where
        there is none), and one for each layer, which holds an array `(channels,)` in each row. Rows
        without values hold NaN, or 0 where a dtype has no NaN.

        Args:
            columns: the layers; all of them if it is left out.

        Raises:
            UsageError: a layer has maps, which no table holds.
            DependencyError: neither pandas nor pyarrow is installed.
        """
        from .tables import table

        return table(self, columns)

    def to_parquet(
        self, path: str | os.PathLike[str], columns: str | Sequence[str] | None = None
    ) -> None:
        """Write `table` to a Parquet file, with vectors as lists of a fixed size.

        Args:
            path: the file.
            columns: the layers; all of them if it is left out.

        Raises:
            UsageError: a layer has maps.
            DependencyError: pyarrow is not installed.
            OutputError: the file cannot be written.
        """
        from .tables import to_parquet

        self._check_apart(path)
        to_parquet(self, path, columns)

    def to_csv(
        self, path: str | os.PathLike[str], columns: str | Sequence[str] | None = None
    ) -> None:
        """Write `table` to a CSV file; the vectors of `bn` are in columns `bn.0`, `bn.1`, ...

        Args:
            path: the file.
            columns: the layers; all of them if it is left out.

        Raises:
            UsageError: a layer has maps.
            OutputError: the file cannot be written.
        """
        from .tables import to_csv

        self._check_apart(path)
        to_csv(self, path, columns)

    def to_tsv(self, folder: str | os.PathLike[str], column: str | None = None) -> None:
        """Write `vectors.tsv` and `metadata.tsv`, which the Embedding Projector reads.

        Rows without values are left out; the metadata say the row and id of each line.

        Args:
            folder: where they are written.
            column: the layer; it may be left out if there is only one.

        Raises:
            UsageError: the layer has maps, or there are several layers.
            OutputError: the files cannot be written.
        """
        from .tables import to_tsv

        self._check_apart(folder)
        to_tsv(self, folder, column)

    def _check_apart(self, path: str | os.PathLike[str]) -> None:
        """
        Raises:
            OutputError: it is a place where the collection has files.
        """
        if isinstance(path, (str, os.PathLike)) and not isinstance(os.fspath(path), bytes):
            target, root = Path(os.path.realpath(path)), self._place.root
            if root in target.parents:
                first = target.relative_to(root).parts[0]
                if first in RESERVED | {column.folder for column in self.columns}:
                    raise OutputError(
                        f"cannot write {os.fspath(path)!r}: the collection has files of its own "
                        "there. Give another name."
                    )

    def verify(self) -> Verification:
        """Read everything, and compare it with the checksums of what was written.

        Raises:
            CollectionError: a file is missing, or has another size.
        """
        problems = []
        if file_digest(self._place.home / ITEMS) != self.identity.content["items"]["sha256"]:
            problems.append(f"{ITEMS} is not as it was written")
        rows = 0
        damaged: list[Damage] = []
        for record in self.records():
            chunk = record.chunk
            rows += chunk.count
            damaged += [
                Damage(key, chunk.first, chunk.count)
                for key in self
                if self.block(key, record) is None
            ]
        if self._summary is not None:
            if rows != len(self):
                problems.append(f"the journals lack {number_of(len(self) - rows, 'row')}")
            fresh = Features(self._place.root)
            fresh.__dict__["_summary"] = None
            if not np.array_equal(fresh.ok, self.ok):
                problems.append(f"{OK} is not what the journals say")
        order = {key: at for at, key in enumerate(self.keys())}
        damaged.sort(key=lambda one: (order[one.key], one.first))
        return Verification(rows, len(self) - rows, tuple(_joined(damaged)), tuple(problems))

    def __str__(self) -> str:
        done = "" if self.complete else f"{self.done_rows:,} of "
        failed = f", {self.failed_rows:,} failed" if self.failed_rows else ""
        sizes = f"{self.nbytes / 1e6:,.1f} MB"
        title = f"{str(self.path)!r}: {done}{len(self):,} rows{failed}, {sizes}"
        table = [("layer", "row", "dtype", "MB", "not finite")]
        table += [
            (
                column.key,
                shape_text(column.shape),
                column.dtype,
                f"{len(self) * row_bytes(column) / 1e6:,.1f}",
                f"{self.nonfinite.get(column.key, 0):,}",
            )
            for column in self.columns
        ]
        return f"{printable(title)}\n\n{aligned(table, {3, 4})}"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return features, (str(self._place.root),)


def _joined(damaged: Sequence[Damage]) -> Iterator[Damage]:
    """Damage that follows on damage of the same column, as one."""
    held: Damage | None = None
    for one in damaged:
        if held and held.key == one.key and held.first + held.rows == one.first:
            held = held._replace(rows=held.rows + one.rows)
            continue
        if held:
            yield held
        held = one
    if held:
        yield held
