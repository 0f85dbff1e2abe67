"""Overlays of heat maps on pictures, drawn with numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from layertap._arguments import choice, count, flag, number
from layertap.errors import InputError, UsageError
from layertap.format.text import class_text
from layertap.images.load import ImageSource
from layertap.images.region import Region
from layertap.images.shown import shown

from .colormaps import shades

OPACITIES = ("fixed", "heat")
"""The values of `opacity`."""
DEFAULT_ALPHA = {"fixed": 0.5, "heat": 0.8}
"""`alpha` by `opacity`, if it is not given."""

_STRIP = 1 << 16
"""Pixels that are drawn at once: their values stay in the processor's cache."""
_FLAT = 1e-6
"""A slope per pixel below which a map has no contour line."""


def overlay(
    picture: ImageSource,
    heat: npt.ArrayLike,
    *,
    colormap: str = "jet",
    alpha: float | None = None,
    opacity: str = "fixed",
    signed: bool = False,
    contours: int = 0,
    region: Sequence[float] | None = None,
) -> Image.Image:
    """Blend a heat map over a picture: `(1 - a) * picture + a * colours`, with the opacity `a`.

    Args:
        picture: grey or in colour: a PIL image, a path, the bytes of a file, or an array
            `(h, w)` or `(h, w, c)` of integers, or of floats in 0..1 or 0..255.
        heat: `(h, w)`, values between 0 and 1, or between -1 and 1 if `signed`; resized to the
            picture bilinearly. Axes of size 1 before these are ignored. NaN is drawn as 0.
        colormap: one of `layertap.view.colormaps.COLORMAPS`.
        alpha: 0 shows only the picture, 1 only the colours of the heat map; by default 0.5, or 0.8
            with `opacity="heat"`.
        opacity: `fixed`: the opacity is `alpha` everywhere; `heat`: it is `alpha` times the
            absolute value of the heat.
        signed: whether the values have a sign: 0 gets the middle of the colormap.
        contours: number of contour lines, at equal steps between 0 and 1 (for 3 at 0.25, 0.5 and
            0.75), and the negative ones if `signed`.
        region: the rectangle `(left, top, right, bottom)` of the picture, in pixels, that the heat
            map covers, by default all; it may reach over the picture.
            `layertap.images.region.seen_region` says which part a model sees.

    Returns:
        RGB, of the picture's size.

    Raises:
        UsageError: the colormap or the opacity is unknown, or `alpha` is not between 0 and 1.
        InputError: the heat map does not have shape `(h, w)`, or the region is empty.
        ImageError: the picture cannot be read.
    """
    opacity = choice("opacity", opacity, OPACITIES)
    alpha = DEFAULT_ALPHA[opacity] if alpha is None else number("alpha", alpha)
    if alpha > 1:
        raise UsageError(f"alpha must be between 0 and 1, got {alpha}.")
    signed = flag("signed", signed)
    contours = count("contours", contours, least=0, most=20)
    colors = shades(colormap).astype(np.float32)
    values = _heat_map(heat)
    source = np.asarray(shown(picture))
    height, width = source.shape[:2]
    where = _region(region, height, width)
    down = _axis(values.shape[0], height, where.top, where.bottom)
    across = _axis(values.shape[1], width, where.left, where.right)
    pixels = np.repeat(source[:, :, None], 3, axis=2) if source.ndim == 2 else source.copy()
    if down.first < down.end and across.first < across.end:
        inside = pixels[down.first : down.end, across.first : across.end]
        spread = values[:, across.low] * (1 - across.share) + values[:, across.high] * across.share
        lines = _Lines(contours, signed, max(1.25, max(height, width) / 400)) if contours else None
        _draw(inside, spread, down, colors, (alpha, opacity == "heat", signed), lines)
    return Image.fromarray(pixels)


class _Axis(NamedTuple):
    """One axis of a map, on one of a picture."""

    first: int
    """The first pixel whose centre is on the map."""
    end: int
    """The one after the last."""
    low: npt.NDArray[np.intp]
    """For each of these pixels, the element of the map before it."""
    high: npt.NDArray[np.intp]
    share: npt.NDArray[np.float32]
    """The weight of the element at `high`."""


def _axis(old: int, pixels: int, start: float, end: float) -> _Axis:
    """As in `layertap.cam.upsampling.resize`, for a map that lies between `start` and `end`."""
    centres = np.arange(pixels) + 0.5
    inside = np.flatnonzero((centres >= start) & (centres < end))
    if not inside.size:
        empty = np.zeros(0, np.intp)
        return _Axis(0, 0, empty, empty, np.zeros(0, np.float32))
    position = (centres[inside] - start) * (old / (end - start)) - 0.5
    position = np.clip(position, 0, old - 1)
    low = np.minimum(position.astype(np.intp), max(old - 2, 0))
    share = (position - low).astype(np.float32)
    return _Axis(inside[0], inside[-1] + 1, low, np.minimum(low + 1, old - 1), share)


class _Lines(NamedTuple):
    """Contour lines: white, with a dark edge, so that they are seen on any colours."""

    count: int  # type: ignore[assignment]  # tuples have a method of this name
    """Number of levels between 0 and 1."""
    signed: bool
    """Whether there are as many between -1 and 0."""
    radius: float
    """Half the width of a line with its edges, in pixels."""

    @property
    def reach(self) -> int:
        """How far from a level pixels are drawn."""
        return int(self.radius) + 2


def _draw(
    pixels: npt.NDArray[np.uint8],
    spread: npt.NDArray[np.float32],
    down: _Axis,
    colors: npt.NDArray[np.float32],
    mixing: tuple[float, bool, bool],
    lines: _Lines | None,
) -> None:
    """Draw a map over pixels `(h, w, 3)`, in place, some rows at a time.

    Args:
        pixels: those that the map lies on.
        spread: the map, resized along the width.
        down: how it is resized along the height.
        colors: the colormap, `(256, 3)`.
        mixing: see `_blend`.
        lines: the contour lines, if any.
    """
    rows, reach = max(1, _STRIP // pixels.shape[1]), 0
    if lines is not None:  # they need the rows around, so that larger strips are better
        reach = lines.reach
        rows = max(4 * reach, 4 * rows)
    for top in range(0, len(pixels), rows):
        first = max(0, top - reach)
        heat = _rows(spread, down, first, top + rows + reach)
        part = pixels[top : top + rows]
        _blend(part, heat[top - first :][: len(part)], colors, mixing)
        if lines is not None:
            _draw_lines(part, heat, top - first, lines)


def _blend(
    pixels: npt.NDArray[np.uint8],
    heat: npt.NDArray[np.float32],
    colors: npt.NDArray[np.float32],
    mixing: tuple[float, bool, bool],
) -> None:
    """Blend a map `(h, w)` over pixels `(h, w, 3)`, in place.

    Args:
        mixing: `alpha`, whether the opacity depends on the heat, and whether that has a sign.
    """
    alpha, by_heat, signed = mixing
    size = len(colors)
    rows = max(1, _STRIP // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        part, values = pixels[top : top + rows], heat[top : top + rows]
        index = ((values + 1) * (size / 2) if signed else values * size).astype(np.intp)
        drawn = colors.take(index, axis=0, mode="clip")
        if by_heat:
            weight = (alpha * np.clip(np.abs(values), 0, 1))[:, :, None]
            part[:] = np.rint(part + weight * (drawn - part))
        else:
            part[:] = np.rint(part * np.float32(1 - alpha) + drawn * np.float32(alpha))


def _rows(
    spread: npt.NDArray[np.float32], down: _Axis, top: int, bottom: int
) -> npt.NDArray[np.float32]:
    """Some rows of a map in the size of the picture."""
    share = down.share[top:bottom, None]
    rows: npt.NDArray[np.float32] = spread[down.low[top:bottom]]
    rows *= 1 - share
    high = spread[down.high[top:bottom]]
    high *= share
    rows += high
    return rows


def _draw_lines(
    pixels: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32], skipped: int, lines: _Lines
) -> None:
    """Draw contour lines over pixels `(h, w, 3)`, in place.

    Args:
        heat: the map at these pixels, and at the rows around them; it is changed.
        skipped: the number of rows before the first pixel's.
    """
    heat *= lines.count + 1  # the levels are now whole numbers
    # The distance to a line follows from value and slope, but these do not tell whether the level
    # is reached: there, the whole part of the values changes.
    near = _grown(_crossed(heat.astype(np.int8)), lines.reach)[skipped:]
    at = np.flatnonzero(near[: len(pixels)])
    if not at.size:
        return
    in_heat = at + skipped * heat.shape[1]
    value = heat.take(in_heat)
    level = np.clip(np.rint(np.abs(value)), 1, lines.count)
    if lines.signed:
        level = np.copysign(level, value)
    away = np.abs(value - level) / np.maximum(np.hypot(*_slopes(heat, in_heat)), _FLAT)
    sizes = (lines.radius, lines.radius / 2)
    dark, white = (np.clip(size + 0.5 - away, 0, 1) for size in sizes)
    # First the dark edge over the picture, then the white line over both.
    where = np.divmod(at, pixels.shape[1])
    color = pixels[where] * ((1 - dark) * (1 - white))[:, None]
    color += (255 * white)[:, None]
    pixels[where] = np.rint(color, out=color)


def _slopes(
    heat: npt.NDArray[np.float32], at: npt.NDArray[np.intp]
) -> Iterator[npt.NDArray[np.float32]]:
    """The slopes along both axes at some elements, as `np.gradient` computes them at all.

    Args:
        at: indices of the flattened map.
    """
    for index, length, stride in zip(
        np.divmod(at, heat.shape[1]), heat.shape, (heat.shape[1], 1), strict=True
    ):
        back, on = index > 0, index < length - 1
        rise = heat.take(at + on * stride) - heat.take(at - back * stride)
        yield rise * (1 - 0.5 * (back & on)).astype(np.float32)


def _crossed(bands: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """The elements that lie between other levels than one next to them."""
    edge = np.zeros(bands.shape, np.bool_)
    for axis in (0, 1):
        lines, marked = np.moveaxis(bands, axis, 0), np.moveaxis(edge, axis, 0)
        changes = lines[1:] != lines[:-1]
        marked[1:] |= changes
        marked[:-1] |= changes
    return edge


def _grown(edge: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """The elements at most `reach` rows and columns from those that are true."""
    if not edge.any():
        return edge
    for axis in (0, 1):
        lines, left = np.moveaxis(edge, axis, 0), reach
        while left and len(lines) > 1:
            step = min(left, max(1, (reach - left) * 2 + 1), len(lines) - 1)
            grown = lines.copy()
            grown[step:] |= lines[:-step]
            grown[:-step] |= lines[step:]
            lines, left = grown, left - step
        edge = np.moveaxis(lines, 0, axis)
    return edge


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
    return np.nan_to_num(values, nan=0, posinf=1, neginf=-1).clip(-1, 1)


def _region(given: Sequence[float] | None, height: int, width: int) -> Region:
    if given is None:
        return Region(0, 0, width, height)
    try:
        found = Region(*(float(edge) for edge in given))
    except (TypeError, ValueError) as exc:
        raise InputError(
            "region must be four numbers, (left, top, right, bottom), in pixels of the picture, "
            f"got {given!r}."
        ) from exc
    if not (found.left < found.right and found.top < found.bottom and np.isfinite(found).all()):
        raise InputError(f"region is empty: (left, top, right, bottom) is {tuple(found)}.")
    return found
