"""A few numbers of the values of layers, by which two machines compare them.

Of each layer: values at seeded positions of every batch, the mean and the mean square of each
channel over all batches, and the largest absolute value. All elements have a part in the means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .golden import uniform
from .measures import Accumulated, in_rows

MOST_CHANNELS = 1 << 16
"""Layers with more channels are taken as one."""

SEED = 500
"""The seed of the positions in the first layer; each further layer has the next one."""


def positions(size: int, count: int, layer: int) -> NDArray[np.int64]:
    """Seeded positions in a flat array, all of them if there are no more than `count`.

    The same on all machines, see `golden.uniform`.

    Args:
        size: the number of elements.
        count: how many positions.
        layer: the number of the layer, so that each has positions of its own.
    """
    if size <= count:
        return np.arange(size)
    drawn = uniform((count,), 0.0, 1.0, SEED + layer)
    return np.minimum((drawn * size).astype(np.int64), size - 1)


@dataclass(slots=True)
class Sketch:
    """What is kept of one layer."""

    shapes: list[tuple[int, ...]]
    """Of the values of each batch."""
    values: list[NDArray[np.float64]]
    """At the positions, of each batch."""
    means: NDArray[np.float64]
    """Of each channel over all batches, of the values that are finite; of all together, if there
    are no channels or their number changes."""
    squares: NDArray[np.float64]
    """The mean squares of each channel."""
    largest: float
    """The largest absolute value, of those that are finite."""
    nonfinite: int
    """The number of values that are NaN or infinite."""
    classes: list[NDArray[np.int64]]
    """The best classes, of an output with classes."""
    problem: str = ""
    """Why nothing is kept: the values are no real numbers."""


class Sketching:
    """Sketches a layer, batch by batch."""

    def __init__(self, layer: int, count: int) -> None:
        """
        Args:
            layer: the number of the layer.
            count: how many values are kept of each batch.
        """
        self._layer, self._count = layer, count
        self.sketch = Sketch([], [], np.zeros(0), np.zeros(0), 0.0, 0, [])
        self._sums: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._elements = 0

    def add(self, value: Any, channel_axis: int | None, classes: Any = None) -> None:
        """Add a batch.

        Args:
            value: the values.
            channel_axis: the axis of the channels; `None` if there are none.
            classes: the best classes, for an output with classes.
        """
        sketch = self.sketch
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            sketch.problem = "its values are no real numbers"
            return
        sketch.shapes.append(value.shape)
        places = np.unravel_index(positions(value.size, self._count, self._layer), value.shape)
        sketch.values.append(np.asarray(value[places], np.float64).reshape(-1))
        if classes is not None:
            sketch.classes.append(np.asarray(classes, np.int64).reshape(-1))
        if not value.size:
            return
        rows, _ = in_rows(value, value, channel_axis)
        if rows.shape[1] > MOST_CHANNELS:
            rows = rows.reshape(rows.shape[0], 1, -1)
        narrow = rows.dtype.kind == "f" and rows.dtype.itemsize == 4
        rows = rows if narrow else rows.astype(np.float64)
        with np.errstate(all="ignore"):
            sums, squares = _sums(rows)
        if not (np.isfinite(sums).all() and np.isfinite(squares).all()):
            rows = rows.astype(np.float64)
            finite = np.isfinite(rows)
            sketch.nonfinite += int(rows.size - np.count_nonzero(finite))
            rows = np.where(finite, rows, 0.0)
            sums, squares = _sums(rows)
        sketch.largest = max(sketch.largest, float(rows.max()), -float(rows.min()))
        self._add(sums, squares, rows.size // rows.shape[1])

    def _add(self, sums: NDArray[np.float64], squares: NDArray[np.float64], elements: int) -> None:
        """
        Args:
            elements: the number of elements of each channel.
        """
        before = self._sums or (np.zeros(len(sums)), np.zeros(len(sums)))
        if len(before[0]) != len(sums):
            before = before[0].sum(keepdims=True), before[1].sum(keepdims=True)
            self._elements *= len(self.sketch.means)
            elements *= len(sums)
            sums, squares = sums.sum(keepdims=True), squares.sum(keepdims=True)
        self._sums = before[0] + sums, before[1] + squares
        self._elements += elements
        self.sketch.means, self.sketch.squares = (x / self._elements for x in self._sums)

    def round(self) -> None:
        """Round means and squares as a file does, so that equal results are equal."""
        sketch = self.sketch
        sketch.means, sketch.squares = rounded(sketch.means), rounded(sketch.squares)


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values as float32 has them, if it has such large ones."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32).astype(np.float64)
    return np.where(np.isfinite(narrow), narrow, values)


def _sums(rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums and the sums of squares of each channel of `(outer, channels, inner)`."""
    outer, channels, inner = rows.shape
    sums, squares = np.zeros(channels), np.zeros(channels)
    step = max(1, (1 << 16) // max(channels * inner, 1))
    for first in range(0, outer, step):
        part = rows[first : first + step]
        sums += part.sum(axis=2).sum(axis=0, dtype=np.float64)
        squares += np.einsum("ocr,ocr->oc", part, part).sum(axis=0, dtype=np.float64)
    return sums, squares


class Compared(NamedTuple):
    """How far two sketches are apart."""

    values: Accumulated
    """Of the values, with the largest of all values as the scale. Its largest difference is at
    least that of means and root mean squares of channels, too."""
    channels: float | None
    """The share of channels whose mean or root mean square differs by more than is allowed."""


def compared(actual: Sketch, expected: Sketch, allowed: float) -> Compared:
    """Compare two sketches.

    A difference of means, or of root mean squares, is never larger than the largest difference of
    single values: so the error that is found is never larger than that of the whole arrays.

    Args:
        actual: the sketch that is judged.
        expected: what it should be.
        allowed: the largest scaled error that passes.
    """
    found = Accumulated()
    for at, (ours, theirs) in enumerate(zip(actual.values, expected.values, strict=True)):
        if actual.shapes[at] != expected.shapes[at]:
            found.fail(f"shape {actual.shapes[at]} instead of {expected.shapes[at]}")
            return Compared(found, None)
        found.add(ours, theirs)
    if actual.nonfinite != expected.nonfinite:
        found.fail("NaN or infinite")
    if found.problem:
        return Compared(found, None)
    found.scale = max(found.scale, expected.largest)
    if len(actual.means) != len(expected.means):
        return Compared(found, None)
    with np.errstate(invalid="ignore"):  # squares may be infinite: they say nothing then
        roots = np.abs(np.sqrt(actual.squares) - np.sqrt(expected.squares))
    roots[~np.isfinite(roots)] = 0.0
    gaps = np.maximum(np.abs(actual.means - expected.means), roots)
    found.max_abs = max(found.max_abs, float(gaps.max(initial=0.0)))
    beyond = gaps > allowed * (found.scale or 1.0)
    return Compared(found, float(beyond.mean()) if len(gaps) > 1 else None)
