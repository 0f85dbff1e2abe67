"""The axes of a batch of images, and copies of one sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from layertap._engine.program import Program

Array = npt.NDArray[Any]


def channels_last(program: Program, values: Array) -> Array:
    """The values with channels last, `(n, ..., c)`; in a file without a card they come second."""
    return values if program.channels_last else np.moveaxis(values, 1, -1)


def as_fed(program: Program, images: Array) -> Array:
    """The reverse of `channels_last`, as a contiguous array."""
    return np.ascontiguousarray(images if program.channels_last else np.moveaxis(images, -1, 1))


def copies(values: Mapping[str, Any], sample: int, samples: int, count: int) -> dict[str, Any]:
    """`count` copies of one sample out of a batch of `samples`.

    A value without a row for each sample, such as an optional input, is not changed.
    """
    return {
        name: np.repeat(value[sample : sample + 1], count, axis=0)
        if has_rows(value, samples)
        else value
        for name, value in values.items()
    }


def has_rows(value: Any, samples: int) -> bool:
    """Whether a value has a row for each sample of a batch."""
    return np.ndim(value) > 0 and len(value) == samples
