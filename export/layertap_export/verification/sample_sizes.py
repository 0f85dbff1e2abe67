"""Sizes for sample batches, where a model leaves them free."""

from __future__ import annotations

from collections.abc import Sequence

from layertap.format.card import TensorInfo

SIZES = {4: ((64, 64), (96, 80)), 5: ((16, 32, 32), (24, 40, 32))}
"""Two choices for free axes behind the batch axis, by rank; not square, so that they can't be
confused. Other ranks take 12 and 7."""

WAVES = ((4096,), (2560,))
"""The same for inputs of real numbers with one free axis, which are waves as a rule: sound."""

DOUBLINGS = {2: 8, 3: 8, 4: 3, 5: 3}
"""How often the sizes are doubled for a model that is too deep for them, by rank of its largest
input: sound has more samples than an image has rows."""


def doublings(inputs: Sequence[TensorInfo]) -> range:
    """How often the free sizes of a model's inputs may be doubled, from 0 up."""
    ranks = [len(info.shape) for info in inputs if None in info.shape[1:]]
    return range(1 + DOUBLINGS.get(max(ranks), 3)) if ranks else range(1)


def filled(info: TensorInfo, batch: int, choice: int, doublings: int) -> tuple[int, ...]:
    """The shape of an input in numbers.

    Args:
        info: the input.
        batch: the size of its first axis, if that is free.
        choice: which of the two sizes the other axes take, 0 or 1.
        doublings: how often these are doubled.
    """
    shape = info.shape
    if not shape:  # a signature may take a number
        return ()
    sizes = SIZES.get(len(shape), ((12,) * len(shape), (7,) * len(shape)))[choice]
    if len(shape) == 2 and "float" in info.dtype:
        sizes = WAVES[choice]
    free = iter([size << doublings for size in sizes] + [3] * len(shape))
    rest = [next(free) if size is None else size for size in shape[1:]]
    return (batch if shape[0] is None else shape[0], *rest)
