"""Seeded inputs that are the same on all machines and with all versions of numpy.

numpy does not promise that its generators give the same numbers in every version, so this one is
written down: element `i` of an input is number `seed * 2**32 + i` of the SplitMix64 sequence that
starts from 0; its upper 24 bits, as a fraction of 2**24, are stretched over [low, high).
Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.

A tensor of millions of elements is remembered by a few sums of all of them, with seeded weights
between -1 and 1. Another value of any element, or two of them swapped, changes nearly every such
sum (Alon, Matias, Szegedy: The Space Complexity of Approximating the Frequency Moments, 1999).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layertap.errors import ModelFileError

if TYPE_CHECKING:
    from layertap.format.card import Golden, TensorInfo


MOST_VALUES = 1 << 27
"""Most values of a sample: a volume of 512 x 512 x 512, or 800 images of 224 x 224."""


WEIGHT_SEED = 100
"""The seed of the weights of the first sum; each further sum has the next one."""

BLOCK = 1 << 20
"""Elements whose weights are made at once; a multiple of 8."""

CHUNK = 1 << 15
"""Elements that are added up at once; it divides `BLOCK`."""


def _splitmix64(start: int, count: int, seed: int) -> NDArray[np.uint64]:
    """Numbers `start` to `start + count` of a seed."""
    with np.errstate(over="ignore"):
        state = np.uint64(seed) * np.uint64(2**32) + np.arange(
            start, start + count, dtype=np.uint64
        )
        state = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        numbers: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return numbers


def uniform(shape: Sequence[int], low: float, high: float, seed: int) -> NDArray[np.float64]:
    """Uniform numbers in [low, high), float64, in C order."""
    state = _splitmix64(0, math.prod(shape), seed)
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
    are those of `swept`, and the seed has no effect. For the shape `()`, numpy would return numbers
    in some of these places, which not everything takes that takes arrays.
    """
    numbers = uniform(shape, low, high, seed) if step is None else swept(shape, low, high, step)
    if choices is not None:
        values = np.array(choices, object if dtype == "string" else dtype)
        return np.asarray(values[np.floor(numbers).astype(np.int64)], values.dtype)
    if dtype == "bool":
        return np.asarray(numbers >= (low + high) / 2)
    if np.dtype(dtype).kind in "iu":
        numbers = np.floor(numbers)
    with np.errstate(all="ignore"):  # numbers beyond the range of the dtype
        return np.asarray(numbers, dtype)


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


def weighted_sums(flat: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Sums of all elements with seeded weights, shape `(count,)`, float64.

    The weight of element `i` in sum `k` is `byte / 127.5 - 1`, with byte `i % 8` (from the lowest)
    of number `i // 8` of the seed `WEIGHT_SEED + k`.

    Args:
        flat: the elements, one axis, any dtype of real numbers.
        count: how many sums.
    """
    sums = np.zeros(count)
    for start, values in _in_float64(flat):
        total = values.sum()
        block, at = start - start % BLOCK, start % BLOCK
        for k in range(count):
            weights = _bytes(block, min(BLOCK, 1 << (flat.size - block - 1).bit_length()), k)
            sums[k] += _product(values, weights[at : at + values.size]) / 127.5 - total
    return sums


def norm(flat: NDArray[Any]) -> float:
    """The Euclidean norm of all elements, computed in float64.

    Args:
        flat: as for `weighted_sums`.
    """
    return math.sqrt(sum(_product(values, values) for _, values in _in_float64(flat)))


def largest(flat: NDArray[Any]) -> float:
    """The largest absolute value of all elements, 0 if there are none, in float64.

    Args:
        flat: as for `weighted_sums`.
    """
    return max((float(np.abs(values).max()) for _, values in _in_float64(flat)), default=0.0)


def _product(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The sum of the products of the elements, without the threads of BLAS (`np.dot`): for so few
    elements, they wait for each other a hundred times longer if the cores are busy."""
    return float(np.einsum("i,i->", a, b))


def _in_float64(flat: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The elements in chunks that fit into the processor's cache, each with its first index."""
    for start in range(0, flat.size, CHUNK):
        yield start, flat[start : start + CHUNK].astype(np.float64)


@lru_cache(maxsize=32)
def _bytes(start: int, count: int, k: int) -> NDArray[np.uint8]:
    """The bytes of the weights of a block; many tensors have the same first blocks."""
    words = _splitmix64(start // 8, -(-count // 8), WEIGHT_SEED + k)
    return words.astype("<u8").view(np.uint8)


def sum_scale(scale: float, size: int) -> float:
    """The scale of the sums of a tensor with a scale: about by how much each changes if `size`
    elements change by that scale each, some up and some down."""
    return scale * math.sqrt(size)
