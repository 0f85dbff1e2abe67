"""The values of a tensor that a golden sample keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.comparing.golden import indices, largest, norm, sum_scale, weighted_sums
from layertap.comparing.measures import difference, scaled
from layertap.format.card import GoldenLayer

VALUES_PER_LAYER = 5
"""Values per layer."""

SUMS_PER_LAYER = 3
"""Sums with seeded weights per layer. One misses a change only where its weights happen to cancel
it."""

STEADY_TOLERANCE = 5e-5
"""The largest scaled change of golden values if the input is rounded otherwise."""


def golden_layer(value: NDArray[Any], least_scale: float = 0.0) -> GoldenLayer:
    """The entry of a tensor in the card; with six digits, so that equal exports have equal bytes.

    Args:
        least_scale: the scale is at least this, see `error_scales`.
    """
    flat = value.ravel()
    return GoldenLayer(
        shape=value.shape,
        norm=digits(norm(flat), 6),
        scale=digits(max(largest(flat), least_scale), 6),
        values=tuple(digits(float(flat[i]), 6) for i in indices(flat.size, VALUES_PER_LAYER)),
        sums=tuple(digits(float(x), 6) for x in weighted_sums(flat, SUMS_PER_LAYER)),
    )


def steady(
    value: NDArray[Any], expected: NDArray[Any], tolerance: float = STEADY_TOLERANCE
) -> bool:
    """Whether two tensors have the same golden values, up to rounding."""
    one, other = (x.astype(np.float64).ravel() for x in (value, expected))
    at = indices(other.size, VALUES_PER_LAYER)
    scale, length = largest(other), norm(other)
    values = difference(one[at], other[at], least_scale=scale).scaled
    norms = scaled(abs(norm(one) - length), length)
    apart = weighted_sums(one - other, SUMS_PER_LAYER)
    sums = scaled(float(np.abs(apart).max()), sum_scale(scale, other.size))
    return max(values, norms, sums) <= tolerance


def digits(value: float, count: int) -> float:
    """A number rounded to some significant digits."""
    return float(f"{value:.{count}g}")
