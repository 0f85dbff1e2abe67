"""How much of each layer fits into a page: how many channels, and in which resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

STATISTICS = 24
"""Bytes of the statistics of a channel: six float32."""

FEW = 6
"""So many channels are kept before the resolution is."""


def shared(needs: Sequence[int], total: int) -> list[int]:
    """Bytes for each of several parts: no more than it needs, and otherwise equal shares."""
    rooms = [0] * len(needs)
    left = total
    order = sorted(range(len(needs)), key=lambda at: needs[at])
    for done, at in enumerate(order):
        rooms[at] = min(needs[at], left // (len(order) - done))
        left -= rooms[at]
    return rooms


def need(space: Sequence[int], channels: int) -> int:
    """Bytes of some channels in full resolution, with their statistics."""
    return channels * (STATISTICS + math.prod(space))


def fitted(space: Sequence[int], channels: int, room: int, *, fixed: bool) -> tuple[int, int]:
    """How many channels fit into some bytes, and the side of the blocks that become one value.

    Args:
        space: the sizes of a map, `(h, w)` or `(t,)`.
        channels: how many are wanted.
        room: the number of bytes.
        fixed: keep that many channels, in whatever resolution.

    Returns:
        At least one channel, and a side of at least 1.
    """
    least = channels if fixed else min(channels, FEW)
    for side in range(1, max(space) + 1):
        fit = room // need(blocks(space, side), 1)
        if fit >= least:
            return min(channels, fit), side
    return (least if fixed else max(1, min(channels, room // need((1,), 1)))), max(space)


def blocks(space: Sequence[int], side: int) -> tuple[int, ...]:
    """How many blocks of this side cover a map, along each axis."""
    return tuple(-(-size // side) for size in space)
