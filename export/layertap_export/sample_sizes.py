"""Sizes for sample batches, where a model leaves them free."""

from __future__ import annotations

from collections.abc import Sequence

from layertap._layer import Shape
from layertap.card import TensorInfo

SIZES = {4: ((64, 64), (96, 80)), 5: ((16, 32, 32), (24, 40, 32))}
"""Two choices for free axes behind the batch axis, by rank; not square, so that they can't be
confused. Other ranks take 12 and 7."""


def has_free_sizes(inputs: Sequence[TensorInfo]) -> bool:
    return any(None in info.shape[1:] for info in inputs)


def filled(shape: Shape, batch: int, choice: int, doublings: int) -> tuple[int, ...]:
    """A shape in numbers.

    Args:
        shape: of an input.
        batch: the size of its first axis, if that is free.
        choice: which of the two sizes the other axes take, 0 or 1.
        doublings: how often these are doubled.
    """
    if not shape:
        return ()
    sizes = SIZES.get(len(shape), ((12,) * len(shape), (7,) * len(shape)))[choice]
    free = iter([size << doublings for size in sizes] + [3] * len(shape))
    rest = [next(free) if size is None else size for size in shape[1:]]
    return (batch if shape[0] is None else shape[0], *rest)
