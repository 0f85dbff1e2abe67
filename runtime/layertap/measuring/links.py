"""Which positions along the axes of an operator's input a position of its output depends on.

A link is asked in two ways. `marks` takes marked positions of the output and marks those of the
input: exact, and only positions that exist. `reach` takes, for each position of the layer that the
walk began at, the first and the last position that it reads, also beyond the edges: from that
follow sizes and strides as papers state them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Marks = NDArray[np.bool_]
Positions = NDArray[np.int64]


class Reach(NamedTuple):
    """What the positions of a layer read along one axis of a tensor."""

    axis: int | None = None
    """The axis of the layer whose position decides; `None` if none does."""
    low: Positions | None = None
    """The first position that is read, by position along that axis of the layer."""
    high: Positions | None = None
    """The last one."""
    whole: int | None = None
    """The node because of which every position of the layer reads all; `None` if there is none."""
    mixed: int | None = None
    """The node that mixes axes on the way, so that there is no size for all positions; `None` if
    there is none."""

    def join(self, other: Reach, node: int) -> Reach:
        """What is read on either of two ways.

        Args:
            node: the index of the operator at which the other way begins.
        """
        whole, mixed = _first(self.whole, other.whole), _first(self.mixed, other.mixed)
        if self.low is None or self.high is None:
            return other._replace(whole=whole, mixed=mixed)
        if other.low is None or other.high is None:
            return self._replace(whole=whole, mixed=mixed)
        if self.axis != other.axis:
            return Reach(whole=whole, mixed=node if mixed is None else mixed)
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Reach(self.axis, low, high, whole, mixed)


def _first(*nodes: int | None) -> int | None:
    return min((node for node in nodes if node is not None), default=None)


class Link:
    """Every position reads the same position."""

    def marks(self, marks: Sequence[Marks]) -> Sequence[Marks]:
        """The positions that are read, for each axis of the input.

        Args:
            marks: the positions of the output, for each of its axes; none is empty.
        """
        return marks

    def reach(self, reaches: Sequence[Reach], node: int) -> Sequence[Reach]:
        """The same for the positions of a layer.

        Args:
            reaches: what is read of the output, for each of its axes.
            node: the index of the operator.
        """
        return reaches


SAME = Link()


class Along(Link, ABC):
    """A link between one axis and one axis."""

    def __init__(self, size: int) -> None:
        """
        Args:
            size: number of positions of the input.
        """
        self.size = size

    @abstractmethod
    def read(self, at: Positions) -> Positions:
        """The positions that some positions read; those that do not exist may be among them."""

    @abstractmethod
    def bounds(self, low: Positions, high: Positions) -> tuple[Positions, Positions] | None:
        """The first and the last position that a range reads; `None` if there is no rule."""

    def marks(self, marks: Sequence[Marks]) -> Sequence[Marks]:
        found = np.zeros(self.size, bool)
        at = self.read(np.flatnonzero(marks[0])).ravel()
        found[at[(at >= 0) & (at < self.size)]] = True
        return (found,)

    def reach(self, reaches: Sequence[Reach], node: int) -> Sequence[Reach]:
        (own,) = reaches
        if own.low is None or own.high is None:
            return reaches
        bounds = self.bounds(own.low, own.high)
        if bounds is None:
            return (Reach(whole=own.whole, mixed=node),)
        return (own._replace(low=bounds[0], high=bounds[1]),)


class Strided(Along):
    """A window of `length` positions, `dilation` apart, is moved from `start` on by `stride`."""

    def __init__(
        self, size: int, length: int, stride: int = 1, dilation: int = 1, start: int = 0
    ) -> None:
        super().__init__(size)
        self.stride = stride
        self.taps = start + np.arange(length) * dilation
        """The positions of the window before it is moved."""
        self.first, self.last = start, start + (length - 1) * dilation


class Windows(Strided):
    """Position `p` reads `p * stride + start + t * dilation`, for each `t` below `length`."""

    def read(self, at: Positions) -> Positions:
        return at[:, None] * self.stride + self.taps

    def bounds(self, low: Positions, high: Positions) -> tuple[Positions, Positions]:
        if self.stride < 0:
            low, high = high, low
        return low * self.stride + self.first, high * self.stride + self.last


class Spread(Strided):
    """The reverse: `q` is read by `q * stride + start + t * dilation`."""

    def read(self, at: Positions) -> Positions:
        hit = at[:, None] - self.taps
        found: Positions = hit[hit % self.stride == 0] // self.stride
        return found

    def bounds(self, low: Positions, high: Positions) -> tuple[Positions, Positions]:
        return -((self.last - low) // self.stride), (high - self.first) // self.stride


class Mapped(Along):
    """A function gives the positions that are read."""

    def __init__(
        self,
        size: int,
        read: Callable[[Positions], Positions],
        bounds: Callable[[Positions], Positions] | None = None,
    ) -> None:
        """
        Args:
            size: number of positions of the input.
            read: the positions that some positions read, along a further axis.
            bounds: the same without regard to the edges; `None` if there is no rule beyond them.
        """
        super().__init__(size)
        self._read, self._beyond = read, bounds

    def read(self, at: Positions) -> Positions:
        return self._read(at)

    def bounds(self, low: Positions, high: Positions) -> tuple[Positions, Positions] | None:
        if self._beyond is None:
            return None
        return self._beyond(low).min(axis=-1), self._beyond(high).max(axis=-1)


class Upto(Link):
    """A position reads all before it, as the steps of a recurrent layer do; or all after it."""

    def __init__(self, *, reverse: bool = False) -> None:
        self._reverse = reverse

    def marks(self, marks: Sequence[Marks]) -> Sequence[Marks]:
        step = -1 if self._reverse else 1
        return (np.logical_or.accumulate(marks[0][::-step])[::-step],)

    def reach(self, reaches: Sequence[Reach], node: int) -> Sequence[Reach]:
        return (Reach(whole=node),)


class BothWays(Link):
    """A step reads all before it in one direction, and all after it in the other."""

    def marks(self, marks: Sequence[Marks]) -> Sequence[Marks]:
        steps, ways = marks
        found = np.zeros(len(steps), bool)
        for way in np.flatnonzero(ways):
            found |= Upto(reverse=bool(way)).marks([steps])[0]
        return (found,)

    def reach(self, reaches: Sequence[Reach], node: int) -> Sequence[Reach]:
        return (Reach(whole=node),)


class Whole(Link):
    """Every position reads all positions of some axes."""

    def __init__(self, *sizes: int) -> None:
        """
        Args:
            sizes: numbers of positions of the input's axes.
        """
        self._sizes = sizes

    def marks(self, marks: Sequence[Marks]) -> Sequence[Marks]:
        return tuple(np.ones(size, bool) for size in self._sizes)

    def reach(self, reaches: Sequence[Reach], node: int) -> Sequence[Reach]:
        return (Reach(whole=node),) * len(self._sizes)


class Repeated(Link):
    """Every position reads the only one of an axis of size 1."""

    def marks(self, marks: Sequence[Marks]) -> Sequence[Marks]:
        return (np.ones(1, bool),)

    def reach(self, reaches: Sequence[Reach], node: int) -> Sequence[Reach]:
        (own,) = reaches
        return (Reach(whole=own.whole if own.low is None else node),)


REPEATED = Repeated()


class Picked(Link):
    """Every position reads a fixed one."""

    def __init__(self, size: int, at: int) -> None:
        self._size, self._at = size, at

    def marks(self, marks: Sequence[Marks]) -> Sequence[Marks]:
        found = np.zeros(self._size, bool)
        found[self._at] = True
        return (found,)

    def reach(self, reaches: Sequence[Reach], node: int) -> Sequence[Reach]:
        return (Reach(mixed=node),)


class Regrouped(Link):
    """Several axes, joined in their order and split into others, as by a Reshape."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """
        Args:
            sizes: of the input's axes.
        """
        self._sizes = tuple(sizes)

    def marks(self, marks: Sequence[Marks]) -> Sequence[Marks]:
        joined: Any = marks[0]
        for one in marks[1:]:
            joined = np.logical_and.outer(joined, one)
        joined = joined.reshape(self._sizes)
        axes = range(len(self._sizes))
        return tuple(joined.any(axis=tuple(x for x in axes if x != axis)) for axis in axes)

    def reach(self, reaches: Sequence[Reach], node: int) -> Sequence[Reach]:
        whole = _first(*(one.whole for one in reaches))
        mixed = _first(*(one.mixed for one in reaches))
        if any(one.low is not None for one in reaches):
            mixed = node if mixed is None else mixed
        found = [Reach(whole=whole, mixed=mixed)] * len(self._sizes)
        (own, *more), inner = reaches, math.prod(self._sizes[1:])
        if not more and own.low is not None and own.high is not None:
            found[0] = own._replace(low=own.low // inner, high=own.high // inner)
        return found
