"""How far two arrays are apart: the one measure of the check, the export and its tests.

An error is *scaled*: divided by the largest absolute value that was expected, so that one tolerance
serves layers of all magnitudes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._arguments import number

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


def _problem(text: str) -> Difference:
    return Difference(float("inf"), float("inf"), text)
