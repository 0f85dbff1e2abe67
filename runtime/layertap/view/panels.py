"""Panels: pictures in rows, with titles, notes, a colour bar and a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from layertap._arguments import count, items
from layertap.errors import InputError, UsageError
from layertap.images.load import ImageSource
from layertap.images.shown import shown

from .colormaps import shades
from .lettering import FontFile, Lettering, length

MARGIN = 8
"""Least number of pixels between pictures, and around them."""
MIN_SIDE = 256
"""Least length in pixels of the longer side of a picture in a panel."""
MOST_PIXELS = 20_000
"""Most pixels of the width of a panel."""
PAPER, INK = (255, 255, 255), (0, 0, 0)
FRAME = (128, 128, 128)
"""The line around a colour bar, which the colour of the paper may be in."""


class Tile(NamedTuple):
    """A picture with its texts."""

    title: str
    picture: Image.Image
    note: str = ""
    """A line below the picture."""


class Bar(NamedTuple):
    """A colour bar: which colour stands for which value."""

    colormap: str
    ticks: tuple[str, ...]
    """The texts at equal steps from the lowest value to the highest."""
    label: str = ""
    """What the values are."""


def panel(
    pictures: Sequence[tuple[str, ImageSource]],
    *,
    columns: int = 6,
    caption: str = "",
    font: FontFile | None = None,
) -> Image.Image:
    """Pictures side by side, each with a title above it.

    Small pictures are enlarged by an integer factor, without smoothing. A title that is wider than
    its picture gets a smaller font, and is truncated if that is not enough.

    Args:
        pictures: titles and pictures, left to right; all pictures have the same size. A picture
            may have any form that `overlay` takes.
        columns: number of pictures in a row.
        caption: a text below the pictures.
        font: a font file, instead of the font that Pillow contains.

    Returns:
        RGB.

    Raises:
        InputError: there are no pictures, or one is not a pair of title and picture.
        UsageError: `columns` is less than 1, or the font cannot be read.

    Warns:
        LayertapWarning: the font lacks a character; `?` is drawn instead.
    """
    columns = count("columns", columns)
    given = items("pictures", pictures)
    pairs = [one if isinstance(one, (tuple, list)) and len(one) == 2 else None for one in given]
    if not pairs or None in pairs:
        raise InputError(
            "panel expects pairs of a title and a picture, as in [('heat map', picture)], got "
            + ("something else." if pairs else "none.")
        )
    tiles = [Tile(str(title), enlarged(shown(picture))) for title, picture in filter(None, pairs)]
    return arranged(tiles, columns=columns, caption=str(caption), letters=Lettering(font))


def enlarged(picture: Image.Image, least: int = MIN_SIDE) -> Image.Image:
    """A picture whose longer side has at least `least` pixels: an integer factor larger."""
    factor = -(-least // max(picture.size))
    if factor <= 1:
        return picture
    size = picture.width * factor, picture.height * factor
    return picture.resize(size, Image.Resampling.NEAREST)


class Layout:
    """Where the parts of a panel lie, for tiles of one size."""

    def __init__(
        self,
        size: tuple[int, int],
        tiles: int,
        columns: int,
        *,
        bar: Bar | None = None,
        notes: bool = False,
        letters: Lettering,
    ) -> None:
        """
        Args:
            size: (width, height) of the tiles.
            tiles: how many there are.
            columns: number of tiles in a row.
            bar: a colour bar, to the right of the tiles.
            notes: whether tiles have a line of text below them.
            letters: sets the text.
        """
        self.tile = width, height = size
        self.columns = min(columns, tiles)
        self.rows = -(-tiles // self.columns)
        shorter, longer = sorted(size)
        self.text = max(12, min(longer // 16, shorter // 8))
        self.margin = max(MARGIN, longer // 64)
        self.line = self.text + self.text // 2
        self.step_x = width + self.margin
        self.step_y = self.line + height + self.margin + self.line * notes
        self.right = self.margin + self.columns * self.step_x
        self.bar_width = 0
        if bar is not None:
            font = letters.font(self.text)
            widest = max(length(letters.line(tick), font) for tick in bar.ticks)
            label = self.line if bar.label else 0
            self.bar_width = self.text + self.text // 2 + int(widest) + 1 + label + self.margin
        self.width = self.right + self.bar_width
        self.bottom = self.margin + self.rows * self.step_y

    def corner(self, index: int) -> tuple[int, int]:
        """Left and top of a tile, with its title."""
        row, column = divmod(index, self.columns)
        return self.margin + column * self.step_x, self.margin + row * self.step_y


def fitting_tile(
    shape: tuple[int, int],
    width: int,
    tiles: int,
    columns: int,
    *,
    bar: Bar | None = None,
    notes: bool = False,
    letters: Lettering,
) -> tuple[int, int]:
    """The size (width, height) of tiles with the proportions of `shape`, for a panel that is
    `width` pixels wide; see `Layout` for the other arguments.

    Raises:
        UsageError: the panel is too narrow for its text, or wider than `MOST_PIXELS`.
    """
    width = count("width", width)
    if width > MOST_PIXELS:
        raise UsageError(f"width must be at most {MOST_PIXELS} pixels, got {width}.")
    low, high = 0, width  # a tile of `low` pixels fits, one of `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        size = middle, max(1, round(middle * shape[1] / shape[0]))
        layout = Layout(size, tiles, columns, bar=bar, notes=notes, letters=letters)
        low, high = (middle, high) if layout.width <= width else (low, middle)
    if low < 16:
        per_row = min(columns, tiles)
        raise UsageError(
            f"a width of {width} pixels leaves no room for {per_row} "
            f"{'pictures' if per_row > 1 else 'picture'} in a row. Give a larger width or "
            "resolution, or fewer pictures."
        )
    return low, max(1, round(low * shape[1] / shape[0]))


def arranged(
    tiles: Sequence[Tile],
    *,
    columns: int,
    letters: Lettering,
    bar: Bar | None = None,
    caption: str = "",
    width: int | None = None,
) -> Image.Image:
    """Tiles of one size in rows, with their texts.

    Args:
        tiles: left to right, row by row.
        columns: number of tiles in a row.
        letters: sets the text; it warns of characters that the font lacks.
        bar: a colour bar, to the right of the first row.
        caption: a text below the tiles.
        width: the width of the panel in pixels; by default what the tiles need.
    """
    notes = any(tile.note for tile in tiles)
    size = tiles[0].picture.size
    layout = Layout(size, len(tiles), columns, bar=bar, notes=notes, letters=letters)
    text, font = layout.text, letters.font(layout.text)
    total = layout.width if width is None else width
    lines = letters.wrapped(caption, text, total - 2 * layout.margin) if caption.strip() else []
    height = layout.bottom + (len(lines) * layout.line + layout.margin if lines else 0)
    sheet = Image.new("RGB", (total, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, tile in enumerate(tiles):
        left, top = layout.corner(index)
        for words, down in ((tile.title, 0), (tile.note, layout.line + layout.tile[1] + text // 4)):
            if words:
                line, fitted = letters.fitted(words, text, layout.tile[0])
                middle = left + (layout.tile[0] - length(line, fitted)) / 2
                draw.text((middle, top + down), line, fill=INK, font=fitted)
        sheet.paste(tile.picture, (left, top + layout.line))
    if bar is not None:
        _draw_bar(sheet, bar, layout, letters)
    for at, line in enumerate(lines):
        draw.text((layout.margin, layout.bottom + at * layout.line), line, fill=INK, font=font)
    letters.warn()
    return sheet


def _draw_bar(sheet: Image.Image, bar: Bar, layout: Layout, letters: Lettering) -> None:
    """A colour bar as high as a tile, next to the first row."""
    draw, text, font = ImageDraw.Draw(sheet), layout.text, letters.font(layout.text)
    left, top = layout.right, layout.margin + layout.line
    height = layout.tile[1]
    colors = shades(bar.colormap)[::-1]
    rows = colors[np.arange(height) * len(colors) // height]
    strip = Image.fromarray(np.ascontiguousarray(rows[:, None, :])).resize(
        (text, height), Image.Resampling.NEAREST
    )
    sheet.paste(strip, (left, top))
    draw.rectangle((left, top, left + text - 1, top + height - 1), outline=FRAME)
    at = left + text + text // 2
    for number, tick in enumerate(bar.ticks):
        line = letters.line(tick)
        _, above, _, below = font.getbbox(line)
        room = height - (below - above)
        down = round(room * (1 - number / max(1, len(bar.ticks) - 1)))
        draw.text((at, top + down - above), line, fill=INK, font=font)
    if bar.label:
        line, fitted = letters.fitted(bar.label, text, height)
        word = Image.new("L", (int(length(line, fitted)) + 1, layout.line), 255)
        ImageDraw.Draw(word).text((0, 0), line, fill=0, font=fitted)
        turned = word.rotate(90, expand=True)
        right = layout.width - layout.margin
        sheet.paste(
            turned.convert("RGB"), (right - layout.line, top + (height - turned.height) // 2)
        )
