"""Inputs whose elements have uses of their own, as the columns of a table do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from layertap.format.card import GoldenInput, TensorInfo
from layertap_export.keras_model.tracing import Trace

from .draws import KEY_COUNT, Draw, Use, first_draw
from .traced_part import TracedPart
from .uses import Uses

MOST_COLUMNS = 64
"""The most elements of a sample that are drawn one by one."""

MOST_VALUES = 10_000
"""The most values of one column."""

NUMBERS = 20
"""How many numbers stand for a range of real ones."""


@dataclass(frozen=True, kw_only=True)
class ColumnDraw(Draw):
    """Each element of a sample has values of its own."""

    columns: tuple[tuple[Any, ...], ...] = ()
    """The values of each element of a sample, in C order."""
    known: tuple[tuple[Any, ...], ...] = ()
    """The same without unknown keys."""

    def without_unknown(self) -> Draw:
        return replace(self, columns=self.known, unknown=None)

    @property
    def rows(self) -> int:
        return len(self.columns) * min(KEY_COUNT, self._longest)

    @property
    def all_rows(self) -> int:
        return len(self.columns) * self._longest

    @property
    def _longest(self) -> int:
        return max(map(len, self.columns))

    @property
    def choices(self) -> tuple[Any, ...]:
        """The golden sample's first samples, one after another; then they come again."""
        samples = range(min(KEY_COUNT, self._longest))
        return tuple(column[i % len(column)] for i in samples for column in self.columns)

    def golden(self, info: TensorInfo, shape: tuple[int, ...]) -> GoldenInput:
        choices = self.choices
        count = float(len(choices))
        return GoldenInput(
            name=info.name, shape=shape, low=0.0, high=count, choices=choices, step=1.0
        )

    def array(
        self, info: TensorInfo, shape: tuple[int, ...], seed: int, factor: float | None = None
    ) -> NDArray[Any]:
        generator = np.random.default_rng(seed)
        return self._filled(info, shape, lambda n, count: generator.integers(0, n, count))

    def every_row(self, info: TensorInfo, shape: tuple[int, ...]) -> NDArray[Any]:
        return self._filled(info, shape, lambda n, count: np.arange(count) % n)

    def _filled(self, info: TensorInfo, shape: tuple[int, ...], chosen: Any) -> NDArray[Any]:
        dtype = object if info.dtype == "string" else info.dtype
        values = [np.array(column, dtype)[chosen(len(column), shape[0])] for column in self.columns]
        return np.stack(values, 1).reshape(shape)


def column_draws(
    traced: Trace, uses: Uses, inputs: Sequence[TensorInfo], layers: Sequence[Any]
) -> dict[int, Draw]:
    """What is drawn for the inputs whose elements have uses of their own, by index."""
    found = {}
    for position, (info, own) in enumerate(zip(inputs, uses.by_input, strict=True)):
        draw = _column_draw(traced, info, position, own, layers)
        if draw is not None:
            found[position] = draw
    return found


def _column_draw(
    traced: Trace,
    info: TensorInfo,
    position: int,
    uses: Sequence[Use],
    layers: Sequence[Any],
) -> Draw | None:
    """What is drawn for one input; `None` if all of its elements have the same uses."""
    indices = [use for use in uses if use.indexes and use.tensor is not None]
    if len({(use.keys, use.low, use.high) for use in indices}) < 2 or info.shape[:1] != (None,):
        return None
    count = math.prod(size or 0 for size in info.shape[1:])
    if not 1 < count <= MOST_COLUMNS:
        return None
    elements = _elements(traced, info, position, [use.tensor for use in indices])
    if elements is None:
        return None
    one = replace(info, shape=(None,))
    draws = []
    for element in range(count):
        own = [use for use, found in zip(indices, elements, strict=True) if element in found]
        draws.append(first_draw(one, own, layers, None))
    known = tuple(_values(one, draw) for draw in draws)
    if len(set(known)) < 2:
        return None
    unknown = [() if draw.unknown is None else (draw.unknown,) for draw in draws]
    # The first batch is to show whether the model takes unknown keys.
    columns = tuple((*x[:1], *more, *x[1:]) for x, more in zip(known, unknown, strict=True))
    every = tuple(dict.fromkeys(value for column in columns for value in column))
    return ColumnDraw(
        keys=every,
        unknown=next((x[0] for x in unknown if x), None),
        fixed=True,
        columns=columns,
        known=known,
    )


def _elements(
    traced: Trace, info: TensorInfo, position: int, tensors: Sequence[Any]
) -> list[frozenset[int]] | None:
    """The elements of an input that each tensor depends on: those that change it."""
    inner = [size or 1 for size in info.shape[1:]]
    count = math.prod(inner)
    arrays = [
        np.full(
            (count + 1, *(size or 1 for size in x.shape[1:])) if x.shape else (),
            "" if x.dtype == "string" else 0,
            object if x.dtype == "string" else x.dtype,
        )
        for x in traced.inputs
    ]
    changed = arrays[position].reshape(count + 1, count)
    changed[np.arange(1, count + 1), np.arange(count)] = "a" if info.dtype == "string" else 1
    arrays[position] = changed.reshape(count + 1, *inner)
    try:
        values = TracedPart(traced, tensors).run(arrays)
    except (tf.errors.OpError, ValueError):  # the model does not take these values
        return None
    found = []
    for value in values:
        if value.shape[:1] != (count + 1,):
            return None
        rows = value.reshape(count + 1, -1)
        found.append(frozenset(np.flatnonzero((rows[1:] != rows[0]).any(1)).tolist()))
    return found


def _values(info: TensorInfo, draw: Draw) -> tuple[Any, ...]:
    """The values of one element."""
    if draw.keys is not None:
        return draw.keys
    if draw.whole or np.dtype(info.dtype).kind in "iu":
        count = min(MOST_VALUES, max(1, int(draw.high - draw.low)))
        return tuple(np.linspace(draw.low, draw.high - 1, count).astype(int).tolist())
    count = min(MOST_VALUES, max(NUMBERS, draw.parts))
    middles = (np.arange(count) + 0.5) / count
    return tuple((draw.low + (draw.high - draw.low) * middles).round(6).tolist())
