"""A picture as the input of a graph, in place of a tensor that the runtime prepares."""

from __future__ import annotations

from dataclasses import dataclass

from layertap.images.preprocessing import Preprocessing
from layertap_export.gradients.builder import Builder, Value

from .pixels import pixels_of
from .regions import Axis, seen
from .scaling import scaled
from .tensors import part


@dataclass(frozen=True, slots=True)
class PictureInput:
    """A picture and what the network gets of it."""

    prepared: Value
    """What the recipe makes of it, float32 `(n, h, w, c)` or `(n, c, h, w)`."""
    axes: tuple[Axis, Axis]
    """Its height and width, and which part of them the network sees."""


def prepare(build: Builder, picture: Value, recipe: Preprocessing, *, batch: bool) -> PictureInput:
    """Compute what a recipe makes of a picture.

    Args:
        picture: uint8, `(height, width, channels)`, or `(n, height, width, channels)` if `batch`.

    Raises:
        UsageError: the recipe cannot be computed by a graph.
    """
    pictures = picture if batch else picture.op("Unsqueeze", build.int64([0]))
    shape = pictures.shape()
    axes = seen(build, recipe, part(build, shape, 0, 1, 2), part(build, shape, 0, 2, 3))
    values = scaled(build, pixels_of(build, pictures, recipe, axes), recipe)
    if recipe.channels == "first":
        values = values.op("Transpose", perm=[0, 3, 1, 2])
    return PictureInput(values, axes)
