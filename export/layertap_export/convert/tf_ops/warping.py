"""Projective transforms of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from .expressions import Value, arange, attribute, concat, replace_node


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
        valid = ~(x.op("IsNaN") | y.op("IsNaN"))
        x, y = (valid.where(_wrapped(p, n, fill_mode), 0) for p, n in ((x, width), (y, height)))
        fill = fill_value.cast(image.dtype) if image.dtype != np.float32 else fill_value

        def read(row: Value, column: Value) -> Value:
            return _read(image, row, column, height, width, fill)

        if bilinear:
            left, top = x.op("Floor"), y.op("Floor")
            right, bottom = left + 1, top + 1
            above = _weighted(read(top, left), read(top, right), right - x, x - left)
            below = _weighted(read(bottom, left), read(bottom, right), right - x, x - left)
            result = _weighted(above, below, bottom - y, y - top)
        else:
            result = read(_rounded(y), _rounded(x))
        return valid.unsqueeze(-1).where(result, fill)

    replace_node(graph, node, build)


def _source(transforms: Value, size: Value) -> tuple[Value, Value]:
    """The source coordinates x and y of each new pixel, shape `(n or 1, h, w)`; NaN if none."""
    sizes = size.cast(np.int64)
    row = arange(sizes.take(0, 0)).cast(np.float32).reshape(1, -1, 1)
    column = arange(sizes.take(1, 0)).cast(np.float32).reshape(1, 1, -1)
    a0, a1, a2, b0, b1, b2, c0, c1 = (transforms.take(i, 1).reshape(-1, 1, 1) for i in range(8))
    k = c0 * column + c1 * row + 1
    k = k.equals(0).where(float("nan"), k)
    return (a0 * column + a1 * row + a2) / k, (b0 * column + b1 * row + b2) / k


def _wrapped(position: Value, size: Value, fill_mode: str) -> Value:
    """A coordinate along an axis of `size` pixels, moved inside according to the fill mode."""
    if fill_mode == "CONSTANT":
        return position
    last = size - 1
    if fill_mode == "REFLECT":  # dcba|abcd|dcba
        period = size * 2
        turns = (-position / period).op("Floor") * period
        low = (position < period).where(position + turns, position)
        low = (low < -size).where(low + period, -low - 1)
        high = position - (position / period).op("Floor") * period
        high = (high >= size).where(period - high - 1, high)
    elif fill_mode == "WRAP":  # abcd|abcd|abcd
        safe = last.op("Max", 1)
        low = position + size * ((-position / safe).op("Floor") + 1)
        high = position - size * (position / safe).op("Floor")
    else:  # NEAREST: aaaa|abcd|dddd
        low = high = position
    if fill_mode in ("REFLECT", "WRAP"):
        low, high = ((size <= 1).where(0, x) for x in (low, high))
    position = (position < 0).where(low, (position > last).where(high, position))
    return position.op("Max", 0).op("Min", last)


def _rounded(x: Value) -> Value:
    """To the nearest integer, halves away from zero."""
    return x.op("Sign") * (abs(x) + 0.5).op("Floor")


def _weighted(x: Value, y: Value, weight_x: Value, weight_y: Value) -> Value:
    return weight_x.unsqueeze(-1) * x + weight_y.unsqueeze(-1) * y


def _read(
    image: Value, row: Value, column: Value, height: Value, width: Value, fill: Value
) -> Value:
    """The pixels at integer positions, shape `(n, h, w, c)`; `fill` outside the image."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = (inside.where(position, 0).cast(np.int64) for position in (row, column))
    index = row * image.size(2) + column
    batch, channels = image.size(0).reshape(1), image.size(3).reshape(1)
    flat = image.op("Reshape", concat([batch, image.int64s([-1])[0], channels], 0))
    # A single transform applies to all images.
    indices = index.op("Expand", concat([batch, *image.int64s([1, 1])], 0))
    pixels = flat.op("GatherND", indices.unsqueeze(-1), batch_dims=1)
    return inside.unsqueeze(-1).where(pixels, fill)
