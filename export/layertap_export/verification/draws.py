"""What is drawn for one input of a model: in which range, and whole numbers or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.comparing.golden import seeded, swept, uniform
from layertap.format.card import GoldenInput, TensorInfo
from layertap.images.preprocessing import Preprocessing
from layertap_export.keras_model.families import is_a

KEY_COUNT = 20
"""The number of keys of lookup tables that the golden sample contains at most."""

UNKNOWN_KEY = "neither of these"
"""A string that is in no vocabulary."""

RANDOM_TIMES = 5
"""From how many times as many elements as rows on they are random: then nearly all rows are read
too, and each next to others in each sample."""

MOST_CHOICES = 256
"""The most whole numbers that a golden sample lists."""

WHOLE = 10
"""Whole numbers that index nothing known are below this, where the model takes them."""


@dataclass(frozen=True, eq=False)
class Use:
    """One place where the elements of an input are not numbers that are computed with."""

    low: float
    """The least element."""
    high: float | None
    """One more than the largest; `None` if it depends on the sizes of other tensors."""
    strict: bool = True
    """Whether other elements are an error, or give nothing."""
    indexes: bool = True
    """Whether the elements index something; else, only their range is limited."""
    rows: int = 1
    """How many rows are indexed, where the indices are computed from the elements; the elements are
    no whole numbers then."""
    ascending: bool = False
    """Whether the elements must be in order."""
    keys: tuple[Any, ...] | None = None
    """The keys of a lookup table, in place of a range."""
    tensor: Any = None
    """TensorFlow's tensor of the indices or keys, outside of functions that are called."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What is drawn for one input."""

    low: float = -1.0
    high: float = 1.0
    """The elements are in `[low, high)`."""
    whole: bool = False
    """Whether they are whole numbers that go through the range in steps."""
    ascending: bool = False
    """Whether they do not decrease."""
    parts: int = 1
    """Into how many parts of the range an index is computed from them, for example rows of a table
    from numbers in [0, 1)."""
    fixed: bool = False
    """Whether elements beyond the range are an error: no zeros, negative or large values then."""
    open: bool = False
    """Whether the range is a guess, because it depends on the sizes of other tensors."""
    keys: tuple[Any, ...] | None = None
    """Keys of lookup tables, one of which each element is."""
    unknown: Any = None
    """A key that is in none of the tables."""

    def without_unknown(self) -> Draw:
        """The same for tables without a row for unknown keys."""
        return replace(self, unknown=None)

    @property
    def rows(self) -> int:
        """How many elements touch all that the input selects; 1 if it selects nothing."""
        if self.keys is not None:
            return len(self.choices)
        return max(1, int(self.high - self.low)) if self.whole and not self.ascending else 1

    @property
    def choices(self) -> tuple[Any, ...]:
        """The keys that the golden sample contains."""
        assert self.keys is not None
        known = self.keys[:KEY_COUNT]
        return known if self.unknown is None else (*known, self.unknown)

    def golden(self, info: TensorInfo, shape: tuple[int, ...]) -> GoldenInput:
        """How the first batch is generated."""
        low, high, choices, step = self.low, self.high, None, None
        elements = math.prod(shape)
        if self.keys is not None:
            choices = self.choices
            low, high = 0.0, float(len(choices))
        if self.ascending:
            step = (high - low) / max(1, elements)
        elif choices is not None or self.whole:
            count = int(high - low)
            few = elements < RANDOM_TIMES * count
            if choices is None and np.dtype(info.dtype).kind not in "iu":
                # Random numbers are whole only if they are chosen from a list.
                few = few or count > MOST_CHOICES
                if not few:
                    choices = tuple(np.arange(low, high).tolist())
                    low, high = 0.0, float(count)
            step = float(_sweep(count)) if few else None
        return GoldenInput(
            name=info.name, shape=shape, low=low, high=high, choices=choices, step=step
        )

    def first(self, info: TensorInfo, shape: tuple[int, ...]) -> NDArray[Any]:
        """The input of the golden sample."""
        spec = self.golden(info, shape)
        return seeded(shape, info.dtype, spec.low, spec.high, 0, spec.choices, spec.step)

    def array(
        self, info: TensorInfo, shape: tuple[int, ...], seed: int, factor: float | None = None
    ) -> NDArray[Any]:
        """An input like those of the golden sample.

        Args:
            info: the input.
            shape: its shape.
            seed: of the random numbers.
            factor: for numbers that index nothing: 0 gives zeros, others multiply the numbers, a
                negative one makes all of them negative.
        """
        if factor is not None and self.varies(info):
            return self._varied(info, shape, seed, factor)
        if self.keys is not None:
            choices = (*self.keys, *([] if self.unknown is None else [self.unknown]))
            return seeded(shape, info.dtype, 0.0, float(len(choices)), seed, choices)
        if self.ascending:
            return self.first(info, shape)
        numbers = uniform(shape, self.low, self.high, seed)
        if self.whole:
            numbers = np.floor(numbers)
        if info.dtype == "bool":
            return np.asarray(numbers >= (self.low + self.high) / 2)
        if np.dtype(info.dtype).kind in "iu":
            numbers = np.floor(numbers)
        return np.asarray(numbers, info.dtype)

    def varies(self, info: TensorInfo) -> bool:
        """Whether zeros, negative and large values can be fed."""
        return self.keys is None and not self.fixed and info.dtype != "bool"

    def _varied(
        self, info: TensorInfo, shape: tuple[int, ...], seed: int, factor: float
    ) -> NDArray[Any]:
        if factor < 0:
            largest = max(abs(self.low), abs(self.high))
            numbers = factor * uniform(shape, 0.0, largest, seed)
        else:
            numbers = factor * uniform(shape, self.low, self.high, seed)
        if np.dtype(info.dtype).kind in "iu":
            limits = np.iinfo(info.dtype)
            numbers = np.clip(np.floor(numbers), limits.min, limits.max)
        return np.asarray(numbers, info.dtype)

    def every_row(self, info: TensorInfo, shape: tuple[int, ...]) -> NDArray[Any]:
        """An input that goes through all that it selects, as far as it has elements."""
        if self.keys is not None:
            index = swept(shape, 0.0, float(len(self.keys)), 1.0).astype(np.int64)
            keys = np.array(self.keys, object if info.dtype == "string" else info.dtype)
            return np.asarray(keys[index], keys.dtype)
        if self.parts > 1:
            middles = swept(shape, 0.0, float(self.parts), 1.0) + 0.5
            numbers = self.low + (self.high - self.low) / self.parts * middles
            return np.asarray(numbers, info.dtype)
        return np.asarray(swept(shape, self.low, self.high, 1.0), info.dtype)

    @property
    def all_rows(self) -> int:
        """How many rows or keys the input selects; 1 if none."""
        return len(self.keys) if self.keys is not None else max(self.rows, self.parts)


def _sweep(rows: int) -> int:
    """A step that goes through all rows of a table, in an order that is not theirs."""
    step = max(1, round(rows * 0.618))
    while math.gcd(step, rows) != 1:
        step += 1
    return step


def first_draw(
    info: TensorInfo, uses: Sequence[Use], layers: Sequence[Any], recipe: Preprocessing | None
) -> Draw:
    """What is drawn for an input, by its uses and by the layers of its model.

    Args:
        info: the input.
        uses: what it is used for.
        layers: the Keras layers, which say in which range images are.
        recipe: the preprocessing, which determines the range of an image's values.
    """
    keys = _keys(info, uses)
    if keys is not None:
        return keys
    if info.dtype == "bool":
        return Draw(low=0.0, high=1.0)
    if info.dtype == "string":
        return Draw(keys=("",), unknown=UNKNOWN_KEY)
    indices = [use for use in uses if use.indexes]
    draw = _plain(info, layers, recipe)
    if indices:
        strict = [use for use in indices if use.strict] or indices
        low = max(use.low for use in strict)
        highs = [use.high for use in strict if use.high is not None]
        # Beyond the depth of a one-hot encoding nothing is selected.
        high = (min if any(use.strict for use in indices) else max)(highs, default=low + WHOLE)
        whole = all(use.rows == 1 for use in indices)
        draw = Draw(
            low=float(math.ceil(low)) if whole else low,
            high=float(max(math.ceil(high), math.ceil(low) + 1)) if whole else high,
            whole=whole,
            parts=max(use.rows for use in indices),
            ascending=any(use.ascending for use in indices),
            fixed=True,
            open=any(use.high is None for use in strict),
        )
    for use in uses:
        if not use.indexes and use.high is not None:
            ends = max(draw.low, use.low), min(draw.high, use.high)
            if ends[0] < ends[1]:
                draw = replace(draw, low=ends[0], high=ends[1], fixed=True)
    return draw


def _keys(info: TensorInfo, uses: Sequence[Use]) -> Draw | None:
    """The keys of the lookup tables that an input goes into."""
    found = [use.keys for use in uses if use.keys is not None]
    if not found:
        return None
    keys = tuple(dict.fromkeys(key for keys in found for key in keys))
    if info.dtype == "string":
        # Vocabularies contain the words for what is masked and unknown, which are keys too.
        return Draw(keys=keys, unknown=UNKNOWN_KEY, fixed=True)
    limit = min((use.high for use in uses if use.high is not None), default=np.inf)
    whole = tuple(int(key) for key in keys if int(key) < limit)
    return Draw(keys=whole, unknown=max(whole, default=0) + 1, fixed=True)


def _plain(info: TensorInfo, layers: Sequence[Any], recipe: Preprocessing | None) -> Draw:
    """The range of an input that indexes nothing: preprocessed or raw pixels, or [-1, 1)."""
    if np.dtype(info.dtype).kind in "iu":
        pixels = info.dtype == "uint8" and len(info.shape) > 2
        return Draw(low=0.0, high=256.0 if pixels else float(WHOLE))
    if recipe is not None and len(info.shape) == 4:
        ends = _pixel_ends(recipe)
        return Draw(low=float(np.floor(ends.min())), high=float(np.ceil(ends.max())))
    for layer in layers:
        values = getattr(layer, "value_range", None)
        if values is not None and np.size(values) == 2:
            return Draw(low=float(values[0]), high=float(values[1]))
        if is_a(layer, "layers.Rescaling", "layers.Normalization"):
            return Draw(low=0.0, high=255.0)
    return Draw()


def _pixel_ends(recipe: Preprocessing) -> NDArray[np.float32]:
    """Black and white after the recipe, shape `(2, 1, c)`, float32."""
    ends = np.zeros((2, 1, recipe.channel_count), np.float32)
    ends[1] = 255.0
    return ends if recipe.scaling is None else recipe.scaling(ends)


REAL_RANGES = (
    (0.0, 1.0),
    (0.25, 0.75),
    (-0.5, 0.5),
    (1.0, 10.0),
    (-1.0, 0.0),
    (10.0, 100.0),
    (-10.0, -1.0),
)
"""Ranges of real numbers that are tried where a model is not finite in the first one: for
logarithms, roots, inverse cosines and hyperbolic cosines."""

DIVISORS = ((1, 10), (10, 100))
"""Ranges of whole numbers that are tried where a model does not take the first one, for example
because it divides by them."""

HIGHS = (7, 5, 4, 3, 2, 1)
"""Upper ends of ranges of whole numbers that are tried where a model does not take the first."""


def other_draws(info: TensorInfo, draw: Draw) -> Iterator[Draw]:
    """Other draws for an input, to be tried where the model fails with the first one."""
    if draw.keys is not None:
        if draw.unknown is not None:
            yield draw.without_unknown()
        return
    if info.dtype == "bool":
        return
    if draw.whole or np.dtype(info.dtype).kind in "iu":
        if not draw.whole:
            yield from (replace(draw, low=float(low), high=float(high)) for low, high in DIVISORS)
        for count in (WHOLE, *HIGHS):
            if count < draw.high - draw.low:
                yield replace(draw, high=draw.low + count, whole=True, fixed=True, open=True)
        if not draw.ascending:
            yield replace(draw, whole=True, ascending=True, fixed=True)
            yield replace(draw, whole=True, ascending=True, fixed=True, high=draw.low + 3)
        return
    for low, high in REAL_RANGES:
        if (low, high) != (draw.low, draw.high):
            yield replace(draw, low=low, high=high)
    # An index that could not be followed.
    for count in (WHOLE, *HIGHS):
        yield Draw(low=0.0, high=float(count), whole=True, fixed=True, open=True)
