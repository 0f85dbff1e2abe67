"""The axes of images and feature maps in a batch, and copies of one sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layertap.errors import UsageError

if TYPE_CHECKING:
    from layertap._engine.program import Program

Array = npt.NDArray[Any]


def channels_last(program: Program, tensor: str, values: Array) -> Array:
    """The values of a tensor as `(n, ..., c)`: samples first, channels last.

    Args:
        program: says what the axes of its tensors mean.
        tensor: the name of a tensor in the graph, whose axes the values have.

    Raises:
        UsageError: the tensor has no channels.
    """
    order = _order(program, tensor, np.ndim(values))
    return np.transpose(values, order)


def laid_out(program: Program, tensor: str, values: Array) -> Array:
    """The same for a tensor that may have no channels: `(n, ..., c)` or `(n, ...)`."""
    return np.transpose(values, _order(program, tensor, np.ndim(values), strict=False))


def as_fed(program: Program, tensor: str, images: Array) -> Array:
    """The reverse of `channels_last` and of `laid_out`, as a contiguous array."""
    order = _order(program, tensor, np.ndim(images), strict=False)
    return np.ascontiguousarray(np.transpose(images, np.argsort(order)))


def space(program: Program, tensor: str, values: Array) -> tuple[int, ...]:
    """The sizes of a tensor's axes that are neither samples nor channels."""
    axes = program.axes(tensor, np.ndim(values))
    sizes = zip(np.shape(values), axes, strict=True)
    return tuple(size for size, letter in sizes if letter not in "NC")


def _order(program: Program, tensor: str, rank: int, *, strict: bool = True) -> list[int]:
    """The axes of a tensor in the order samples, all others, channels."""
    axes = program.axes(tensor, rank)
    if strict and rank > 1 and "C" not in axes:
        raise UsageError(
            f"a heat map needs feature maps with channels, but {tensor!r} has none: its axes are "
            f"{axes} (see docs/file-format.md). Choose another layer, or give a function reshape= "
            "that makes feature maps (n, h, w, c) of its values."
        )
    samples, channels = max(axes.find("N"), 0), axes.find("C")
    others = [axis for axis in range(rank) if axis not in (samples, channels)]
    return [samples, *others, *([channels] if channels > -1 else [])][:rank]


def sample_axis(program: Program, tensor: str, rank: int) -> int:
    """The axis of a tensor along which the samples are: 0, but 1 in a sequence of steps first.

    Args:
        program: says what the axes of its tensors mean.
        tensor: the name of a tensor in the graph.
        rank: the number of its axes.
    """
    return max(program.axes(tensor, rank).find("N"), 0)


def copies(
    program: Program, values: Mapping[str, Any], sample: int, samples: int, count: int
) -> dict[str, Any]:
    """`count` copies of one sample out of a batch of `samples`.

    A value without a row for each sample, such as an optional input, is not changed.
    """
    return {
        name: np.repeat(np.take(value, [sample], axis), count, axis)
        if has_rows(value, samples, axis)
        else value
        for name, value in values.items()
        for axis in [sample_axis(program, name, np.ndim(value))]
    }


def has_rows(value: Any, samples: int, axis: int = 0) -> bool:
    """Whether a value has a row for each sample of a batch, along an axis."""
    return np.ndim(value) > axis and np.shape(value)[axis] == samples
