"""Which part of a picture the network sees, axis by axis, and to how many pixels it is resized.

The arithmetic is that of `layertap.images.load`: whole numbers where it has whole numbers, and
float64 where it has Python's floats.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from layertap.images.preprocessing import Preprocessing
from layertap_export.gradients.builder import Builder, Value

from .tensors import as_double


@dataclass(frozen=True, slots=True)
class Axis:
    """The height or the width of a picture, and what is taken of it.

    The pixels from `start` on, `length` of them, are resized to `total`, of which `count` are taken
    from number `first` on. Positions before 0 or from `total` on are empty.
    """

    pixels: Value
    """Size of the picture, int64 `(1,)`, like all others."""
    start: Value
    length: Value
    total: Value
    first: Value
    count: Value
    cropped: bool = False
    """Whether other positions than all `total` are taken."""


def seen(build: Builder, recipe: Preprocessing, height: Value, width: Value) -> tuple[Axis, Axis]:
    """The axes of a picture of some height and width, each int64 `(1,)`."""
    none = build.int64([0])
    if recipe.shorter_side is not None:
        return _shorter_side(build, recipe.shorter_side, recipe.size, height, width)
    if recipe.size is None:
        return (
            Axis(height, none, height, height, none, height),
            Axis(width, none, width, width, none, width),
        )
    high, wide = (build.int64([size]) for size in recipe.size)
    if not recipe.keep_aspect_ratio:
        return (
            Axis(height, none, height, high, none, high),
            Axis(width, none, width, wide, none, wide),
        )
    box_height = height.op("Min", width * high / wide)
    box_width = width.op("Min", height * wide / high)
    top, left = (height - box_height) / build.int64([2]), (width - box_width) / build.int64([2])
    return (
        Axis(height, top, box_height, high, none, high),
        Axis(width, left, box_width, wide, none, wide),
    )


def _shorter_side(
    build: Builder, length: int, size: tuple[int, int] | None, height: Value, width: Value
) -> tuple[Axis, Axis]:
    """See `layertap.images.region.scaled_size`, and how the centre is cropped there."""
    none, side = build.int64([0]), build.int64([length])
    short, long = height.op("Min", width), height.op("Max", width)
    longer = (as_double(side * long) / as_double(short)).cast(TensorProto.INT64)
    upright = height > width
    axes = []
    for at, pixels in enumerate((height, width)):
        # Which side is the longer one; of two equal sides both become `length`.
        total = upright.where(longer, side) if at == 0 else upright.where(side, longer)
        if size is None:
            axes.append(Axis(pixels, none, pixels, total, none, total))
            continue
        wanted = build.int64([size[at]])
        spare = total - wanted
        half = (as_double(spare) / 2.0).op("Round").cast(TensorProto.INT64)
        lacking = -((wanted - total) / build.int64([2]))
        first = (spare < build.int64([0])).where(lacking, half)
        axes.append(Axis(pixels, none, pixels, total, first, wanted, cropped=True))
    return axes[0], axes[1]
