"""Windows: boxes of neighbouring positions that are changed together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from layertap._arguments import count, sizes
from layertap.errors import UsageError

Box = tuple[slice, ...]
"""A slice for each axis."""

DEFAULT = 8
"""A window that is not given is so many times smaller than the axes it lies on."""


def of_size(
    option: str,
    asked: Any,
    name: str,
    size: Sequence[int],
    *,
    default: Sequence[int],
    most: Sequence[int],
) -> tuple[int, ...]:
    """A size along each axis of some positions, such as that of a window.

    Args:
        option: the name of the argument, for messages.
        asked: one integer for all axes, or one for each; a dict of these by name; `None` for the
            default.
        name: the name of the layer or input that has the positions.
        size: the numbers of positions.
        most: the largest sizes that are allowed.

    Raises:
        UsageError: it does not fit.
    """
    if isinstance(asked, Mapping):
        asked = asked.get(name)
    if asked is None:
        return tuple(default)
    if isinstance(asked, (int, np.integer)) or not np.ndim(asked):
        found = (count(option, asked),) * len(size)
    else:
        found = sizes(option, asked)
    if len(found) != len(size):
        raise UsageError(
            f"{option} must be one integer, or one for each of the {len(size)} axes of positions "
            f"of {name!r}, got {found}."
        )
    if any(one > limit for one, limit in zip(found, most, strict=True)):
        limits = " x ".join(map(str, most))
        raise UsageError(
            f"{option} must be at most {limits} for {name!r}, which has "
            f"{' x '.join(map(str, size))} positions, got {' x '.join(map(str, found))}."
        )
    return found


def default_window(size: Sequence[int], *, single: bool) -> tuple[int, ...]:
    """The window that is used if none is given.

    Args:
        single: whether each position means something of its own, as columns and tokens do.
    """
    return tuple(1 if single else max(1, round(one / DEFAULT)) for one in size)


def sliding(size: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> list[Box]:
    """All places of a window that moves by a stride. The last one ends at the edge, so that every
    position is in a window, and all windows are of one size."""
    starts = []
    for along, wide, step in zip(size, window, stride, strict=True):
        last = along - wide
        starts.append([*range(0, last, step), last])
    return [
        tuple(slice(at, at + wide) for at, wide in zip(corner, window, strict=True))
        for corner in itertools.product(*starts)
    ]


def patches(size: Sequence[int], window: Sequence[int]) -> npt.NDArray[np.intp]:
    """The index of the patch that each position belongs to, of the given size.

    Patches of the window's size lie side by side from the first position on; the last ones are cut
    off at the edge.
    """
    along = [np.arange(one) // wide for one, wide in zip(size, window, strict=True)]
    counts = [int(one[-1]) + 1 if len(one) else 0 for one in along]
    grid = np.meshgrid(*along, indexing="ij")
    index: npt.NDArray[np.intp] = np.zeros(tuple(size), np.intp)
    for one, wide in zip(grid, counts, strict=True):
        index = index * wide + one
    return index
