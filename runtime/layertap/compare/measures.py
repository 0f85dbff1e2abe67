"""How far two arrays are apart: the one measure of the check, the export and its tests.

An error is *scaled*: divided by the largest absolute value that was expected, so that one tolerance
serves layers of all magnitudes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._arguments import number


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
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(actual), finite):
        return _problem("NaN or infinite")
    if not finite.all():
        if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
            return _problem("NaN or infinite")
        actual, expected = actual[finite], expected[finite]
    # float32 values subtract without a further rounding that matters here, in half the memory.
    single = all(x.dtype.kind == "f" and x.dtype.itemsize <= 4 for x in (actual, expected))
    dtype = np.float32 if single else np.float64
    max_abs = float(np.abs(np.subtract(actual, expected, dtype=dtype)).max(initial=0))
    scale = float(np.abs(expected.astype(dtype, copy=False)).max(initial=least_scale))
    return Difference(max_abs, scaled(max_abs, scale))


def scaled(error: float, scale: float) -> float:
    """An error divided by a scale; where the scale is 0, the error itself."""
    return error / scale if scale else error


def _problem(text: str) -> Difference:
    return Difference(float("inf"), float("inf"), text)
