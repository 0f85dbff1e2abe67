"""What is added up of a layer's values: moments, extremes, zeros, a histogram, by channel.

Moments of batches are merged as Chan, Golub and LeVeque do it (1979, "Updating formulae and a
pairwise algorithm for computing sample variances"), in float64. The sums inside one image are taken
in float32, where that is exact enough, in blocks that fit into the processor's cache.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import histogram

BLOCK = 1 << 16
"""Elements that are read at once: 256 KiB of float32."""

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
    """The sums of a matrix of float32; `None` if a value, or a square, is not finite.

    Args:
        axis: the axis that is reduced.
    """
    channels, length = matrix.shape[1 - axis], matrix.shape[axis]
    if not matrix.size:
        return None
    total, squares = np.zeros(channels), np.zeros(channels)
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    inside = np.full(channels, np.nan if bounds is None else -np.inf)
    zeros, drawn = 0, []
    product = "ij,ij->i" if axis else "ij,ij->j"
    rows, columns = matrix.shape
    width = min(columns, BLOCK)
    height = max(1, BLOCK // width)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            block = matrix[top : top + height, left : left + width]
            at = slice(top, top + height) if axis else slice(left, left + width)
            total[at] += np.add.reduce(block, axis=axis)
            squares[at] += np.einsum(product, block, block)
            low[at] = np.minimum(low[at], np.minimum.reduce(block, axis=axis))
            high[at] = np.maximum(high[at], np.maximum.reduce(block, axis=axis))
            zeros += np.count_nonzero(block == 0)
            if bounds is not None:
                from_bound = np.minimum(block - np.float32(bounds.low), bounds.high - block)
                inside[at] = np.maximum(inside[at], np.maximum.reduce(from_bound, axis=axis))
            drawn.append(block.reshape(-1)[_places(block.size, matrix.size)])
    if not (np.isfinite(total).all() and np.isfinite(squares).all()):
        return None
    count = float(length)
    mean = total / count
    deviations = np.maximum(squares - mean * total, 0.0)
    largest = np.maximum(-low, high)
    lost = (deviations < CANCELLED * squares) | ((squares < 1e-25) & (largest > 0))
    if lost.any():
        exact = np.compress(lost, matrix, axis=1 - axis).astype(np.float64)
        mean[lost] = exact.mean(axis=axis)
        deviations[lost] = np.square(exact - np.expand_dims(mean[lost], axis)).sum(axis=axis)
    bins = histogram.bins_of(np.concatenate(drawn).astype(np.float32, copy=False))
    whole = np.full(channels, count)
    return Sums(whole, mean, deviations, low, high, inside, int(zeros), 0, 0, bins)


@lru_cache(maxsize=4096)
def _places(size: int, whole: int) -> NDArray[np.int64]:
    """The places in a block of `size` values that the histogram counts, of `whole` values."""
    if whole <= DRAWN:
        return np.arange(size)
    count = max(1, size * DRAWN // whole)
    return np.random.default_rng(size).integers(size, size=count)


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
    drawn = kept[finite]
    drawn = drawn[_places(drawn.size, drawn.size)]
    most = float(np.finfo(np.float32).max)
    return Sums(
        count,
        mean,
        squares,
        np.min(kept, axis=1, where=finite, initial=np.inf),
        np.max(kept, axis=1, where=finite, initial=-np.inf),
        inside,
        int(np.count_nonzero(kept[finite] == 0)),
        int(np.isnan(values).sum()),
        int(np.isinf(values).sum()),
        histogram.bins_of(np.clip(drawn, -most, most).astype(np.float32)),
    )
