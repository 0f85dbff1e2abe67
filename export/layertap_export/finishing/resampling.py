"""Pillow's resizing as nodes, bit for bit.

Pillow computes a filter in two passes, each rounded to whole levels: the weights of the source
pixels of each new pixel are computed in float64, divided by their sum, and rounded to whole
numbers of 2^-22; the sum of their products with the pixels is exact in 32 bits (Pillow:
`libImaging/Resample.c`). Here, the weights of 16 neighbouring new pixels are a small matrix over
the source pixels that any of them reads, in three matrices of bytes, and MatMulInteger multiplies
them: integers do not depend on the order in which they are added.

`nearest` adds up its steps in float64 (`libImaging/Geometry.c`), which CumSum does, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from layertap_export.gradients.builder import Builder, Value

from .regions import Axis
from .tensors import as_double, or_one, part, positions, reduced, reshaped

BLOCK = 16
"""New pixels whose source pixels are gathered together: more would multiply more zeros, fewer would
gather pixels more often."""

BITS = 22
"""Binary digits of a weight, Pillow's PRECISION_BITS."""

OFFSET = 64
"""What is added to the upper byte of a weight, so that no byte is negative: weights are from -1 to
3, in units of 2^22."""


class Filter(NamedTuple):
    """One of Pillow's filters."""

    support: float
    """Half the width over which it is not 0, in source pixels where nothing is shrunk."""
    weight: Callable[[Builder, Value], Value]
    """The weight at a distance from the centre, float64."""


def nearest(build: Builder, pixels: Value, axes: tuple[Axis, Axis]) -> Value:
    """Pixels `(n, h, w, c)`, uint8, resized by taking the nearest ones."""
    for at, axis in enumerate(axes, start=1):
        step = as_double(axis.length) / as_double(axis.total)
        first = as_double(axis.start) + step * 0.5
        numbers = positions(build, axis.total)
        steps = (numbers > 0).where(step, first)
        index = steps.op("CumSum", build.int64(0)).op("Floor").cast(TensorProto.INT64)
        index = index.op("Min", axis.pixels - build.int64([1]))
        if axis.cropped:
            wanted = positions(build, axis.count) + axis.first
            known = (wanted >= 0) & (wanted < axis.total)
            last = axis.total - build.int64([1])
            index = index.op("Gather", wanted.op("Max", build.int64([0])).op("Min", last))
            pixels = pixels.op("Gather", index, axis=at)
            sizes = [1] * 4
            sizes[at] = -1
            mask = reshaped(build, known.cast(TensorProto.INT32), *sizes)
            pixels = (pixels.cast(TensorProto.INT32) * mask).cast(TensorProto.UINT8)
        else:
            pixels = pixels.op("Gather", index, axis=at)
    return pixels


def filtered(build: Builder, pixels: Value, axes: tuple[Axis, Axis], name: str) -> Value:
    """Pixels `(n, h, w, c)`, uint8, resized with a filter, horizontally first."""
    height, width = axes
    shape = pixels.shape()
    rows, channels = part(build, shape, 0, 0, 1), part(build, shape, 0, 3, 4)
    chosen = FILTERS[name]
    # Only matrices are turned, which onnxruntime does ten times faster than several axes.
    planes = reshaped(build, _turned(reshaped(build, pixels, -1, channels)), -1, width.pixels)
    wide = _pass(build, _turned(planes), width, chosen)  # (new w, c n h)
    high = _pass(build, _turned(reshaped(build, wide, -1, height.pixels)), height, chosen)
    by_row = _turned(reshaped(build, high, -1, rows))  # (n, new h new w c)
    return reshaped(build, by_row, rows, height.count, width.count, channels)


def _turned(matrix: Value) -> Value:
    return matrix.op("Transpose", perm=[1, 0])


def _pass(build: Builder, pixels: Value, axis: Axis, chosen: Filter) -> Value:
    """Pixels `(old, anything)` as `(count, anything)`, uint8."""
    index, weights = _weights(build, axis, chosen)
    read = pixels.op("Gather", index, axis=0)
    upper, middle, lower = _bytes(build, weights)
    none = build.constant(np.array(0, np.uint8))
    zero = build.constant(np.array(OFFSET, np.uint8))
    sums = [
        build.node("MatMulInteger", one, read, offset)
        for one, offset in ((upper, zero), (middle, none), (lower, none))
    ]
    total = (sums[0] * 256 + sums[1]) * 256 + sums[2] + (1 << (BITS - 1))
    level = total.op("Max", 0).op("Min", (256 << BITS) - 1) / (1 << BITS)
    level = level.cast(TensorProto.UINT8)
    size = part(build, pixels.shape(), 0, 1, 2)
    return part(build, reshaped(build, level, -1, size), 0, 0, axis.count)


def _weights(build: Builder, axis: Axis, chosen: Filter) -> tuple[Value, Value]:
    """For each block of new pixels the source pixels that it reads, and their weights.

    Returns:
        int64 `(blocks, window)`, and int32 `(blocks, BLOCK, window)` in units of `2**-BITS`.
    """
    one = build.int64([1])
    blocks = (axis.count + (BLOCK - 1)) / build.int64([BLOCK])
    numbers = positions(build, blocks * BLOCK) + axis.first
    known = (numbers >= 0) & (numbers < axis.total)
    numbers = numbers.op("Max", build.int64([0])).op("Min", axis.total - one)
    scale = as_double(axis.length) / as_double(axis.total)
    stretch = scale.op("Max", 1.0)
    support = stretch * chosen.support
    centre = as_double(axis.start) + (as_double(numbers) + 0.5) * scale
    low = (centre - support + 0.5).op("Max", 0.0).op("Floor")
    high = (centre + support + 0.5).op("Min", as_double(axis.pixels)).op("Floor")
    low, high, centre, known = (
        reshaped(build, value, -1, BLOCK, 1) for value in (low, high, centre, known)
    )
    begin = reduced(build, "ReduceMin", low, [1])  # (blocks, 1, 1)
    end = reduced(build, "ReduceMax", high, [1])
    window = reduced(build, "ReduceMax", end - begin, [0, 1, 2]).cast(TensorProto.INT64)
    place = begin + as_double(positions(build, reshaped(build, window, 1)))  # (blocks, 1, window)
    inside = (place >= low) & (place < high) & known
    distance = (place - centre + 0.5) * (1.0 / stretch)
    weight = inside.where(chosen.weight(build, distance), 0.0)
    running = weight.op("CumSum", build.int64(2))
    total = running.op("Gather", build.int64([-1]), axis=2)
    weight = weight / or_one(total)
    rounding = (weight < 0.0).where(weight.like(-0.5), 0.5)
    whole = (weight * float(1 << BITS) + rounding).cast(TensorProto.INT32)
    index = place.op("Squeeze", build.int64([1])).cast(TensorProto.INT64)
    return index.op("Min", axis.pixels - one), whole


def _bytes(build: Builder, weights: Value) -> tuple[Value, Value, Value]:
    """Whole numbers as three bytes, the upper one with `OFFSET` added."""
    rest = weights + (OFFSET << 16)
    upper = rest / (1 << 16)
    rest = rest - upper * (1 << 16)
    middle = rest / 256
    lower = rest - middle * 256
    byte = TensorProto.UINT8
    return upper.cast(byte), middle.cast(byte), lower.cast(byte)


def _box(build: Builder, x: Value) -> Value:
    return as_double((x > -0.5) & (x <= 0.5))


def _triangle(build: Builder, x: Value) -> Value:
    return (1.0 - abs(x)).op("Max", 0.0)


def _hamming(build: Builder, x: Value) -> Value:
    """`sin(x) / x (0.54 + 0.46 cos(x))` for x in units of pi; onnxruntime has no cosine in float64,
    so the cosine is `1 - 2 sin(x / 2)^2`. Pillow's two constants are in float32."""
    far = abs(x)
    angle = far * math.pi
    half = (angle * 0.5).op("Sin")
    cosine = 1.0 - half * half * 2.0
    value = angle.op("Sin") / angle * (cosine * float(np.float32(0.46)) + float(np.float32(0.54)))
    return far.equals(0.0).where(x.like(1.0), (far >= 1.0).where(x.like(0.0), value))


def _cubic(build: Builder, x: Value) -> Value:
    """The cubic convolution with a = -0.5."""
    a, far = -0.5, abs(x)
    near = (far * (a + 2.0) - (a + 3.0)) * far * far + 1.0
    outer = (((far - 5.0) * far + 8.0) * far - 4.0) * a
    return (far < 1.0).where(near, (far < 2.0).where(outer, 0.0))


def _lanczos(build: Builder, x: Value) -> Value:
    inside = (x >= -3.0) & (x < 3.0)
    return inside.where(_sinc(x) * _sinc(x / 3.0), 0.0)


def _sinc(x: Value) -> Value:
    angle = x * math.pi
    return x.equals(0.0).where(x.like(1.0), angle.op("Sin") / angle)


FILTERS: Mapping[str, Filter] = {
    "box": Filter(0.5, _box),
    "bilinear": Filter(1.0, _triangle),
    "hamming": Filter(1.0, _hamming),
    "bicubic": Filter(2.0, _cubic),
    "lanczos": Filter(3.0, _lanczos),
}
"""By the names that recipes have; `nearest` is none."""
