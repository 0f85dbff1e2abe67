"""Contact sheets: pictures of activations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap._arguments import choice, flag, items
from layertap._arguments import count as counted
from layertap.errors import InputError, UsageError
from layertap.images.load import ImageSource
from layertap.images.shown import shown

from .colormaps import DIVERGING, colored, shades
from .lettering import FontFile, Lettering
from .panels import PAPER, Bar, Tile, arranged, fitting_tile

SCALES = ("own", "common")
"""The values of `scale`."""

MOST_TILES = 10_000
"""The most maps of a sheet."""


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
    image: ImageSource | None = None,
    channels: int | Iterable[int] | None = None,
    count: int = 17,
    scale: str = "own",
    colormap: str = "gray",
    statistics: bool = False,
    tile: int = 160,
    columns: int = 6,
    caption: str = "",
    width: int | None = None,
    font: FontFile | None = None,
) -> Image.Image:
    """Feature maps of one sample side by side, next to the input image.

    The maps are enlarged without smoothing: one square is one value.

    Args:
        activation: one sample's feature maps, `(h, w, c)`.
        image: the input image, which is drawn first.
        channels: the channels to draw, in this order; negative ones count from the end. By default
            the strongest, see `strongest_channels`.
        count: without `channels`, the number of maps, if there are enough channels. With the image,
            17 maps fill three rows of six.
        scale: `own`: each map from its own minimum (the first colour) to its maximum (the last);
            `common`: all maps drawn from their smallest value to their largest, which a colour bar
            shows. With a diverging colormap the scale reaches equally far below 0 and above.
        colormap: one of `layertap.view.colormaps.COLORMAPS`.
        statistics: whether minimum, mean and maximum are below each map.
        tile: length of a tile's longer side in pixels.
        columns: number of tiles in a row.
        caption: a text below the maps.
        width: the width of the sheet in pixels, instead of `tile`.
        font: a font file, instead of the font that Pillow contains.

    Returns:
        RGB, with the index of the channel above each map.

    Raises:
        InputError: the activation does not have shape `(h, w, c)`.
        UsageError: a channel does not exist, an unknown scale or colormap, no room for the maps, or
            a font that cannot be read.

    Warns:
        LayertapWarning: the font lacks a character of the caption; `?` is drawn instead.
    """
    maps = _checked(activation)
    tile, columns = counted("tile", tile, most=4096), counted("columns", columns)
    scale, statistics = choice("scale", scale, SCALES), flag("statistics", statistics)
    shades(colormap)
    letters = Lettering(font)
    if channels is None:
        chosen = strongest_channels(maps, min(counted("count", count, least=0), MOST_TILES))
    else:
        chosen = _existing(channels, maps.shape[2])
    picture = None if image is None else shown(image)
    tiles = len(chosen) + (picture is not None)
    if not tiles:
        raise UsageError("the sheet is empty: it has neither channels nor an image.")
    planes = [_numbers(maps[:, :, channel]) for channel in chosen]
    limits = [_limits(plane, colormap) for plane in planes]
    bar = None
    if scale == "common" and limits:
        ends = min(low for low, _ in limits), max(high for _, high in limits)
        limits = [ends] * len(limits)
        middle = (ends[0] + ends[1]) / 2
        bar = Bar(colormap, tuple(f"{value:.3g}" for value in (ends[0], middle, ends[1])))
    shape = maps.shape[1], maps.shape[0]
    frame = _frame(shape, picture, 1000 if width is not None else tile)
    if width is not None:
        frame = fitting_tile(
            frame, width, tiles, columns, bar=bar, notes=statistics, letters=letters
        )
    drawn = []
    if picture is not None:
        smooth = Image.Resampling.LANCZOS
        drawn.append(Tile("input", _within(picture.convert("RGB"), frame, smooth)))
    for channel, plane, (low, high) in zip(chosen, planes, limits, strict=True):
        shares = (plane - low) / (high - low) if high > low else np.zeros_like(plane)
        # The last colour is for the largest value, the first for the smallest, as in a bar.
        colors = Image.fromarray(colored(np.round(shares * 255) / 256 + 1 / 512, colormap))
        note = _statistics(maps[:, :, channel]) if statistics else ""
        drawn.append(Tile(str(channel), _within(colors, frame, Image.Resampling.NEAREST), note))
    return arranged(
        drawn, columns=columns, letters=letters, bar=bar, caption=str(caption), width=width
    )


def _existing(channels: Any, number: int) -> list[int]:
    """Indices of channels.

    Raises:
        UsageError: one does not exist, or there are too many.
    """
    asked = [channels] if not hasattr(channels, "__iter__") else items("channels", channels)
    if not asked or len(asked) > MOST_TILES:
        raise UsageError(f"channels must be from 1 to {MOST_TILES} indices, got {len(asked)}.")
    found = []
    for one in asked:
        index = counted("a channel", one, least=-number) if number else 0
        if index >= number:
            raise UsageError(
                f"channel {index} does not exist: the layer has {number}, 0 to {number - 1}."
            )
        found.append(index % number)
    return found


def _checked(activation: NDArray[Any]) -> NDArray[Any]:
    maps = np.asarray(activation)
    if maps.ndim != 3 or 0 in maps.shape:
        raise InputError(
            f"feature maps must have the shape (h, w, c), got {maps.shape}. Give one sample "
            "(activation[0]) of a layer with four axes."
        )
    return maps


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """The values with the smallest finite one for NaN, and the nearest finite one for infinity."""
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    return np.nan_to_num(numbers, nan=low, posinf=high, neginf=low)


def _limits(plane: NDArray[np.float64], colormap: str) -> tuple[float, float]:
    low, high = float(plane.min()), float(plane.max())
    if colormap in DIVERGING:
        high = max(abs(low), abs(high))
        low = -high
    return low, high


def _statistics(values: NDArray[Any]) -> str:
    numbers = values.astype(np.float64)
    with np.errstate(all="ignore"):  # NaN and infinity are printed
        low, mean, high = numbers.min(), numbers.mean(), numbers.max()
    return f"{low:.3g} to {high:.3g}, mean {mean:.3g}"


def _frame(shape: tuple[int, int], picture: Image.Image | None, longer: int) -> tuple[int, int]:
    """(width, height) of the tiles: of a map, and of a picture that may have other proportions."""
    sizes = [shape] if picture is None else [shape, picture.size]
    scaled = [[max(1, round(side * longer / max(size))) for side in size] for size in sizes]
    return max(width for width, _ in scaled), max(height for _, height in scaled)


def _within(picture: Image.Image, frame: tuple[int, int], way: Image.Resampling) -> Image.Image:
    """A picture in the middle of a frame, with its proportions, on white."""
    factor = min(frame[0] / picture.width, frame[1] / picture.height)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    resized = picture.resize((width, height), way)
    if (width, height) == frame:
        return resized
    whole = Image.new("RGB", frame, PAPER)
    whole.paste(resized, ((frame[0] - width) // 2, (frame[1] - height) // 2))
    return whole
