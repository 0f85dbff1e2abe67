"""The part of an image that a model sees: the arithmetic of cropping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Region(NamedTuple):
    """A rectangle in the pixels of an image, between the edges of pixels.

    It may reach over the image, where a recipe pads it.
    """

    left: float
    top: float
    right: float
    bottom: float


def seen_region(
    height: int,
    width: int,
    size: Sequence[int] | None = None,
    *,
    keep_aspect_ratio: bool = False,
    shorter_side: int | None = None,
) -> Region:
    """Which part of an image of `height` x `width` pixels becomes the input of a model.

    The other arguments are those of a recipe, see `layertap.images.preprocessing`.
    """
    if shorter_side is not None and size is not None:
        scaled = scaled_size(height, width, shorter_side)
        top, left = (crop_start(have, wanted) for have, wanted in zip(scaled, size, strict=True))
        down, across = height / scaled[0], width / scaled[1]
        right, bottom = (left + size[1]) * across, (top + size[0]) * down
        return Region(left * across, top * down, right, bottom)
    if keep_aspect_ratio and size is not None and (height, width) != tuple(size):
        return Region(*centred_box(height, width, size))
    return Region(0, 0, width, height)


def centred_box(height: int, width: int, size: Sequence[int]) -> tuple[int, int, int, int]:
    """The largest centred box (left, top, right, bottom) with the aspect ratio of `size`, in the
    integer arithmetic of Keras."""
    box_height = min(height, width * size[0] // size[1])
    box_width = min(width, height * size[1] // size[0])
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return left, top, left + box_width, top + box_height


def scaled_size(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """(height, width) after a resize in which the shorter side gets a length, as in torchvision."""
    short, long = sorted((height, width))
    longer = int(shorter_side * long / short)
    return (shorter_side, longer) if height <= width else (longer, shorter_side)


def crop_start(have: int, wanted: int) -> int:
    """Where a crop of the centre starts, as in torchvision; before 0 if there is too little."""
    if have < wanted:
        return -((wanted - have) // 2)
    return round((have - wanted) / 2)  # of two equally near integers the even one
