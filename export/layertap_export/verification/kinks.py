"""Where a gradient jumps: kinks within the reach of rounding.

The slope of a relu is 0 on one side of 0, and 1 on the other. Where what goes into it is 0 up to
rounding, two programs that compute in float32, in another order of sums, may see it on different
sides; their gradients then differ there as they should, and both are right. Of the millions of
relus in a network some are often that close.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING_REACH = 1e-5
"""How far aside, as a share of a tensor's largest value: more than forward passes differ by."""


def neighbours(values: Mapping[str, NDArray[Any]], count: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The same tensors a very little aside, at random; those of whole numbers as they are."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield {name: _moved(value, generator) for name, value in values.items()}


def _moved(value: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    if value.dtype.kind != "f":
        return value
    reach = ROUNDING_REACH * float(np.abs(value).max(initial=0))
    return (value + reach * generator.uniform(-1, 1, value.shape)).astype(value.dtype)
