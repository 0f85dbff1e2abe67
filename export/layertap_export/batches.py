"""The batches on which a file is compared with Keras: seeded ones, and the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.card import GoldenInput, TensorInfo
from layertap.golden import seeded
from layertap.preprocessing import Preprocessing

from .families import is_a
from .sample_sizes import filled

DOUBLINGS = 3
"""How often the sizes are doubled for a model that is too deep for them."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch for all inputs of a model."""

    label: str
    """What it is, in words: `2 x 320 x 320 x 3, seeded`."""
    arrays: tuple[NDArray[Any], ...]
    """In the order of the model's inputs."""
    golden: tuple[GoldenInput, ...] = ()
    """How to make it again, for a seeded one."""


def seeded_batches(
    model: Any, inputs: Sequence[TensorInfo], recipe: Preprocessing | None, doublings: int
) -> Iterator[Batch]:
    """Two seeded batches, of one sample and of two; where sizes are free, of two sizes.

    Args:
        model: the Keras model, for hints on what its inputs hold.
        inputs: its inputs.
        recipe: the preprocessing, which tells the range of an image's values.
        doublings: how often to double the sizes that are free.
    """
    ranges = [_range(model, info, recipe) for info in inputs]
    for seed, batch in enumerate((1, 2)):
        specs = tuple(
            GoldenInput(
                name=info.name,
                shape=filled(info.shape, batch, seed, doublings),
                low=low,
                high=high,
            )
            for info, (low, high) in zip(inputs, ranges, strict=True)
        )
        arrays = tuple(
            seeded(spec.shape, info.dtype, spec.low, spec.high, seed)
            for spec, info in zip(specs, inputs, strict=True)
        )
        label = " and ".join(" x ".join(map(str, spec.shape)) or "1" for spec in specs)
        yield Batch(f"{label}, seeded", arrays, specs)


def _range(model: Any, info: TensorInfo, recipe: Preprocessing | None) -> tuple[float, float]:
    """Where an input's values lie: pixels after preprocessing, raw pixels, indices, or [-1, 1)."""
    if np.dtype(info.dtype).kind in "iu":
        layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else model.layers
        sizes = [x.input_dim for x in layers if is_a(x, "layers.Embedding")]
        return 0.0, float(min(sizes, default=10))
    if info.dtype == "bool":
        return 0.0, 1.0
    if recipe is not None and len(info.shape) == 4:
        ends = _pixel_ends(recipe, info.shape[-1])
        return float(np.floor(ends.min())), float(np.ceil(ends.max()))
    pixels = any(is_a(x, "layers.Rescaling", "layers.Normalization") for x in model.layers)
    return (0.0, 255.0) if pixels else (-1.0, 1.0)


def _pixel_ends(recipe: Preprocessing, channels: int | None) -> NDArray[np.float32]:
    """What the recipe makes of black and of white, shape `(2, 1, c)`."""
    ends = np.zeros((2, 1, channels or recipe.channels), np.float32)
    ends[1] = 255.0
    return ends if recipe.scaling is None else recipe.scaling(ends)
