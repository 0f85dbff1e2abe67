"""Images under projective maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from .expressions import Value, attribute, counted, joined, take_over


def projective_transform(graph: Any, node: Any, name: str, args: Any) -> None:
    """The pixel at (x, y) comes from ((a0 x + a1 y + a2) / k, (b0 x + b1 y + b2) / k) with
    k = c0 x + c1 y + 1; a transform is (a0, a1, a2, b0, b1, b2, c0, c1).

    Source: tensorflow/core/kernels/image/image_ops.h
    """
    fill_mode = attribute(node, "fill_mode")
    bilinear = attribute(node, "interpolation") == "BILINEAR"

    def build(image: Value, transforms: Value, size: Value, fill_value: Value) -> Value:
        height, width = (image.size(axis).cast(np.float32) for axis in (1, 2))
        x, y = _source(transforms, size)
        whole = ~(x.op("IsNaN") | y.op("IsNaN"))
        x, y = (whole.where(_folded(p, n, fill_mode), 0) for p, n in ((x, width), (y, height)))
        filled = fill_value.cast(image.dtype) if image.dtype != np.float32 else fill_value

        def read(row: Value, column: Value) -> Value:
            return _read(image, row, column, height, width, filled)

        if bilinear:
            left, top = x.op("Floor"), y.op("Floor")
            right, bottom = left + 1, top + 1
            above = _mixed(read(top, left), read(top, right), right - x, x - left)
            below = _mixed(read(bottom, left), read(bottom, right), right - x, x - left)
            result = _mixed(above, below, bottom - y, y - top)
        else:
            result = read(_rounded(y), _rounded(x))
        return whole.unsqueeze(-1).where(result, filled)

    take_over(graph, node, build)


def _source(transforms: Value, size: Value) -> tuple[Value, Value]:
    """Where each new pixel comes from, x and y, of shape `(n or 1, h, w)`; NaN for nowhere."""
    sizes = size.cast(np.int64)
    row = counted(sizes.take(0, 0)).cast(np.float32).reshape(1, -1, 1)
    column = counted(sizes.take(1, 0)).cast(np.float32).reshape(1, 1, -1)
    a0, a1, a2, b0, b1, b2, c0, c1 = (transforms.take(i, 1).reshape(-1, 1, 1) for i in range(8))
    k = c0 * column + c1 * row + 1
    k = k.equals(0).where(float("nan"), k)
    return (a0 * column + a1 * row + a2) / k, (b0 * column + b1 * row + b2) / k


def _folded(place: Value, size: Value, fill_mode: str) -> Value:
    """A place outside of `size` pixels brought inside, as the fill mode has it."""
    if fill_mode == "CONSTANT":
        return place
    last = size - 1
    if fill_mode == "REFLECT":  # dcba|abcd|dcba
        period = size * 2
        turns = (-place / period).op("Floor") * period
        low = (place < period).where(place + turns, place)
        low = (low < -size).where(low + period, -low - 1)
        high = place - (place / period).op("Floor") * period
        high = (high >= size).where(period - high - 1, high)
    elif fill_mode == "WRAP":  # abcd|abcd|abcd
        safe = last.op("Max", 1)
        low = place + size * ((-place / safe).op("Floor") + 1)
        high = place - size * (place / safe).op("Floor")
    else:  # NEAREST: aaaa|abcd|dddd
        low = high = place
    if fill_mode in ("REFLECT", "WRAP"):
        low, high = ((size <= 1).where(0, x) for x in (low, high))
    place = (place < 0).where(low, (place > last).where(high, place))
    return place.op("Max", 0).op("Min", last)


def _rounded(x: Value) -> Value:
    """To the nearest integer, halves away from zero."""
    return x.op("Sign") * (abs(x) + 0.5).op("Floor")


def _mixed(one: Value, other: Value, share: Value, rest: Value) -> Value:
    return share.unsqueeze(-1) * one + rest.unsqueeze(-1) * other


def _read(
    image: Value, row: Value, column: Value, height: Value, width: Value, filled: Value
) -> Value:
    """The pixels at whole-numbered places, shape `(n, h, w, c)`; `filled` outside the image."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = (inside.where(place, 0).cast(np.int64) for place in (row, column))
    place = row * image.size(2) + column
    batch, channels = image.size(0).reshape(1), image.size(3).reshape(1)
    flat = image.op("Reshape", joined([batch, image.sizes([-1])[0], channels], 0))
    # One list of places serves all images if there is one transform only.
    places = place.op("Expand", joined([batch, *image.sizes([1, 1])], 0))
    pixels = flat.op("GatherND", places.unsqueeze(-1), batch_dims=1)
    return inside.unsqueeze(-1).where(pixels, filled)
