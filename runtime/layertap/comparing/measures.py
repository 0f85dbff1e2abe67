"""How far two arrays are apart: the one measure of the check, the export and its tests.

An error is *scaled*: divided by the largest absolute value that was expected, so that one tolerance
serves layers of all magnitudes.

`difference` compares two arrays. `Accumulated` compares arrays that come batch by batch, of which
nothing is kept. `sketched_error` compares a few values and sums of arrays that are elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._arguments import number

from .golden import sum_scale

BLOCK = 1 << 16
"""Elements that are compared at once."""


class Difference(NamedTuple):
    """How far an array is from the expected one."""

    max_abs: float
    """Largest absolute difference; infinite where there is a problem."""
    scaled: float
    """`max_abs` divided by the scale of the expected values; infinite where there is a problem."""
    problem: str = ""
    """Another shape or dtype, or a value that is not finite: no tolerance allows these."""

    def larger(self, other: Difference) -> Difference:
        """The larger of both values, and the first problem."""
        return Difference(
            max(self.max_abs, other.max_abs),
            max(self.scaled, other.scaled),
            self.problem or other.problem,
        )


def check_tolerance(tolerance: float) -> None:
    """Raise UsageError unless the tolerance is a finite number of at least 0."""
    number("tolerance", tolerance)


def difference(
    actual: NDArray[Any],
    expected: NDArray[Any],
    *,
    least_scale: float = 0.0,
    same_dtype: bool = True,
) -> Difference:
    """Compare two arrays: shape and dtype first, then the values.

    A NaN equals only a NaN, and an infinity only the same infinity. Of values that are not real
    numbers (strings, complex numbers) both errors are the share of unequal elements.

    Args:
        actual: the array that is judged, of any shape.
        expected: what it should be.
        least_scale: the scale is at least this, where `expected` alone would give a smaller one.
        same_dtype: whether another dtype is a problem.
    """
    if actual.shape != expected.shape:
        return _problem(f"shape {actual.shape} instead of {expected.shape}")
    if same_dtype and actual.dtype != expected.dtype:
        return _problem(f"dtype {actual.dtype} instead of {expected.dtype}")
    if actual.dtype.kind not in "fiub" or expected.dtype.kind not in "fiub":
        unequal = float(np.mean(actual != expected)) if actual.size else 0.0
        return Difference(unequal, unequal)
    # float32 values subtract without a further rounding that matters here, in half the memory.
    single = all(x.dtype.kind == "f" and x.dtype.itemsize <= 4 for x in (actual, expected))
    dtype = np.float32 if single else np.float64
    max_abs, scale = _largest(actual, expected, dtype)
    if math.isfinite(max_abs) and math.isfinite(scale):
        return Difference(max_abs, scaled(max_abs, max(scale, least_scale)))
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(actual), finite):
        return _problem("NaN or infinite")
    if not finite.all():
        if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
            return _problem("NaN or infinite")
        actual, expected = actual[finite], expected[finite]
    max_abs, scale = _largest(actual, expected, dtype)
    return Difference(max_abs, scaled(max_abs, max(scale, least_scale)))


def _largest(
    actual: NDArray[Any], expected: NDArray[Any], dtype: type[np.floating[Any]]
) -> tuple[float, float]:
    """The largest absolute difference and the largest absolute expected value, computed in a dtype.

    If both are finite, so is every element. The arrays are read in blocks that fit into the
    processor's cache: arrays of that size for each step would take three times as long.
    """
    ours, theirs = actual.ravel(), expected.ravel()
    buffer = np.empty(min(BLOCK, ours.size), dtype)
    largest = [(0.0, 0.0)]
    with np.errstate(all="ignore"):
        for start in range(0, ours.size, BLOCK):
            one, other = (x[start : start + BLOCK] for x in (ours, theirs))
            used = buffer[: one.size]
            np.subtract(one, other, out=used, dtype=dtype)
            error = float(np.abs(used, out=used).max())
            np.abs(other, out=used, dtype=dtype)
            largest.append((error, float(used.max())))
    errors, scales = np.array(largest).max(axis=0)  # NaN, if one of them is
    return float(errors), float(scales)


def scaled(error: float, scale: float) -> float:
    """An error divided by a scale; where the scale is 0, the error itself."""
    return error / scale if scale else error


def sketched_error(
    values: NDArray[np.float64],
    norm: float,
    sums: NDArray[np.float64],
    expected_values: NDArray[np.float64],
    expected_norm: float,
    expected_sums: NDArray[np.float64],
    *,
    scale: float,
    size: int,
) -> Difference:
    """The error of an array of which only some values, the norm and weighted sums are known.

    The largest of three: the difference of the values divided by the scale, that of the norms
    divided by the norm, and that of the sums divided by `golden.sum_scale`.

    Args:
        values: at the same positions as `expected_values`.
        norm: the Euclidean norm of all elements.
        sums: see `golden.weighted_sums`; empty if there are none.
        expected_values: what `values` should be.
        expected_norm: what `norm` should be.
        expected_sums: what `sums` should be.
        scale: the largest absolute value that was expected, or more.
        size: the number of elements.
    """
    found = difference(values, expected_values, least_scale=scale)
    # A scale may be larger than all values: that of a sigmoid far from 1.
    least = max(expected_norm, scale)
    norms = difference(np.array([norm]), np.array([expected_norm]), least_scale=least)
    found = found.larger(norms)
    if not expected_sums.size:
        return found
    sum_difference = difference(sums, expected_sums, least_scale=sum_scale(scale, size))
    return found.larger(sum_difference)


class Accumulated:
    """How far arrays are apart that come in batches; the arrays are not kept.

    The scale is the largest absolute value that was expected in any batch, so that the result does
    not depend on how the samples are divided. Where arrays are nearly equal, sums are of the
    differences themselves, and not of products of which they would be the rest, so that the cosine
    is exact there, too.
    """

    def __init__(
        self, channel_axis: Callable[[int], int | None] = lambda rank: None, *, sums: bool = True
    ) -> None:
        """
        Args:
            channel_axis: gives the axis of the channels of arrays with so many axes; `None` if
                there are none.
            sums: whether `snr` and `cosine` will be asked for.
        """
        self._channel_axis, self._sums = channel_axis, sums
        self.max_abs = 0.0
        """Largest absolute difference; infinite where there is a problem."""
        self.scale = 0.0
        """Largest absolute value that was expected, where it is finite."""
        self.count = 0
        """The number of elements that were compared."""
        self.problem = ""
        """Another shape, or a value that is not finite in one array alone."""
        self.unequal: int | None = None
        """The number of unequal elements, for values that are not real numbers."""
        self._has_channels = False
        self._signal = self._noise = self._square = self._product = 0.0
        self._channels: NDArray[np.float64] | None = None

    def add(self, actual: NDArray[Any], expected: NDArray[Any]) -> float:
        """Compare a batch, and return its largest absolute difference.

        Args:
            actual: the array that is judged.
            expected: what it should be; the same shape, any dtype.
        """
        before = self.max_abs
        self.max_abs = 0.0
        self._add(actual, expected)
        found = self.max_abs
        self.max_abs = max(before, found)
        return found

    def _add(self, actual: NDArray[Any], expected: NDArray[Any]) -> None:
        if actual.shape != expected.shape:
            self.fail(f"shape {actual.shape} instead of {expected.shape}")
            return
        self.count += expected.size
        if actual.dtype.kind not in "fiub" or expected.dtype.kind not in "fiub":
            unequal = int(np.count_nonzero(actual != expected))
            self.unequal = (self.unequal or 0) + unequal
            self.max_abs = float(bool(unequal))
            return
        if not expected.size:
            return
        axis = self._channel_axis(expected.ndim)
        channels = 1 if axis is None else expected.shape[axis]
        self._has_channels |= axis is not None
        narrow = all(x.dtype.kind == "f" and x.dtype.itemsize <= 4 for x in (actual, expected))
        ours, theirs = in_rows(actual, expected, axis)
        found = _compared(ours, theirs, np.float32 if narrow else np.float64, self._sums)
        if not found.finite:
            found = self._among_finite(ours, theirs)
        if self._channels is None or len(self._channels) != channels:
            self._channels = np.zeros(channels)
        np.maximum(self._channels, found.channels, out=self._channels)
        self.max_abs = math.inf if self.problem else float(found.channels.max())
        self.scale = max(self.scale, found.scale)
        self._signal += found.signal
        self._noise += found.noise
        self._square += found.square
        self._product += found.product

    def _among_finite(self, actual: NDArray[Any], expected: NDArray[Any]) -> _Sums:
        """The same in float64, of the elements that are finite in both arrays.

        A NaN equals only a NaN, and an infinity only the same infinity.
        """
        ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
        finite = np.isfinite(theirs)
        same = np.array_equal(np.isfinite(ours), finite) and np.array_equal(
            ours[~finite], theirs[~finite], equal_nan=True
        )
        finite &= np.isfinite(ours)
        ours[~finite] = theirs[~finite] = 0.0
        found = _compared(ours, theirs, np.float64, self._sums)
        if not same:
            self.fail("NaN or infinite")
            differs = np.isfinite(actual) != np.isfinite(expected)
            found.channels[differs.any(axis=(0, 2))] = math.inf
        return found

    def fail(self, problem: str) -> None:
        """Note a problem, which no tolerance allows."""
        self.problem = self.problem or problem
        self.max_abs = math.inf

    @property
    def scaled(self) -> float:
        """`max_abs` divided by the scale; the share of unequal elements, where they are not real
        numbers; infinite where there is a problem."""
        if self.problem:
            return math.inf
        if self.unequal is not None:
            return self.unequal / self.count if self.count else 0.0
        return scaled(self.max_abs, self.scale)

    @property
    def snr(self) -> float:
        """Signal to noise in decibels: 10 log10 of the sum of squares that was expected, divided
        by that of the differences. Infinite if nothing differs; NaN if it is not known."""
        if not self._noise:
            return math.nan if self.problem or self.unequal else math.inf
        if not self._signal:
            return -math.inf
        ratio = self._signal / self._noise
        return 10 * math.log10(ratio) if math.isfinite(ratio) and ratio else math.nan

    @property
    def cosine(self) -> float:
        """The cosine of the angle between all values as vectors; NaN if one of them is 0 only."""
        if self.unequal is not None:
            return math.nan
        if not self._noise:
            return 1.0 if self._signal else math.nan
        if not self._signal or not self._square:
            return math.nan
        found = self._product / math.sqrt(self._signal) / math.sqrt(self._square)
        return max(-1.0, min(1.0, found))

    def channels_beyond(self, tolerance: float) -> float | None:
        """The share of channels with a scaled error over the tolerance; `None` without channels."""
        if not self._has_channels or self._channels is None:
            return None
        limit = tolerance * (self.scale or 1.0)
        return float(np.mean(self._channels > limit))


class _Sums(NamedTuple):
    """What is added up of a batch."""

    channels: NDArray[np.float64]
    """The largest absolute difference of each channel."""
    scale: float
    signal: float
    noise: float
    square: float
    """Of the values that are judged."""
    product: float
    """Of both."""

    @property
    def finite(self) -> bool:
        """Whether all elements were finite, and no sum was too large for its dtype."""
        numbers = (
            self.scale,
            self.signal,
            self.noise,
            self.square,
            self.product,
            float(self.channels.max()),
        )
        return all(map(math.isfinite, numbers))


def in_rows(
    actual: NDArray[Any], expected: NDArray[Any], axis: int | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two arrays as `(outer, channels, inner)`, in the order in which the second is in memory.

    Arrays from onnxruntime are views with their axes in Keras's order, and read best as they are
    stored. A copy is made only of an array that is in no order, or in another one than the other.
    """
    order = sorted(range(expected.ndim), key=lambda at: -abs(expected.strides[at]))
    shape = [expected.shape[at] for at in order]
    place = 0 if axis is None else order.index(axis)
    count = 1 if axis is None else shape[place]
    outer = 1 if axis is None else math.prod(shape[:place])
    rows = (outer, count, expected.size // max(outer * count, 1))
    return tuple(  # type: ignore[return-value]
        np.ascontiguousarray(x.transpose(order)).reshape(rows) for x in (actual, expected)
    )


def _compared(
    actual: NDArray[Any],
    expected: NDArray[Any],
    dtype: type[np.floating[Any]],
    sums: bool,
) -> _Sums:
    """Compare arrays `(outer, channels, inner)` in blocks that fit into the processor's cache.

    Args:
        sums: whether sums of squares and products are needed.
    """
    outer, channels, inner = expected.shape
    across = inner < ACROSS  # so short a row that the maximum is taken across rows
    length = channels * inner if across else inner
    ours, theirs = (x.reshape(-1, length) for x in (actual, expected))
    step = max(1, BLOCK // length)
    buffer = np.empty((min(step, len(ours)), min(length, BLOCK)), dtype)
    largest = np.zeros(length if across else len(ours))
    scale = signal = noise = square = product = 0.0
    with np.errstate(all="ignore"):
        for first in range(0, len(ours), step):
            for start in range(0, length, BLOCK):
                part = slice(first, first + step), slice(start, start + BLOCK)
                one, known = ours[part], theirs[part].astype(dtype, copy=False)
                gap = buffer[: one.shape[0], : one.shape[1]]
                np.subtract(one, known, out=gap, dtype=dtype, casting="unsafe")
                scale = _larger(scale, float(known.max()), -float(known.min()))
                own = _product(known, known) if sums else 0.0
                signal += own
                if not gap.any():
                    continue
                if sums:
                    here, common = _product(gap, gap), _product(known, gap)
                    noise += here
                    if here < NEAR * own:
                        square, product = square + 2 * common + here, product + common
                    else:  # the sums would lose the digits of the smaller array
                        given = one.astype(dtype, copy=False)
                        square += _product(given, given) - own
                        product += _product(known, given) - own
                axis, place = (0, part[1]) if across else (1, part[0])
                some = largest[place]
                np.maximum(some, gap.max(axis=axis), out=some)
                np.maximum(some, -gap.min(axis=axis), out=some)
    shape = (channels, inner) if across else (outer, channels)
    by_channel = largest.reshape(shape).max(axis=1 if across else 0)
    return _Sums(by_channel, scale, signal, noise, signal + square, signal + product)


def _product(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The sum of the products. Not by BLAS, whose threads would wait for busy cores."""
    return float(np.einsum("ij,ij->", one, other))


NEAR = 0.1
"""Squares of differences below this share of the squares count as small."""

ACROSS = 16
"""Elements of a channel in one row below which several rows are compared at once."""


def _larger(*numbers: float) -> float:
    """The largest number; NaN if one of them is."""
    return math.nan if any(map(math.isnan, numbers)) else max(numbers)


def _problem(text: str) -> Difference:
    return Difference(float("inf"), float("inf"), text)
