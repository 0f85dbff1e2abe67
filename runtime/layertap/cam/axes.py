"""How images lie in a batch: their axes, and copies of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from layertap._engine.program import Program

Array = npt.NDArray[Any]


def channels_last(program: Program, values: Array) -> Array:
    """`(n, ..., c)`; files from elsewhere have the channels after the batch."""
    return values if program.channels_last else np.moveaxis(values, 1, -1)


def as_fed(program: Program, images: Array) -> Array:
    """The reverse of `channels_last`, in one piece."""
    return np.ascontiguousarray(images if program.channels_last else np.moveaxis(images, -1, 1))


def copies(values: Mapping[str, Any], sample: int, samples: int, count: int) -> dict[str, Any]:
    """`count` copies of one sample out of a batch of `samples`.

    What has no row for each sample, an optional input perhaps, stays as it is.
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
