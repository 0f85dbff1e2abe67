"""The sizes of the axes that a model leaves free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from layertap.errors import UsageError, suggest
from layertap.format.card import TensorInfo
from layertap.format.graph import Dims

FIRST, SECOND, SMALLER, LARGER = range(4)
"""The four sets of sizes of a model: two for the seeded batches, and two that are beyond these."""

SIZES: Mapping[int, Sequence[Sequence[tuple[int, ...]]]] = {
    4: (
        ((64, 64),),
        ((96, 80), (96, 96), (96, 64), (64, 64)),
        ((33, 47), (34, 46), (36, 44), (40, 48), (32, 48), (32, 32), (33, 33)),
        ((131, 97), (130, 98), (132, 100), (136, 104), (144, 112), (160, 96), (128, 128)),
    ),
    5: (
        ((16, 32, 32),),
        ((24, 40, 32), (32, 32, 32), (16, 32, 32)),
        ((9, 17, 13), (8, 16, 12), (8, 16, 16)),
        ((27, 35, 41), (28, 36, 44), (32, 48, 48)),
    ),
}
"""For each set several choices for the free axes behind the batch axis, by rank, of which the first
that the model takes is used. Not square and odd where that is possible."""

OTHERS: Sequence[Sequence[tuple[int, ...]]] = (
    ((12,),),
    ((7,), (8,), (6,), (12,)),
    ((5,), (3,), (4,), (6,)),
    ((19,), (18,), (20,), (24,), (16,)),
)
"""The same for inputs of other ranks, whose free axes all have one size."""

WAVES: Sequence[Sequence[tuple[int, ...]]] = (
    ((4096,),),
    ((2560,), (2048,), (4096,)),
    ((2051,), (2050,), (2052,), (2048,)),
    ((5003,), (5002,), (5000,), (5120,), (6144,)),
)
"""The same for inputs of real numbers with one free axis, which are waves as a rule: sound."""

DOUBLINGS = {2: 10, 3: 11, 4: 5, 5: 3}
"""How often the sizes are doubled for a model that is too deep for them, by rank of its largest
input: sound has more samples than an image has rows."""

HALVINGS = {4: 5, 5: 4}
"""How often they are halved for a model that has an upper bound, such as learned positions; other
ranks up to `OTHER_HALVINGS` times."""

OTHER_HALVINGS = 3

LEAST_TIMES = (2, 3, 1, 4)
"""How many times a multiple is taken, at least, for each set of sizes: they are to differ."""

MOST_ELEMENTS = 100_000
"""The largest number of elements that sizes are made a multiple of."""

FACTORS = (2.0, 4.0, 8.0, 3.0, 16.0, 0.5)
"""How many times larger one input is than the others, for models that relate their inputs."""


@dataclass(frozen=True)
class Layout:
    """How sizes are chosen for the free axes of all inputs."""

    doublings: int = 0
    """How often all sizes are doubled; halved if negative."""
    factors: Mapping[int, float] = field(default_factory=dict)
    """By how much the sizes of an input are multiplied, by its index; others are as they are."""
    shifts: Mapping[int, int] = field(default_factory=dict)
    """What is added to the sizes of an input."""
    common: int | None = None
    """The rank from which all inputs take their sizes; by default each takes those of its own."""
    short: frozenset[int] = frozenset()
    """Inputs that are no waves: tokens, or sequences that a loop runs over."""
    given: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Sizes that the user has fixed, by the index of the input and its axis."""
    exact: int | None = None
    """One size for all free axes, in place of the tables."""
    multiple: int = 1
    """What all sizes are a multiple of."""

    def choices(self, inputs: Sequence[TensorInfo], which: int) -> int:
        """How many choices there are for a set of sizes."""
        tables = [self._table(index, info) for index, info in enumerate(inputs) if _is_free(info)]
        return max((len(table[which]) for table in tables), default=1)

    def shapes(
        self, inputs: Sequence[TensorInfo], batch: int, which: int = FIRST, choice: int = 0
    ) -> tuple[tuple[int, ...], ...]:
        """The shapes of all inputs in numbers.

        Args:
            inputs: the inputs.
            batch: the size of their first axis, where it is free.
            which: the set of sizes.
            choice: which of its choices.
        """
        return tuple(
            self._shape(index, info, batch, which, choice) for index, info in enumerate(inputs)
        )

    def _shape(
        self, index: int, info: TensorInfo, batch: int, which: int, choice: int
    ) -> tuple[int, ...]:
        if not info.shape:  # a signature may take a number
            return ()
        table = self._table(index, info)[which]
        sizes = table[min(choice, len(table) - 1)]
        last = sizes[-1] if len(sizes) == 1 else 3
        free = iter([*sizes, *[last] * len(info.shape)])
        shape = [batch if info.shape[0] is None else info.shape[0]]
        for axis, size in enumerate(info.shape[1:], 1):
            shape.append(self._scaled(index, next(free), which) if size is None else size)
            shape[-1] = self.given.get((index, axis), shape[-1])
        shape[0] = self.given.get((index, 0), shape[0])
        return tuple(shape)

    def _table(self, index: int, info: TensorInfo) -> Sequence[Sequence[tuple[int, ...]]]:
        rank = len(info.shape)
        if self.common is not None:
            rank = self.common
        if rank == 2 and "float" in info.dtype and index not in self.short:
            return WAVES
        return SIZES.get(rank, OTHERS)

    def _scaled(self, index: int, size: int, which: int) -> int:
        if self.exact is not None:
            size = self.exact
        elif self.doublings >= 0:
            size <<= self.doublings
        else:
            size >>= -self.doublings
        size = max(1, int(size * self.factors.get(index, 1.0)) + self.shifts.get(index, 0))
        if self.multiple == 1:
            return size
        return self.multiple * max(LEAST_TIMES[which], -(-size // self.multiple))


def _is_free(info: TensorInfo) -> bool:
    return None in info.shape[1:]


def has_free_sizes(inputs: Sequence[TensorInfo], layout: Layout) -> bool:
    """Whether a size behind the batch axis is free, and not given by the user."""
    return any(
        size is None and (index, axis) not in layout.given
        for index, info in enumerate(inputs)
        for axis, size in enumerate(info.shape[1:], 1)
    )


def layouts(
    inputs: Sequence[TensorInfo], first: Layout, products: Iterable[int] = ()
) -> Iterator[Layout]:
    """The layouts to be tried, from the simplest to those that relate the inputs to each other.

    Args:
        inputs: the inputs.
        first: the simplest.
        products: numbers of elements, of which those of a tensor must be a multiple.
    """
    yield first
    if not has_free_sizes(inputs, first):
        return
    free = [index for index, info in enumerate(inputs) if _is_free(info)]
    rank = max(len(inputs[index].shape) for index in free)
    related = list(_related(inputs, free, first)) if len(free) > 1 else []
    doubled = [replace(first, doublings=n) for n in range(1, 1 + DOUBLINGS.get(rank, 3))]
    halvings = 11 if any(first._table(i, inputs[i]) is WAVES for i in free) else OTHER_HALVINGS
    halved = [replace(first, doublings=-n) for n in range(1, 1 + HALVINGS.get(rank, halvings))]
    for multiple in _multiples([inputs[index] for index in free], products):
        yield replace(first, multiple=multiple)
    yield from related
    yield from doubled
    yield from halved
    for layout in related:
        yield replace(layout, doublings=1)
        yield replace(layout, doublings=2)
        yield replace(layout, doublings=-1)
        yield replace(layout, doublings=-2)


def _multiples(inputs: Sequence[TensorInfo], products: Iterable[int]) -> list[int]:
    """Multiples for free sizes, by the numbers of elements: of each alone, and of all."""
    known = sorted(product for product in products if 1 < product <= MOST_ELEMENTS)
    if len(known) > 1 and math.lcm(*known) <= MOST_ELEMENTS:
        known.append(math.lcm(*known))
    found = dict.fromkeys(
        product // math.gcd(product, math.prod(size or 1 for size in info.shape[1:]))
        for product in known
        for info in inputs
    )
    return [multiple for multiple in found if multiple > 1]


def _related(inputs: Sequence[TensorInfo], free: Sequence[int], first: Layout) -> Iterator[Layout]:
    ranks = sorted({len(inputs[index].shape) for index in free}, reverse=True)
    bases = [first]
    if len(ranks) > 1 or len({id(first._table(i, inputs[i])) for i in free}) > 1:
        bases += [replace(first, common=rank) for rank in ranks]
        yield from bases[1:]
    for base in bases:
        for index in free:
            for factor in FACTORS:
                yield replace(base, factors={index: factor})
        for index in free:
            for shift in (1, -1):
                yield replace(base, shifts={index: shift})


def given_sizes(
    sizes: Mapping[str, int], inputs: Sequence[TensorInfo], stated: Mapping[str, Dims]
) -> dict[tuple[int, int], int]:
    """The sizes that the user has fixed, by the index of the input and its axis.

    Args:
        sizes: sizes by the symbols of the free axes, for example `height`. Of several inputs, whose
            symbols begin with their names, `height` means all of them.
        inputs: the inputs of the model.
        stated: the sizes and symbols of the inputs in the file, by name.

    Raises:
        UsageError: no axis has this symbol, or a size is not a number of at least 1.
    """
    symbols = {
        (index, axis): symbol
        for index, info in enumerate(inputs)
        for axis, symbol in enumerate(stated.get(info.name) or ())
        if isinstance(symbol, str) and symbol
    }
    found: dict[tuple[int, int], int] = {}
    if not isinstance(sizes, Mapping):
        raise UsageError(f"sizes must be a dict, as in {{'height': 512}}, got {sizes!r}.")
    for name, size in sizes.items():
        if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
            raise UsageError(
                f"the size {name!r} must be a whole number of at least 1, got {size!r}."
            )
        meant = [place for place, symbol in symbols.items() if symbol == name] or [
            place for place, symbol in symbols.items() if symbol.endswith(f"_{name}")
        ]
        if not meant:
            known = list(dict.fromkeys(symbols.values()))
            raise UsageError(
                f"the model has no free size {name!r}. "
                + (f"Its free sizes are {', '.join(known)}." if known else "All sizes are fixed.")
                + suggest(name, known)
            )
        found.update(dict.fromkeys(meant, int(size)))
    return found
