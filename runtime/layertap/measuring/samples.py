"""Seeded inputs of a given size, for a run whose shapes or time count, not its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from layertap._arguments import sizes
from layertap._engine.program import Program
from layertap.comparing.golden import seeded
from layertap.errors import UsageError
from layertap.format.card import GoldenInput
from layertap.format.text import number_of, shape_text

RANDOM = "random"
"""What is given in place of inputs to measure on random values."""


def is_random(measure: Any) -> bool:
    """Whether random values are asked for, and not inputs of one's own."""
    return isinstance(measure, str) and measure == RANDOM


def sample(program: Program, size: Sequence[int] | None) -> dict[str, NDArray[Any]]:
    """One sample for each input of the model.

    Free sizes are those of the golden sample in the card, if `size` does not give them; the batch
    is 1.

    Args:
        program: the model's.
        size: the sizes of the first input's free axes after the batch axis; `(height, width)` for
            images.

    Raises:
        UsageError: the sizes do not fit the input, or some are not known.
    """
    golden = program.card.golden if program.card else None
    known = {item.name: item for item in golden.inputs} if golden else {}
    bound = _bound(program, None if size is None else sizes("size", size), known)
    found = {}
    for name, kind in program.graph.inputs.items():
        shape = tuple(bound[name, axis] for axis in range(len(kind.dims or ())))
        found[name] = _values(shape, kind.dtype, known.get(name))
    return found


def _bound(
    program: Program, size: tuple[int, ...] | None, known: Mapping[str, GoldenInput]
) -> dict[tuple[str, int], int]:
    """The size of each axis of each input."""
    inputs = program.graph.inputs
    names: dict[str, int] = {}
    bound: dict[tuple[str, int], int] = {}
    for name, kind in inputs.items():
        if kind.dims is None:
            raise UsageError(
                f"{program.name} does not say how many axes its input {name!r} has, so its cost is "
                "not known. Cut it to a part whose inputs are known."
            )
    first = next(iter(inputs), None)
    if size is not None:
        dims = (inputs[first].dims or ()) if first is not None else ()
        free = [at for at, dim in enumerate(dims) if not _fixed(dim)]
        free = free[1:] if first is not None and free[:1] == [_batch(program, first)] else free
        if len(size) != len(free):
            shape = shape_text(tuple(dim if isinstance(dim, int) else None for dim in dims))
            raise UsageError(
                f"size has {number_of(len(size), 'number')}, but the first input of "
                f"{program.name}, {first!r} {shape}, has {number_of(len(free), 'free size')} "
                f"after the batch.{'' if free else ' Leave size out.'}"
            )
        for at, number in zip(free, size, strict=True):
            bound[str(first), at] = number
            name_of = dims[at]
            if isinstance(name_of, str):
                names[name_of] = number
    for name, kind in inputs.items():
        shape_known = known[name].shape if name in known else ()
        dims = kind.dims or ()
        for axis, dim in enumerate(dims):
            key = name, axis
            if isinstance(dim, int):
                bound[key] = dim
            elif axis == _batch(program, name):
                bound[key] = 1
            elif key not in bound:
                if isinstance(dim, str) and dim in names:
                    bound[key] = names[dim]
                elif len(shape_known) == len(dims):
                    bound[key] = shape_known[axis]
                else:
                    raise UsageError(_UNKNOWN.format(axis, name, "Give size." * (name == first)))
    return bound


_UNKNOWN = (
    "the size of axis {} of the input {!r} is free, and the file has no golden sample that states "
    "one, so no size of its tensors is known. {}"
)


def _batch(program: Program, name: str) -> int | None:
    """The axis of the samples of an input; `None` for a picture of a finished file."""
    dims = program.graph.inputs[name].dims or ()
    return None if name == program.picture_input and len(dims) == 3 else 0


def _fixed(dim: object) -> bool:
    return isinstance(dim, int)


def _values(shape: tuple[int, ...], dtype: str, item: GoldenInput | None) -> NDArray[Any]:
    """Values that the model accepts: those of the golden sample's range, or between 0 and 1."""
    choices = item.choices if item else None
    if dtype == "string" and not choices:
        choices = ("",)
    low, high = (item.low, item.high) if item else (0.0, 1.0)
    if choices:
        low, high = 0.0, float(len(choices))
    return seeded(shape, dtype or "float32", low, high, 0, choices or None)
