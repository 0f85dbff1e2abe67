"""What is added up of a layer's values: moments, extremes, zeros, a histogram, by channel.

Moments of batches are merged as Chan, Golub and LeVeque do it (1979, "Updating formulae and a
pairwise algorithm for computing sample variances"), in float64. The sums inside one image are taken
in float32, where that is exact enough, in blocks that fit into the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import histogram

BLOCK = 1 << 16
"""Elements that are read at once: 256 KiB of float32, which stay in the processor's cache while
each sum reads them."""

LINE = 1 << 13
"""Most elements that are added up in float32. In addition, OpenBLAS computes longer products in
threads of its own."""

SHORT = 1 << 10
"""The length of rows below which one call for all of them costs less than one row after another."""

DRAWN = 1024
"""Most values of one image that a layer's histogram counts, drawn evenly from all; the smaller
layers are counted whole."""

CANCELLED = 0.05
"""Share of the sum of squares below which the sum of squared deviations is computed in float64: the
difference of two such sums in float32 has lost too many digits."""

Float64 = NDArray[np.float64]


class Bounds(NamedTuple):
    """The values between which an activation function stays."""

    low: float
    high: float

    @property
    def margin(self) -> float:
        """How far from a bound a value still counts as being at it: a thousandth of the range."""
        return 0.001 * (self.high - self.low)


class Sums(NamedTuple):
    """What is added up of one layer, over some images. Arrays are `(channels,)`, float64."""

    number: Float64
    """Number of finite values."""
    mean: Float64
    squares: Float64
    """Sum of the squared deviations from the mean."""
    low: Float64
    high: Float64
    inside: Float64
    """Largest distance of a value from the nearer bound of the activation; NaN without bounds."""
    zeros: int
    nans: int
    infinities: int
    bins: NDArray[np.uint16]
    """The bins of the values that were drawn for the histogram."""


def merged(one: Sums, other: Sums) -> Sums:
    """The sums of both, with the histogram's values of neither."""
    count = one.number + other.number
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        share = np.where(count > 0, other.number / count, 0.0)
        delta = np.where((one.number > 0) & (other.number > 0), other.mean - one.mean, 0.0)
        mean = np.where(one.number > 0, one.mean + delta * share, other.mean)
        squares = one.squares + other.squares + np.square(delta) * one.number * share
    return Sums(
        count,
        mean,
        squares,
        np.minimum(one.low, other.low),
        np.maximum(one.high, other.high),
        np.maximum(one.inside, other.inside),
        one.zeros + other.zeros,
        one.nans + other.nans,
        one.infinities + other.infinities,
        one.bins[:0],
    )


def sums_of(values: NDArray[Any], channel_axis: int | None, bounds: Bounds | None) -> Sums:
    """The sums of one image's values.

    Args:
        values: of any shape and any dtype of real numbers.
        channel_axis: the axis of the channels; with `None`, all values are one channel.
        bounds: of the activation function, if it has some.
    """
    if channel_axis is None:
        matrix, axis = _flat(values)[None], 1
    else:
        matrix, axis = _matrix(values, channel_axis)
    if values.dtype == np.float16:
        matrix = matrix.astype(np.float32)
    if matrix.dtype == np.float32:
        with np.errstate(all="ignore"):
            found = _in_float32(matrix, axis, bounds)
        if found is not None:
            return found
    return _in_float64(matrix if axis else matrix.T, bounds)


def side_by_side(values: NDArray[Any], parts: Sequence[Sums]) -> Sums | None:
    """The sums of values whose channels are those of others; `None` if they have to be read.

    Args:
        values: see `sums_of`.
        parts: the sums of the others, in the order of the channels.
    """
    if any(part.nans or part.infinities for part in parts) or not values.size:
        return None  # the histogram draws from finite values only
    number, mean, squares, low, high = (
        np.concatenate([getattr(part, key) for part in parts])
        for key in ("number", "mean", "squares", "low", "high")
    )
    if number.sum() != values.size:
        return None
    zeros = sum(part.zeros for part in parts)
    inside = np.full(len(number), np.nan)
    bins = _drawn(_flat(values))
    return Sums(number, mean, squares, low, high, inside, zeros, 0, 0, bins)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """All values along one axis, in the order of the memory, so that nothing is copied."""
    return values.ravel(order="K")


def _matrix(values: NDArray[Any], channel_axis: int) -> tuple[NDArray[Any], int]:
    """The values as a matrix without a copy, if there is one, and the axis that is not channels."""
    first = np.moveaxis(values, channel_axis, 0)
    channels, length = first.shape[0], math.prod(first.shape[1:])
    # Of the other axes only the place in memory matters.
    others = sorted(range(1, first.ndim), key=lambda axis: -abs(first.strides[axis]))
    first = first.transpose(0, *others)
    if first.flags.c_contiguous or not np.moveaxis(first, 0, -1).flags.c_contiguous:
        return first.reshape(channels, length), 1
    return np.moveaxis(first, 0, -1).reshape(length, channels), 0


def _in_float32(matrix: NDArray[Any], axis: int, bounds: Bounds | None) -> Sums | None:
    """The sums of a contiguous matrix of float32; `None` if a value, or a square, is not finite.

    Args:
        axis: the axis that is reduced.
    """
    channels, length = matrix.shape[1 - axis], matrix.shape[axis]
    if not matrix.size:
        return None
    blocks = _Blocks(matrix, axis)
    parts = blocks.parts
    total, squares, low, high = np.empty((4, parts, channels), np.float32)
    inside = np.full((parts, channels), np.nan, np.float32)
    zeros = 0
    for part, at, block in blocks:
        blocks.add(block, total[part, at])
        blocks.add_squares(block, squares[part, at])
        blocks.reduce(np.minimum, block, low[part, at])
        blocks.reduce(np.maximum, block, high[part, at])
        zeros += blocks.zeros(block)
        if bounds is not None:
            from_bound = np.minimum(block - np.float32(bounds.low), bounds.high - block)
            blocks.reduce(np.maximum, from_bound, inside[part, at])
    whole_total = total.sum(axis=0, dtype=np.float64)
    whole_squares = squares.sum(axis=0, dtype=np.float64)
    if not (np.isfinite(whole_total).all() and np.isfinite(whole_squares).all()):
        return None
    lowest, highest = low.min(axis=0).astype(np.float64), high.max(axis=0).astype(np.float64)
    count = float(length)
    mean = whole_total / count
    deviations = np.maximum(whole_squares - mean * whole_total, 0.0)
    largest = np.maximum(-lowest, highest)
    lost = (deviations < CANCELLED * whole_squares) | ((whole_squares < 1e-25) & (largest > 0))
    if lost.any():
        exact = np.compress(lost, matrix, axis=1 - axis).astype(np.float64)
        mean[lost] = np.add.reduce(exact, axis=axis) / count
        exact -= np.expand_dims(mean[lost], axis)
        deviations[lost] = np.einsum(PRODUCTS[axis], exact, exact)
    bins = _drawn(matrix.reshape(-1))
    return Sums(
        np.full(channels, count),
        mean,
        deviations,
        lowest,
        highest,
        inside.max(axis=0).astype(np.float64),
        int(zeros),
        0,
        0,
        bins,
    )


PRODUCTS = ("ij,ij->j", "ij,ij->i")
"""The sums of squares along each axis, for `np.einsum`."""


class _Blocks:
    """The blocks of a matrix, and what is computed of each, in float32.

    Iterating gives for each block the part of the reduced axis that it is in, its channels, and its
    values.
    """

    def __init__(self, matrix: NDArray[Any], axis: int) -> None:
        self._matrix, self._axis = matrix, axis
        rows, columns = matrix.shape
        most = LINE if axis else BLOCK
        self._width = -(-columns // -(-columns // most))
        self._height = min(rows, max(1, BLOCK // self._width))
        length, step = (columns, self._width) if axis else (rows, self._height)
        self.parts = -(-length // step)
        self._is_zero = np.empty((self._height, self._width), np.bool_)
        # With rows in one piece, a block is contiguous.
        self._starts = None
        if axis and columns <= SHORT:
            self._starts = np.arange(0, self._height * columns, columns)

    def __iter__(self) -> Iterator[tuple[int, slice, NDArray[Any]]]:
        rows, columns = self._matrix.shape
        for row, top in enumerate(range(0, rows, self._height)):
            for column, left in enumerate(range(0, columns, self._width)):
                down, across = slice(top, top + self._height), slice(left, left + self._width)
                block = self._matrix[down, across]
                yield (column, down, block) if self._axis else (row, across, block)

    def reduce(self, function: np.ufunc, block: NDArray[Any], out: NDArray[Any]) -> None:
        """The smallest or largest value of each channel."""
        if self._starts is None:
            function.reduce(block, axis=self._axis, out=out)
        else:
            function.reduceat(block.reshape(-1), self._starts[: len(block)], out=out)

    def add(self, block: NDArray[Any], out: NDArray[Any]) -> None:
        """The sum of each channel."""
        if self._axis:
            np.einsum("ij->i", block, out=out)  # faster than np.add.reduce, which adds in pairs
        else:
            np.add.reduce(block, axis=0, out=out)

    def add_squares(self, block: NDArray[Any], out: NDArray[Any]) -> None:
        """The sum of the squares of each channel."""
        if self._axis:  # BLAS's product of two vectors, for each row
            np.matmul(block[:, None, :], block[:, :, None], out=out[:, None, None])
        else:
            np.einsum(PRODUCTS[0], block, block, out=out)

    def zeros(self, block: NDArray[Any]) -> int:
        """The number of values that are 0."""
        rows, columns = block.shape
        found = self._is_zero[:rows, :columns]
        np.equal(block, 0, out=found)
        return int(np.count_nonzero(found))


def _drawn(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The bins of the values that the histogram counts, of finite ones `(n,)`."""
    drawn = values[_places(values.size)]
    if drawn.dtype != np.float32:
        most = float(np.finfo(np.float32).max)
        drawn = drawn.astype(np.float64).clip(-most, most).astype(np.float32)
    return histogram.bins_of(drawn)


@lru_cache(maxsize=1024)
def _places(size: int) -> NDArray[np.int64]:
    """The places of the values that the histogram counts, of `size` values."""
    if size <= DRAWN:
        return np.arange(size)
    return np.sort(np.random.default_rng(size).integers(size, size=DRAWN))


def _in_float64(matrix: NDArray[Any], bounds: Bounds | None) -> Sums:
    """The sums of a matrix `(channels, n)` of any real numbers; only finite ones count."""
    values = matrix.astype(np.float64)
    finite = np.isfinite(values)
    count = finite.sum(axis=1).astype(np.float64)
    some = np.maximum(count, 1)
    kept = np.where(finite, values, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = kept.sum(axis=1) / some
        squares = np.square(np.where(finite, values - mean[:, None], 0.0)).sum(axis=1)
    inside = np.full(len(values), np.nan)
    if bounds is not None:
        from_bound = np.minimum(kept - bounds.low, bounds.high - kept)
        inside = np.max(from_bound, axis=1, where=finite, initial=-np.inf)
    known = kept[finite]
    return Sums(
        count,
        mean,
        squares,
        np.min(kept, axis=1, where=finite, initial=np.inf),
        np.max(kept, axis=1, where=finite, initial=-np.inf),
        inside,
        int(np.count_nonzero(known == 0)),
        int(np.isnan(values).sum()),
        int(np.isinf(values).sum()),
        _drawn(known),
    )
