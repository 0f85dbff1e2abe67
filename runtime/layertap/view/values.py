"""The values of a layer for one sample, as a page holds them.

Maps are stored with one byte for each value. Level 0 is the smallest value of the channel's map and
level 254 the largest, so that a value is off by at most a 508th of that range; level 255 stands for
NaN and infinity. A map that is too large for the page is divided into square blocks, and the mean
of each is stored. Statistics, and the values of vectors, are stored as they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from layertap._engine.program import Program

Array = NDArray[Any]

LEVELS = 254
"""The largest level of a finite value."""

LONGEST = 200
"""Most characters of a string in a page."""


class LayerValues(NamedTuple):
    """A layer's values for one sample, channels first."""

    maps: Array
    """`(c, h, w)` or `(c, t)`; a vector is `(c,)`."""
    cut: tuple[int, ...]
    """Of maps with more axes: the index, along each axis before the last two, of what is shown."""
    sizes: tuple[int, ...]
    """The sizes of these axes."""


def layer_values(program: Program, tensor: str, value: Any) -> LayerValues | None:
    """The values of a tensor for the first sample of a batch; `None` if they are no array.

    A tensor without channels is one map if it has two axes; with more, the first of them counts as
    the channels (the heads of attention scores, for example).
    """
    if not isinstance(value, np.ndarray) or value.size == 0:
        return None
    letters = program.axes(tensor, value.ndim)
    if value.ndim == 0:
        return LayerValues(value.reshape(1), (), ())
    samples = max(letters.find("N"), 0)
    sample, letters = (
        np.asarray(np.moveaxis(value, samples, 0)[0]),
        letters[:samples] + letters[samples + 1 :],
    )
    if sample.ndim < 2:
        return LayerValues(sample.reshape(-1), (), ())
    if "C" in letters:
        sample = np.moveaxis(sample, letters.find("C"), 0)
    elif sample.ndim == 2:
        sample = sample[None]
    space = sample.shape[1:]
    if math.prod(space) == 1:
        return LayerValues(sample.reshape(-1), (), ())
    middle = tuple(size // 2 for size in space[:-2])
    for index in middle:
        sample = sample[:, index]
    return LayerValues(sample, middle, space[:-2])


def as_numbers(values: Array) -> Array:
    """Values of any dtype that computes, as floats; float32 stays as it is."""
    if values.dtype in (np.float32, np.float64):
        return values
    return values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64)


def strengths(maps: Array) -> NDArray[np.float64]:
    """The mean absolute value of each channel, `(c,)`."""
    flat = as_numbers(maps).reshape(len(maps), -1)
    with np.errstate(all="ignore"):
        values = flat if flat.min() >= 0 else np.abs(flat)
        found: NDArray[np.float64] = np.add.reduce(values, axis=1, dtype=np.float64) / flat.shape[1]
    return found


def statistics(maps: Array) -> dict[str, Any]:
    """Of all values of a layer for one sample: exact, in numbers that JSON has."""
    flat = as_numbers(maps)
    with np.errstate(all="ignore"):
        low, high, total = flat.min(), flat.max(), np.add.reduce(flat, axis=None, dtype=np.float64)
        finite = bool(np.isfinite(low) and np.isfinite(high) and np.isfinite(total))
        bad = 0 if finite else int(flat.size - np.isfinite(flat).sum())
    return {
        "size": int(flat.size),
        "low": number(low),
        "high": number(high),
        "mean": number(total / flat.size),
        "zeros": 0 if low > 0 or high < 0 else int(np.count_nonzero(flat == 0)),
        "bad": bad,
    }


def number(value: Any) -> float | str:
    """A number as JSON has it; a word for the others, as JavaScript's `Number` reads it."""
    plain = float(value)
    if math.isfinite(plain):
        return plain
    return "NaN" if math.isnan(plain) else "Infinity" if plain > 0 else "-Infinity"


def packed_maps(maps: Array, side: int) -> bytes:
    """Some channels of a layer, `(k, h, w)` or `(k, t)`, as bytes.

    First come six arrays of `k` float32, in little-endian order: the values of level 0 and level
    254, the minimum, maximum and mean of the whole map, and its mean absolute value; then one byte
    for each value.
    """
    numbers = as_numbers(maps).reshape(len(maps), -1)
    with np.errstate(all="ignore"):
        whole = [
            numbers.min(axis=1),
            numbers.max(axis=1),
            np.add.reduce(numbers, axis=1, dtype=np.float64) / numbers.shape[1],
            strengths(maps),
        ]
        low, high, levels = quantised(block_means(maps, side))
        heads = [np.asarray(one, "<f4").tobytes() for one in (low, high, *whole)]
    return b"".join(heads) + levels.tobytes()


def quantised(
    maps: Array,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """The values of level 0 and 254 of each channel, and the levels."""
    flat = as_numbers(maps).reshape(len(maps), -1).astype(np.float64)
    finite = np.isfinite(flat)
    limit = float(np.finfo(np.float32).max)
    low = np.where(finite, flat, np.inf).min(axis=1).clip(-limit, limit)
    high = np.where(finite, flat, -np.inf).max(axis=1).clip(-limit, limit)
    some = finite.any(axis=1)
    # Rounded outwards, so that float32 includes all values.
    first = np.where(some, _rounded(low, -1), 0).astype(np.float32)
    last = np.where(some, _rounded(high, 1), 0).astype(np.float32)
    range_ = last.astype(np.float64) - first
    shares = np.divide(
        flat - first[:, None], range_[:, None], out=np.zeros_like(flat), where=range_[:, None] > 0
    )
    levels = np.round(np.where(finite, shares, 0).clip(0, 1) * LEVELS)
    return first, last, np.where(finite, levels, 255).astype(np.uint8).reshape(maps.shape)


def _rounded(values: NDArray[np.float64], direction: int) -> NDArray[np.float32]:
    """The float32 next to each value, on one side of it."""
    near = values.astype(np.float32)
    beyond = near > values if direction < 0 else near < values
    with np.errstate(over="ignore"):  # of the largest number, which is not used
        after = np.nextafter(near, np.float32(direction * np.inf))
    return np.where(beyond, after, near)


def block_means(maps: Array, side: int) -> Array:
    """The mean of each square block of `side` values, along all axes but the first; the blocks at
    the end are smaller if the sizes cannot be divided."""
    if side == 1:
        return maps
    means = as_numbers(maps).astype(np.float64)
    for axis in range(1, means.ndim):
        size = means.shape[axis]
        starts = np.arange(0, size, side)
        lengths = np.minimum(side, size - starts).reshape(-1, *(1,) * (means.ndim - axis - 1))
        means = np.add.reduceat(means, starts, axis=axis) / lengths
    return means
