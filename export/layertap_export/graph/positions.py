"""Which positions of an image the positions of a tensor's axis stand for, also after a reshape.

The rows and columns of an image, or of feature maps, are axes at first. A reshape makes two axes of
one (rows of patches, and rows inside a patch), or one axis of two (the tokens of a transformer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from .shapes.sizes import Free, Size, fixed, product

Kind: TypeAlias = Literal["samples", "rows", "columns", "other"]


@dataclass(frozen=True)
class Factor:
    """One of the factors that an axis is the product of."""

    kind: Kind
    size: Size
    step: int = 1
    """How many rows (or columns) one position is away from the next."""
    total: Size = 0
    """How many rows (or columns, or samples) there are."""

    @property
    def covers(self) -> bool:
        """Whether its positions cover all rows (or columns, or samples), one after the other."""
        return self.size * self.step == self.total


@dataclass(frozen=True)
class Positions:
    """What the positions of one axis stand for."""

    factors: tuple[Factor, ...]
    """The last one changes fastest."""
    first: int = 0
    """Positions before those that the factors describe."""
    alone: bool = True
    """Whether the factors describe all positions of the axis."""

    @property
    def grid(self) -> tuple[int, int] | None:
        """The number of rows and columns, if these are all patches of an image, row by row."""
        kinds = [factor.kind for factor in self.factors]
        if kinds != ["rows", "columns"] or not all(factor.covers for factor in self.factors):
            return None
        sizes = fixed(tuple(factor.size for factor in self.factors))
        return (sizes[0], sizes[1]) if sizes else None

    @property
    def count(self) -> Size:
        """How many positions the factors describe."""
        return product(factor.size for factor in self.factors)

    def moved(self, before: int, size: Size) -> Positions | None:
        """The same after `before` positions in an axis of `size`, fewer where it is negative.

        `None` if a position that the factors describe is no longer there.
        """
        first, count = self.first + before, self.count
        inside = isinstance(count, int) and isinstance(size, int) and first + count <= size
        return Positions(self.factors, first, alone=False) if first >= 0 and inside else None


Labels: TypeAlias = "tuple[Positions | None, ...]"
"""What is known of each axis of a tensor."""


def whole(kind: Kind, size: Size) -> Positions:
    """An axis that is all rows, columns or samples."""
    return Positions((Factor(kind, size, 1, size),))


def is_samples(positions: Positions | None) -> bool:
    """Whether an axis is that of the samples, and nothing else."""
    return (
        positions is not None
        and positions.alone
        and [factor.kind for factor in positions.factors] == ["samples"]
        and positions.factors[0].covers
    )


def reshaped(labels: Labels, sizes: Sequence[Size], target: Sequence[Size]) -> Labels:
    """What is known of the axes after a reshape from `sizes` to `target`."""
    made: list[Positions | None] = [None] * len(target)
    for old, new in _groups(sizes, target):
        if len(old) == len(new) == 1:
            made[new[0]] = labels[old[0]]
            continue
        factors = _factors([(labels[axis], sizes[axis]) for axis in old])
        for axis in new:
            taken, factors = _taken(factors, target[axis])
            known = any(factor.kind != "other" for factor in taken)
            made[axis] = Positions(tuple(_merged(taken))) if known else None
    return tuple(made)


def _groups(sizes: Sequence[Size], target: Sequence[Size]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes with the same product before and after; none if that is not known.

    Axes of size 1 are left out.
    """
    before = [axis for axis, size in enumerate(sizes) if size != 1]
    after = [axis for axis, size in enumerate(target) if size != 1]
    groups = []
    while before and after:
        old, new = [before.pop(0)], [after.pop(0)]
        while True:
            have = product(sizes[axis] for axis in old)
            want = product(target[axis] for axis in new)
            if have == want:
                break
            if before and _is_less(have, want):
                old.append(before.pop(0))
            elif after and _is_less(want, have):
                new.append(after.pop(0))
            else:
                return []
        groups.append((old, new))
    return [] if before or after else groups


def _is_less(one: Size, other: Size) -> bool:
    """Whether a size is less than another, as far as that is known."""
    first, second = _order(one), _order(other)
    return first is not None and second is not None and first < second


def _order(size: Size) -> tuple[int, int] | None:
    if not isinstance(size, Free):
        return 0, size
    if len(size.terms) > 1:
        return None
    ((names, factor),) = size.terms
    return len(names), factor


def _factors(axes: Sequence[tuple[Positions | None, Size]]) -> list[Factor]:
    """The factors of axes that are joined; empty if those of one are not known."""
    found: list[Factor] = []
    for positions, size in axes:
        if positions is None:
            found.append(Factor("other", size))
        elif positions.alone:
            found += positions.factors
        else:
            return []
    return found


def _taken(factors: Sequence[Factor], size: Size) -> tuple[list[Factor], list[Factor]]:
    """The factors of an axis of `size`, and the rest; both empty if it ends inside of one that
    cannot be divided."""
    taken: list[Factor] = []
    for at, factor in enumerate(factors):
        reached = product(one.size for one in taken)
        if reached == size:
            return taken, list(factors[at:])
        if reached * factor.size == size or _is_less(reached * factor.size, size):
            taken.append(factor)
            continue
        if not (isinstance(reached, int) and isinstance(size, int) and size % reached == 0):
            return [], []
        outer = size // reached
        if not isinstance(factor.size, int) or factor.size % outer:
            return [], []
        inner = factor.size // outer
        taken.append(replace(factor, size=outer, step=factor.step * inner))
        return taken, [replace(factor, size=inner), *factors[at + 1 :]]
    return (taken, []) if product(one.size for one in taken) == size else ([], [])


def _merged(factors: Sequence[Factor]) -> list[Factor]:
    """The factors, with those joined that were one before they were split."""
    made: list[Factor] = []
    for factor in factors:
        last = made[-1] if made else None
        if (
            last is not None
            and (last.kind, last.total) == (factor.kind, factor.total)
            and last.step == factor.step * factor.size
        ):
            made[-1] = replace(factor, size=last.size * factor.size)
        else:
            made.append(factor)
    return made
