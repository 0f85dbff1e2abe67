"""Seeded inputs that are the same on all machines and with all versions of numpy.

numpy does not promise that its generators give the same numbers in every version, so this one is
written down: element `i` of an input is number `seed * 2**32 + i` of the SplitMix64 sequence that
starts from 0; its upper 24 bits, as a fraction of 2**24, are stretched over [low, high).
Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import ModelFileError

if TYPE_CHECKING:
    from layertap.format.card import Golden, TensorInfo


MOST_VALUES = 1 << 27
"""Most values of a sample: a volume of 512 x 512 x 512, or 800 images of 224 x 224."""


def uniform(shape: Sequence[int], low: float, high: float, seed: int) -> NDArray[np.float64]:
    """Uniform numbers in [low, high), float64, in C order."""
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        state = np.uint64(seed) * np.uint64(2**32) + np.arange(count, dtype=np.uint64)
        state = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    fraction = (state >> np.uint64(40)).astype(np.float64) / 2**24
    with np.errstate(all="ignore"):
        numbers: NDArray[np.float64] = low + (high - low) * fraction
    return numbers.reshape(tuple(shape))


def swept(shape: Sequence[int], low: float, high: float, step: float) -> NDArray[np.float64]:
    """Numbers that go through [low, high) in whole steps, again and again, float64, in C order.

    Element `i` is `low + floor(i * step) mod (high - low)`. So a few elements touch every row of a
    table, where random numbers would leave out a third of them.
    """
    turns = np.floor(np.arange(math.prod(shape)) * step)
    numbers: NDArray[np.float64] = low + np.mod(turns, high - low)
    return numbers.reshape(tuple(shape))


def seeded(
    shape: Sequence[int],
    dtype: str,
    low: float,
    high: float,
    seed: int,
    choices: Sequence[Any] | None = None,
    step: float | None = None,
) -> NDArray[Any]:
    """Uniform numbers as an input of `dtype`: whole ones for integers, true or false for bool.

    With `choices`, each number, rounded down, is the index of a choice. With `step`, the numbers
    are those of `swept`, and the seed has no effect.
    """
    numbers = uniform(shape, low, high, seed) if step is None else swept(shape, low, high, step)
    if choices is not None:
        values = np.array(choices, object if dtype == "string" else dtype)
        return values[np.floor(numbers).astype(np.int64)]
    if dtype == "bool":
        return numbers >= (low + high) / 2
    if np.dtype(dtype).kind in "iu":
        numbers = np.floor(numbers)
    with np.errstate(all="ignore"):  # numbers beyond the range of the dtype
        return numbers.astype(dtype)


def feeds(golden: Golden, inputs: Sequence[TensorInfo]) -> dict[str, NDArray[Any]]:
    """What to feed for a golden sample, by the name of the input.

    Args:
        golden: the sample.
        inputs: the model's inputs, for their dtypes.

    Raises:
        ModelFileError: the card's description does not give a sample, or one that is too large.
    """
    if sum(math.prod(item.shape) for item in golden.inputs) > MOST_VALUES:
        raise ModelFileError(
            f"the golden sample in the card has more than {MOST_VALUES:,} values. Export the model "
            "again, at a smaller size."
        )
    dtypes = {info.name: info.dtype for info in inputs}
    try:
        return {
            item.name: seeded(
                item.shape,
                dtypes[item.name],
                item.low,
                item.high,
                golden.seed,
                item.choices,
                item.step,
            )
            for item in golden.inputs
        }
    except (LookupError, TypeError, ValueError, OverflowError) as exc:
        raise ModelFileError(
            f"the golden sample in the card is damaged ({type(exc).__name__}: {exc}). Export the "
            "model again."
        ) from exc


def indices(size: int, count: int) -> NDArray[np.int64]:
    """Evenly spaced indices of a flat array of `size`, including the first and the last."""
    if size <= count:
        return np.arange(size)
    return (np.arange(count) * (size - 1)) // max(count - 1, 1)
