"""Pictures of activations, drawn with Pillow."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from layertap._arguments import count as counted
from layertap.errors import InputError
from layertap.images.load import ImageSource, load_image

MARGIN = 4
"""Pixels between the tiles."""
CAPTION = 14
"""Height in pixels of the line of text above a tile."""
PAPER, INK = 255, 0
"""Grey values of background and text."""


Picture: TypeAlias = ImageSource
"""A PIL image, a path, the bytes of a file, or an array `(h, w)` or `(h, w, c)`."""


def as_picture(given: Picture) -> Image.Image:
    """A picture for people, in any of its forms.

    An array of floats holds values in 0..1 or 0..255. A PIL image is returned as it is.

    Raises:
        ImageError: it cannot be read.
        InputError: an array whose values are not pixels.
    """
    if isinstance(given, Image.Image):
        return given
    if isinstance(given, np.ndarray) and given.dtype.kind in "fiu" and given.dtype != np.uint8:
        low, high = (float(given.min()), float(given.max())) if given.size else (0.0, 0.0)
        if not 0 <= low <= high <= 255:
            raise InputError(
                f"the pixels of a picture must be in 0..255 or 0..1, got values from {low:.4g} to "
                f"{high:.4g}. Give the image itself, not the batch that was prepared from it."
            )
        white = 255.0 if given.dtype.kind == "f" and high <= 1 else 1.0
        given = np.round(given * white).astype(np.uint8)
    pixels = load_image(given)
    return Image.fromarray(pixels.astype(np.uint8))


def strongest_channels(activation: NDArray[Any], count: int) -> list[int]:
    """The indices of the channels with the largest mean absolute activation, in descending order.

    Channels with NaN come last.

    Args:
        activation: one sample's feature maps, `(h, w, c)`.
        count: the number of channels.

    Raises:
        InputError: the activation does not have shape `(h, w, c)`.
    """
    count = counted("count", count, least=0)
    # In float64: the absolute value of -128 overflows int8, and sums above 65504 overflow float16.
    strength = np.abs(_checked(activation).astype(np.float64)).mean(axis=(0, 1))
    return [int(channel) for channel in np.argsort(-strength, kind="stable")[:count]]


def contact_sheet(
    activation: NDArray[Any],
    *,
    image: Picture | None = None,
    count: int = 17,
    tile: int = 160,
    columns: int = 6,
) -> Image.Image:
    """The strongest feature maps of one sample side by side, next to the input image.

    Each map is scaled from its own minimum (black) to its maximum (white), and enlarged without
    smoothing: one square is one value.

    Args:
        activation: one sample's feature maps, `(h, w, c)`.
        image: the input image, which is drawn first.
        count: the number of maps, if there are enough channels. With the image, 17 maps fill three
            rows of six.
        tile: length of a tile's longer side in pixels.
        columns: number of tiles in a row.

    Returns:
        A grey picture, with the index of the channel above each map.

    Raises:
        InputError: the activation does not have shape `(h, w, c)`.
    """
    maps = _checked(activation)
    tile, columns = counted("tile", tile), counted("columns", columns)
    tiles = [("input", as_picture(image).convert("L"))] if image is not None else []
    tiles += [(str(c), _as_grey(maps[:, :, c])) for c in strongest_channels(maps, count)]
    rows = math.ceil(len(tiles) / columns)
    step_x, step_y = tile + MARGIN, tile + CAPTION + MARGIN
    size = (min(len(tiles), columns) * step_x + MARGIN, rows * step_y + MARGIN)
    sheet = Image.new("L", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (caption, picture) in enumerate(tiles):
        left = MARGIN + index % columns * step_x
        top = MARGIN + index // columns * step_y
        draw.text((left, top), caption, fill=INK)
        scale = tile / max(picture.size)
        fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        smooth = caption == "input"
        filter_ = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
        sheet.paste(picture.resize(fitted, filter_), (left, top + CAPTION))
    return sheet


def _checked(activation: NDArray[Any]) -> NDArray[Any]:
    maps = np.asarray(activation)
    if maps.ndim != 3 or 0 in maps.shape:
        raise InputError(
            f"feature maps must have the shape (h, w, c), got {maps.shape}. Give one sample "
            "(activation[0]) of a layer with four axes."
        )
    return maps


def _as_grey(values: NDArray[Any]) -> Image.Image:
    """The values as grey, scaled from the smallest finite value to the largest; NaN is black."""
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    numbers = np.nan_to_num(numbers, nan=low, posinf=high, neginf=low)
    grey = (numbers - low) / (high - low) if high > low else np.zeros_like(numbers)
    return Image.fromarray(np.round(grey * 255).astype(np.uint8))
