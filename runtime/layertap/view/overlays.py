"""Overlays of heat maps on pictures, drawn with Pillow."""

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
MIN_SIDE = 256
"""Minimum length in pixels of the longer side of a picture in a panel."""
PAPER, INK = (255, 255, 255), (0, 0, 0)


def overlay(
    picture: Image.Image,
    heat: npt.ArrayLike,
    *,
    colormap: str = "jet",
    alpha: float = 0.5,
) -> Image.Image:
    """Blend a heat map over a picture: `(1 - alpha) * picture + alpha * colours`.

    Args:
        picture: grey or in colour.
        heat: `(h, w)`, values between 0 and 1; resized to the picture's size if necessary.
        colormap: `jet`, `viridis` or `magma`.
        alpha: 0 shows only the picture, 1 only the colours of the heat map.

    Returns:
        RGB, of the picture's size.

    Raises:
        UsageError: the colormap is unknown, or `alpha` is not between 0 and 1.
        InputError: the heat map does not have shape `(h, w)`.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha must be between 0 and 1, got {alpha}.")
    values = np.asarray(heat, np.float32)
    if values.ndim != 2:
        raise InputError(f"a heat map must have the shape (h, w), got {values.shape}.")
    pixels = np.asarray(picture.convert("RGB"), np.float64)
    colors = colored(resize(values, pixels.shape[:2]), colormap)
    return Image.fromarray(np.round((1 - alpha) * pixels + alpha * colors).astype(np.uint8))


def panel(pictures: Sequence[tuple[str, Image.Image]], *, columns: int = 6) -> Image.Image:
    """Pictures side by side, each with a title above it.

    Small pictures are enlarged by an integer factor, without smoothing. A title that is wider than
    its picture gets a smaller font, and is truncated if that is not enough.

    Args:
        pictures: titles and pictures, left to right; all pictures have the same size.
        columns: number of pictures in a row.

    Returns:
        RGB.
    """
    tiles = [(title, _enlarged(picture.convert("RGB"))) for title, picture in pictures]
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
    line = unicodedata.normalize("NFKD", " ".join(title.split()))
    line = "".join(char for char in line if not unicodedata.combining(char))
    try:
        return line, ImageFont.load_default(size)
    except (TypeError, ImportError):
        return line.encode("ascii", "replace").decode(), ImageFont.load_default()
