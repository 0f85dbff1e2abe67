"""Measures which positions of an input change one position of a layer, by changing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap._engine.program import Program
from layertap.comparing.golden import uniform
from layertap.errors import UsageError

DRAWS = 4
"""Random inputs that positions are replaced by. One might change nothing, for example where a ReLU
stays at 0."""

Array = NDArray[Any]


def measured_box(
    program: Program,
    tensor: str,
    place: Mapping[int, int],
    inputs: Mapping[str, Array],
    name: str,
    axes: Sequence[int],
) -> tuple[tuple[int, int], ...] | None:
    """The smallest box outside of which changed values did not change a position of a tensor.

    From each side, a half of the input is replaced that grows and shrinks until its edge is found:
    with one position less, no bit of the values at the place changed.

    Args:
        place: the position of the tensor, by axis.
        inputs: one sample, by input name.
        name: the input that is changed.
        axes: its axes that are searched.

    Returns:
        The first position and the one after the last, for each axis; `None` if nothing changed.
    """
    changes = _changes(program, tensor, place, inputs, name)
    size = inputs[name].shape
    if not changes(tuple(slice(None) for _ in size)):
        return None
    return tuple(_edges(changes, size, axis) for axis in axes)


def _edges(
    changes: Callable[[tuple[slice, ...]], bool], size: Sequence[int], axis: int
) -> tuple[int, int]:
    """The first position along an axis that changes something, and the one after the last."""

    def part(span: slice) -> tuple[slice, ...]:
        return tuple(span if at == axis else slice(None) for at in range(len(size)))

    most = size[axis]
    before = _least(lambda count: changes(part(slice(0, count))), most)
    after = _least(lambda count: changes(part(slice(most - count, None))), most)
    return before - 1, most + 1 - after


def _least(changes: Callable[[int], bool], most: int) -> int:
    """The least number of positions that changes something; `most` are known to."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if changes(middle):
            high = middle
        else:
            low = middle
    return high


def _changes(
    program: Program,
    tensor: str,
    place: Mapping[int, int],
    inputs: Mapping[str, Array],
    name: str,
) -> Callable[[tuple[slice, ...]], bool]:
    """A function that says whether replacing a part of the input changes the place."""
    own = inputs[name]
    if own.dtype.kind != "f":
        raise UsageError(
            f"the field is measured by changing values, which needs an input of floats, and "
            f"{name!r} is {own.dtype}. Leave measure out."
        )
    if own.shape[:1] != (1,):
        raise UsageError(f"measure must be one sample, got {own.shape[0]}.")
    low, high = float(own.min()), float(own.max())
    spread = high - low or 1.0
    draws = [
        uniform(own.shape, low - spread / 2, high + spread / 2, seed).astype(own.dtype)
        for seed in range(DRAWS)
    ]
    fetch = program.fetch([tensor])

    def value(array: Array) -> Array:
        found = fetch({**inputs, name: array})[tensor]
        for axis in sorted(place, reverse=True):
            found = np.take(found, place[axis], axis)
        return np.asarray(found)

    plain = value(own)

    def changes(part: tuple[slice, ...]) -> bool:
        for draw in draws:
            changed = own.copy()
            changed[part] = draw[part]
            if not np.array_equal(value(changed), plain, equal_nan=True):
                return True
        return False

    return changes
