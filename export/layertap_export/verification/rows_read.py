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
        if not self.tables:
            return
        flat = iter(self._part.run(arrays))
        for table, seen in zip(self.tables, self._seen, strict=True):
            values = [next(flat) for _ in table.read]
            if table.keys is not None:
                seen[np.isin(table.keys, values[0].ravel())] = True
            elif len(values) == 2:
                seen[slice(*(int(value[table.axis]) for value in values))] = True
            else:
                index = np.unique(values[0].astype(np.int64))
                seen[index[(index >= 0) & (index < table.rows)]] = True

    @cached_property
    def _part(self) -> TracedPart:
        return TracedPart(self._traced, [x for table in self.tables for x in table.read])

    @property
    def unread(self) -> tuple[Table, ...]:
        """The tables with rows that were not read."""
        pairs = zip(self.tables, self._seen, strict=True)
        return tuple(table for table, seen in pairs if not seen.all())

    def shares(self) -> dict[str, tuple[int, int]]:
        """By name of the table: how many rows were read, and how many it has."""
        found: dict[str, tuple[int, int]] = {}
        for table, seen in zip(self.tables, self._seen, strict=True):
            name, more = table.name, 2
            while name in found:
                name, more = f"{table.name} ({more})", more + 1
            found[name] = (int(seen.sum()), table.rows)
        return found
