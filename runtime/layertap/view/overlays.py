"""Heat maps laid over pictures, drawn with Pillow."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from layertap.cam.upsampling import resize
from layertap.errors import InputError, UsageError

from .colormaps import colored

MARGIN = 8
"""Pixels between the pictures of a panel, and around them."""
SMALLEST = 256
"""Pixels that the longer side of a picture has in a panel at least."""
PAPER, INK = (255, 255, 255), (0, 0, 0)


def overlay(
    picture: Image.Image,
    heat: npt.ArrayLike,
    *,
    colormap: str = "jet",
    alpha: float = 0.5,
) -> Image.Image:
    """A picture with a heat map over it: `(1 - alpha) * picture + alpha * colours`.

    Args:
        picture: grey or in colour.
        heat: `(h, w)`, 0 to 1; resized to the picture's size if it has another.
        colormap: `jet`, `viridis` or `magma`.
        alpha: 0 shows the picture alone, 1 the colours alone.

    Returns:
        RGB, of the picture's size.

    Raises:
        UsageError: no such colour map, or an alpha beyond 0 to 1.
        InputError: the heat is not `(h, w)`.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}, but it must be 0 to 1.")
    values = np.asarray(heat, np.float32)
    if values.ndim != 2:
        raise InputError(f"a heat map has the shape (h, w), but this has {values.shape}.")
    below = np.asarray(picture.convert("RGB"), np.float64)
    above = colored(resize(values, below.shape[:2]), colormap)
    return Image.fromarray(np.round((1 - alpha) * below + alpha * above).astype(np.uint8))


def panel(pictures: Sequence[tuple[str, Image.Image]], *, columns: int = 6) -> Image.Image:
    """Pictures side by side, each with a title above it.

    Small ones are enlarged, without smoothing, by a whole number. A title that is wider than its
    picture is set smaller, and at last shortened.

    Args:
        pictures: titles and pictures of one size, left to right.
        columns: pictures in a row.

    Returns:
        RGB.
    """
    tiles = [(title, _enlarged(picture.convert("RGB"))) for title, picture in pictures]
    width, height = tiles[0][1].size
    size = max(12, height // 16)
    head = size + size // 2
    step_x, step_y = width + MARGIN, head + height + MARGIN
    rows = -(-len(tiles) // columns)
    sheet_size = (min(len(tiles), columns) * step_x + MARGIN, rows * step_y + MARGIN)
    sheet = Image.new("RGB", sheet_size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (title, tile) in enumerate(tiles):
        left, top = MARGIN + index % columns * step_x, MARGIN + index // columns * step_y
        text, font = _fitted(draw, title, size, width)
        middle = left + (width - draw.textlength(text, font=font)) / 2
        draw.text((middle, top), text, fill=INK, font=font)
        sheet.paste(tile, (left, top + head))
    return sheet


def _enlarged(picture: Image.Image) -> Image.Image:
    times = -(-SMALLEST // max(picture.size))
    if times <= 1:
        return picture
    size = picture.width * times, picture.height * times
    return picture.resize(size, Image.Resampling.NEAREST)


def _fitted(draw: ImageDraw.ImageDraw, title: str, size: int, width: int) -> tuple[str, Any]:
    """The title as it fits into `width` pixels, and the font for it."""
    for smaller in range(size, 9, -1):
        text, font = _set(title, smaller)
        if draw.textlength(text, font=font) <= width:
            return text, font
    while text and draw.textlength(f"{text}...", font=font) > width:
        text = text[:-1]
    return f"{text}...", font


def _set(title: str, size: int) -> tuple[str, Any]:
    """A title on one line, in Pillow's own font, which has no accents.

    Before Pillow 10.1, and without FreeType, it has one size, and no other alphabets either.
    """
    line = unicodedata.normalize("NFKD", " ".join(title.split()))
    line = "".join(sign for sign in line if not unicodedata.combining(sign))
    try:
        return line, ImageFont.load_default(size)
    except (TypeError, ImportError):
        return line.encode("ascii", "replace").decode(), ImageFont.load_default()
