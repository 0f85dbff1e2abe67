"""The batches on which a file is compared, and their sizes where the model leaves these free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.compare.golden import seeded
from layertap.format.card import GoldenInput, TensorInfo
from layertap.images.preprocessing import Preprocessing
from layertap_export.keras_model.families import is_a


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch for all inputs of a model."""

    label: str
    """Its shape and origin: `2 x 320 x 320 x 3, seeded`."""
    arrays: tuple[NDArray[Any], ...]
    """In the order of the model's inputs."""
    golden: tuple[GoldenInput, ...] = ()
    """How to generate it again; empty for the user's own images."""


def seeded_batches(
    layers: Sequence[Any],
    inputs: Sequence[TensorInfo],
    recipe: Preprocessing | None,
    doublings: int,
) -> Iterator[Batch]:
    """Two seeded batches, of one sample and of two; where sizes are free, of two sizes.

    Args:
        layers: the Keras layers, which say what the inputs may hold.
        inputs: the inputs, as the file has them.
        recipe: the preprocessing, which determines the range of an image's values.
        doublings: how many times to double the free sizes.
    """
    draws = [_draw(layers, info, recipe) for info in inputs]
    for seed, batch in enumerate((1, 2)):
        specs = tuple(
            GoldenInput(
                name=info.name,
                shape=filled(info, batch, seed, doublings),
                low=low,
                high=high,
                choices=choices,
            )
            for info, (low, high, choices) in zip(inputs, draws, strict=True)
        )
        arrays = tuple(
            seeded(spec.shape, info.dtype, spec.low, spec.high, seed, spec.choices)
            for spec, info in zip(specs, inputs, strict=True)
        )
        label = " and ".join(" x ".join(map(str, spec.shape)) or "1" for spec in specs)
        yield Batch(f"{label}, seeded", arrays, specs)


KEY_COUNT = 20
"""The number of keys of lookup tables that are used at most."""


def _draw(
    layers: Sequence[Any], info: TensorInfo, recipe: Preprocessing | None
) -> tuple[float, float, tuple[Any, ...] | None]:
    """The range of an input's values; and the choices that they are indices of, if any."""
    choices = _keys(layers, info)
    if choices:
        return 0.0, float(len(choices)), choices
    return (*_range(layers, info, recipe), None)


def _keys(layers: Sequence[Any], info: TensorInfo) -> tuple[Any, ...]:
    """Keys of the lookup tables that an input of this type may go into, and one that is in none."""
    whole = info.dtype != "string"
    lookup = "layers.IntegerLookup" if whole else "layers.StringLookup"
    tables = [layer for layer in layers if is_a(layer, lookup)]
    if whole and (np.dtype(info.dtype).kind not in "iu" or not tables or _bounds(layers)):
        return ()
    if tables and all(table.invert for table in tables):
        return tuple(range(min(table.vocabulary_size() for table in tables)))
    keys = [key for table in tables if not table.invert for key in table.get_vocabulary()]
    keys = list(dict.fromkeys(int(key) if whole else key for key in keys))[:KEY_COUNT]
    if any(table.num_oov_indices == 0 for table in tables):  # which takes keys alone
        return tuple(keys)
    return (*keys, max(keys) + 1 if whole else "neither of these")


def _bounds(layers: Sequence[Any]) -> list[int]:
    """Exclusive upper bounds of integer inputs."""
    return [
        layer.input_dim if is_a(layer, "layers.Embedding") else layer.num_tokens
        for layer in layers
        if is_a(layer, "layers.Embedding", "layers.CategoryEncoding")
    ]


def _range(
    layers: Sequence[Any], info: TensorInfo, recipe: Preprocessing | None
) -> tuple[float, float]:
    """The range of an input's values: preprocessed or raw pixels, indices, or [-1, 1)."""
    if np.dtype(info.dtype).kind in "iu":
        pixels = info.dtype == "uint8" and len(info.shape) > 2
        return 0.0, float(min(_bounds(layers), default=256 if pixels else 10))
    if info.dtype == "bool":
        return 0.0, 1.0
    if recipe is not None and len(info.shape) == 4:
        ends = _pixel_ends(recipe)
        return float(np.floor(ends.min())), float(np.ceil(ends.max()))
    for layer in layers:
        values = getattr(layer, "value_range", None)
        if values is not None and np.size(values) == 2:
            return float(values[0]), float(values[1])
        if is_a(layer, "layers.Rescaling", "layers.Normalization"):
            return 0.0, 255.0
    return -1.0, 1.0


def _pixel_ends(recipe: Preprocessing) -> NDArray[np.float32]:
    """Black and white after the recipe, shape `(2, 1, c)`, float32."""
    ends = np.zeros((2, 1, recipe.channel_count), np.float32)
    ends[1] = 255.0
    return ends if recipe.scaling is None else recipe.scaling(ends)


# --- Sizes, where a model leaves them free -------------------------------------------------------

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
