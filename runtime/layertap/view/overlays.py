"""Overlays of heat maps on pictures, drawn with Pillow."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from layertap._arguments import count, items, number
from layertap.cam.upsampling import resize
from layertap.errors import InputError, UsageError
from layertap.format.text import class_text

from .colormaps import colored
from .pictures import Picture, as_picture

MARGIN = 8
"""Pixels between the pictures of a panel, and around them."""
MIN_SIDE = 256
"""Minimum length in pixels of the longer side of a picture in a panel."""
LONGEST_TITLE = 500
"""Characters of a title that are looked at; more do not fit."""
PAPER, INK = (255, 255, 255), (0, 0, 0)


def overlay(
    picture: Picture,
    heat: npt.ArrayLike,
    *,
    colormap: str = "jet",
    alpha: float = 0.5,
) -> Image.Image:
    """Blend a heat map over a picture: `(1 - alpha) * picture + alpha * colours`.

    Args:
        picture: grey or in colour: a PIL image, a path, the bytes of a file, or an array
            `(h, w)` or `(h, w, c)` of integers, or of floats in 0..1 or 0..255.
        heat: `(h, w)`, values between 0 and 1; resized to the picture's size if necessary. Axes of
            size 1 before these are ignored.
        colormap: `jet`, `viridis` or `magma`.
        alpha: 0 shows only the picture, 1 only the colours of the heat map.

    Returns:
        RGB, of the picture's size.

    Raises:
        UsageError: the colormap is unknown, or `alpha` is not between 0 and 1.
        InputError: the heat map does not have shape `(h, w)`.
        ImageError: the picture cannot be read.
    """
    alpha = number("alpha", alpha)
    if alpha > 1:
        raise UsageError(f"alpha must be between 0 and 1, got {alpha}.")
    pixels = np.asarray(as_picture(picture).convert("RGB"), np.float64)
    values = _heat_map(heat)
    colors = colored(resize(values, pixels.shape[:2]), colormap)
    return Image.fromarray(np.round((1 - alpha) * pixels + alpha * colors).astype(np.uint8))


def _heat_map(heat: npt.ArrayLike) -> npt.NDArray[np.float32]:
    try:
        values = np.asarray(heat, np.float32)
    except (TypeError, ValueError) as exc:
        raise InputError(f"a heat map must be an array (h, w), got {class_text(heat)}.") from exc
    shape = values.shape
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2:
        hint = " Give one of them, as in heat[0]." if values.ndim > 2 else ""
        raise InputError(f"a heat map must have the shape (h, w), got {shape}.{hint}")
    if not values.size:
        raise InputError(f"the heat map is empty: its shape is {shape}.")
    return values


def panel(pictures: Sequence[tuple[str, Picture]], *, columns: int = 6) -> Image.Image:
    """Pictures side by side, each with a title above it.

    Small pictures are enlarged by an integer factor, without smoothing. A title that is wider than
    its picture gets a smaller font, and is truncated if that is not enough.

    Args:
        pictures: titles and pictures, left to right; all pictures have the same size. A picture
            may have any form that `overlay` takes.
        columns: number of pictures in a row.

    Returns:
        RGB.

    Raises:
        InputError: there are no pictures, or one is not a pair of title and picture.
        UsageError: `columns` is less than 1.
    """
    columns = count("columns", columns)
    given = items("pictures", pictures)
    pairs = [one if isinstance(one, (tuple, list)) and len(one) == 2 else None for one in given]
    if not pairs or None in pairs:
        raise InputError(
            "panel expects pairs of a title and a picture, as in [('heat map', picture)], got "
            + ("something else." if pairs else "none.")
        )
    tiles = [
        (str(title), _enlarged(as_picture(picture).convert("RGB")))
        for title, picture in filter(None, pairs)
    ]
    width, height = tiles[0][1].size
    size = max(12, height // 16)
    title_height = size + size // 2
    step_x, step_y = width + MARGIN, title_height + height + MARGIN
    rows = -(-len(tiles) // columns)
    sheet_size = (min(len(tiles), columns) * step_x + MARGIN, rows * step_y + MARGIN)
    sheet = Image.new("RGB", sheet_size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (title, tile) in enumerate(tiles):
        left, top = MARGIN + index % columns * step_x, MARGIN + index // columns * step_y
        text, font = _fitted(draw, title, size, width)
        middle = left + (width - draw.textlength(text, font=font)) / 2
        draw.text((middle, top), text, fill=INK, font=font)
        sheet.paste(tile, (left, top + title_height))
    return sheet


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = -(-MIN_SIDE // max(picture.size))
    if factor <= 1:
        return picture
    size = picture.width * factor, picture.height * factor
    return picture.resize(size, Image.Resampling.NEAREST)


def _fitted(draw: ImageDraw.ImageDraw, title: str, size: int, width: int) -> tuple[str, Any]:
    """The title, truncated to `width` pixels if necessary, and its font."""
    for font_size in range(size, 9, -1):
        text, font = _typeset(title, font_size)
        if draw.textlength(text, font=font) <= width:
            return text, font
    while text and draw.textlength(f"{text}...", font=font) > width:
        text = text[:-1]
    return f"{text}...", font


def _typeset(title: str, size: int) -> tuple[str, Any]:
    """The title on one line, without accents, and Pillow's default font, which lacks them.

    Before Pillow 10.1, and without FreeType, the font has only one size and only ASCII characters.
    """
    line = unicodedata.normalize("NFKD", " ".join(title[:LONGEST_TITLE].split()))
    line = "".join(char for char in line if not unicodedata.combining(char))
    try:
        return line, ImageFont.load_default(size)
    except (TypeError, ImportError):
        return line.encode("ascii", "replace").decode(), ImageFont.load_default()
