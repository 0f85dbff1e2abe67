"""Kinks so near that rounding decides on which side of them a value is.

The slope of a relu is 0 below 0, and 1 above. Where its input is 0 up to rounding, two programs
that compute in float32, with sums in another order, may be on different sides. Their gradients
differ there, and both are right. Of the millions of values in a network, some are often that close.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING_REACH = 1e-5
"""The size of the random changes, as a share of a tensor's largest value: more than the difference
of two forward passes."""


def neighbours(
    values: Mapping[str, NDArray[Any]], count: int, rounding: float = 0.0
) -> Iterator[dict[str, NDArray[Any]]]:
    """The same tensors with tiny random changes; tensors of integers stay as they are.

    Args:
        values: the tensors.
        count: how many times.
        rounding: the least size of the changes, for a network that computes in 16 bits.
    """
    generator = np.random.default_rng(0)
    share = max(ROUNDING_REACH, rounding)
    for _ in range(count):
        yield {name: _moved(value, share, generator) for name, value in values.items()}


def _moved(value: NDArray[Any], share: float, generator: np.random.Generator) -> NDArray[Any]:
    if value.dtype.kind != "f":
        return value
    reach = share * float(np.abs(value).max(initial=0))
    return (value + reach * generator.uniform(-1, 1, value.shape)).astype(value.dtype)
