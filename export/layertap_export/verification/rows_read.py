"""Which rows of its tables a model reads on the batches that it is compared on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.eager.wrap_function import VariableHolder, WrappedFunction

from layertap_export.keras_model.tracing import Trace

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
        flat = iter(self._run(*map(tf.convert_to_tensor, arrays)))
        for table, seen in zip(self.tables, self._seen, strict=True):
            values = [next(flat).numpy() for _ in table.read]
            if table.keys is not None:
                found = values[0].ravel()
                if found.dtype == object:
                    found = np.array([x.decode(errors="replace") for x in found], object)
                seen[np.isin(table.keys, found)] = True
            elif len(values) == 2:
                seen[slice(*(int(value[table.axis]) for value in values))] = True
            else:
                index = np.unique(values[0].astype(np.int64))
                seen[index[(index >= 0) & (index < table.rows)]] = True

    @cached_property
    def _run(self) -> Any:
        function = self._traced.function
        wrapped = WrappedFunction(function.graph, VariableHolder())
        entries = function.inputs[: len(self._traced.inputs)]
        return wrapped.prune(entries, [x for table in self.tables for x in table.read])

    def share(self, index: int) -> float:
        """The share of a table's rows that were read."""
        return float(self._seen[index].mean()) if self._seen[index].size else 1.0

    def unread(self, index: int) -> NDArray[np.int64]:
        """The rows of a table that were not read."""
        return np.flatnonzero(~self._seen[index])

    def shares(self) -> dict[str, tuple[int, int]]:
        """By name of the table: how many rows were read, and how many it has."""
        found: dict[str, tuple[int, int]] = {}
        for table, seen in zip(self.tables, self._seen, strict=True):
            name, more = table.name, 2
            while name in found:
                name, more = f"{table.name} ({more})", more + 1
            found[name] = (int(seen.sum()), table.rows)
        return found
