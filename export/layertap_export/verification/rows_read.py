"""Which rows of its tables a model reads on the batches that it is compared on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap_export.keras_model.tracing import Trace

from .traced_part import TracedPart
from .uses import Table

WELL_READ = 0.9
SPARE_ROWS = 2
"""The share of a table's rows from which on it counts as read, and how many may be left at any
rate: tables may have rows, for padding and unknown words, that nothing selects."""


class RowsRead:
    """Which rows of its tables a model read, over all batches."""

    def __init__(self, traced: Trace, tables: Sequence[Table]) -> None:
        """Begin with no row read.

        Args:
            traced: the model.
            tables: its tables.
        """
        self._traced = traced
        self.tables = tuple(tables)
        self._seen = [np.zeros(table.rows, bool) for table in self.tables]

    def add(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Take note of a batch, in the order of the model's inputs."""
        for seen, more in zip(self._seen, self._read_by(arrays), strict=True):
            seen |= more

    def adds(self, arrays: Sequence[NDArray[Any]]) -> bool:
        """Whether a batch reads rows that were not read so far."""
        pairs = zip(self._seen, self._read_by(arrays), strict=True)
        return any((more & ~seen).any() for seen, more in pairs)

    def _read_by(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[np.bool_]]:
        """The rows of each table that one batch reads."""
        if not self.tables:
            return []
        flat = iter(self._part.run(arrays))
        found = []
        for table in self.tables:
            values = [next(flat) for _ in table.read]
            read = np.zeros(table.rows, bool)
            if len(values) == 2:
                read[slice(*(int(value[table.axis]) for value in values))] = True
            else:
                rows = np.unique(table.ids(values[0]))
                read[rows[rows >= 0]] = True
            found.append(read)
        return found

    def seen(self, table: Table) -> NDArray[np.bool_]:
        """Which rows of a table were read, `(rows,)`."""
        return self._seen[self.tables.index(table)]

    @cached_property
    def _part(self) -> TracedPart:
        return TracedPart(self._traced, [x for table in self.tables for x in table.read])

    @property
    def unread(self) -> tuple[Table, ...]:
        """The tables with rows that were not read."""
        pairs = zip(self.tables, self._seen, strict=True)
        return tuple(table for table, seen in pairs if not seen.all())

    @property
    def left(self) -> tuple[Table, ...]:
        """Those of them of which the values of the inputs select the rows."""
        return tuple(table for table in self.unread if not table.by_size)

    @property
    def hardly_read(self) -> tuple[str, ...]:
        """The names of those tables of which less than `WELL_READ` was read."""
        found = []
        for name, table in zip(self._names(), self.tables, strict=True):
            unread = table.rows - int(self.seen(table).sum())
            if table in self.left and unread > max(SPARE_ROWS, (1 - WELL_READ) * table.rows):
                found.append(name)
        return tuple(found)

    def shares(self) -> dict[str, tuple[int, int]]:
        """By name of the table: how many rows were read, and how many it has."""
        counts = [(int(seen.sum()), len(seen)) for seen in self._seen]
        return dict(zip(self._names(), counts, strict=True))

    def _names(self) -> list[str]:
        """The names of the tables, with numbers where a layer reads several."""
        found: list[str] = []
        for table in self.tables:
            name, more = table.name, 2
            while name in found:
                name, more = f"{table.name} ({more})", more + 1
            found.append(name)
        return found
