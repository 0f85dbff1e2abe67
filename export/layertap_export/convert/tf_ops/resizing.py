"""Resizing of images.

All but bilinear and nearest are separable sums of weighted pixels: rows @ image @ columns, with a
matrix of weights per axis that is made from the sizes. Where these are known the matrices are
constants in the file; else they are worked out in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tf2onnx.onnx_opset.nn import Resize as TensorFlowResize

from .expressions import NoWayError, Value, attribute, counted, joined, take_over

PLAIN: Mapping[str, Mapping[str, Any]] = {
    "ResizeBilinear": {"mode": "linear"},
    "ResizeNearestNeighbor": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
}
"""Attributes of ONNX's Resize, by TensorFlow operation."""


def resize(graph: Any, node: Any, name: str, args: Any) -> None:
    """Bilinear and nearest, as `tf.image.resize` does it.

    tf2onnx writes scales in float32, which may round to one pixel less (12 * (7 / 12) = 6.99), and
    for nearest a mode that opset 13 took out of the standard. For nearest TensorFlow takes pixel
    floor((x + 0.5) / scale), which is (x + 0.5) / scale - 0.5 rounded, halves upwards.
    """
    if not attribute(node, "half_pixel_centers"):  # from before TensorFlow 2
        TensorFlowResize.version_11(graph, node)
        return
    attributes = PLAIN[node.type]

    def build(image: Value, size: Value) -> Value:
        x = image.transpose(0, 3, 1, 2)
        # onnxruntime resizes some integers only, and rounds bilinear ones; TensorFlow does neither.
        if x.dtype != np.float32:
            x = x.cast(np.float32)
        sizes = joined([x.sizes_of_axes().cut(0, 0, 2), size.cast(np.int64)], 0)
        none = Value(graph, "")
        x = x.op(
            "Resize", none, none, sizes, coordinate_transformation_mode="half_pixel", **attributes
        )
        x = x.transpose(0, 2, 3, 1)
        wanted = image.dtype if node.type == "ResizeNearestNeighbor" else x.dtype
        return x if x.dtype == wanted else x.cast(wanted)

    take_over(graph, node, build)


def bicubic(graph: Any, node: Any, name: str, args: Any) -> None:
    """Keys's kernel with a = -0.5, looked up in a table of 1024 steps, over pixels in the image.

    Source: tensorflow/core/kernels/image/resize_bicubic_op.cc
    """
    if not attribute(node, "half_pixel_centers"):  # from before TensorFlow 2
        TensorFlowResize.version_11(graph, node)
        return

    def weights(given: Value, wanted: Value) -> Value:
        given, wanted = given.cast(np.float32), wanted.cast(np.float32)
        centres = (_column(wanted) + 0.5) * (given / wanted) - 0.5
        centres = (centres * 1024).op("Round") / 1024
        return _shares(_keys_cubic(abs(_row(given) - centres)))

    take_over(graph, node, lambda image, size: _separable(image, size, [weights, weights]))


def area(graph: Any, node: Any, name: str, args: Any) -> None:
    """The average over the area of each new pixel: shares of old ones by how far they overlap.

    Source: tensorflow/core/kernels/image/resize_area_op.cc
    """
    if attribute(node, "align_corners"):
        raise NoWayError("area interpolation with aligned corners")

    def weights(given: Value, wanted: Value) -> Value:
        given, wanted = given.cast(np.float32), wanted.cast(np.float32)
        scale = given / wanted
        begin, end = _column(wanted) * scale, (_column(wanted) + 1) * scale
        pixel = _row(given)
        overlap = (pixel + 1).op("Min", end) - pixel.op("Max", begin)
        return overlap.op("Max", 0) / scale

    take_over(graph, node, lambda image, size: _separable(image, size, [weights, weights]))


def scale_and_translate(graph: Any, node: Any, name: str, args: Any) -> None:
    """Kernels of any width: `lanczos3`, `lanczos5`, and everything with `antialias`.

    New pixel x has its centre at (x + 0.5 - translation) / scale, and takes what a kernel gives
    to the old ones around, in shares that add up to 1; nothing if it lies outside. When an image is
    made smaller, `antialias` stretches the kernel by 1 / scale.

    Source: tensorflow/core/kernels/image/scale_and_translate_op.cc
    """
    kernel = KERNELS[attribute(node, "kernel_type")]
    antialias = bool(attribute(node, "antialias"))

    def build(image: Value, size: Value, scale: Value, translation: Value) -> Value:
        def weights(axis: int) -> Weights:
            inverse = 1 / scale.take(axis, 0)
            shift = -inverse * translation.take(axis, 0)
            width = inverse.op("Max", 1) if antialias else inverse.like(1)

            def of(given: Value, wanted: Value) -> Value:
                given, wanted = given.cast(np.float32), wanted.cast(np.float32)
                centres = (_column(wanted) + 0.5) * inverse + shift
                shares = _shares(kernel(abs((_row(given) + 0.5 - centres) * (1 / width))))
                inside = (centres >= 0) & (centres <= given)
                return inside.where(shares, 0)

            return of

        return _separable(image, size, [weights(0), weights(1)])

    take_over(graph, node, build)


Weights = Callable[[Value, Value], Value]
"""From the sizes before and behind, scalars of int64, to the weights, shape `(behind, before)`."""


def _separable(image: Value, size: Value, weights: list[Weights]) -> Value:
    """Both axes of images `(n, h, w, c)` in turn; TensorFlow gives float32, whatever it gets."""
    known = size.constant
    wanted = [
        size.new(known[i], np.int64) if known is not None else size.cast(np.int64).take(i, 0)
        for i in (0, 1)
    ]
    rows, columns = (make(image.size(1 + i), wanted[i]) for i, make in enumerate(weights))
    x = image.transpose(0, 3, 1, 2)
    x = x if x.dtype == np.float32 else x.cast(np.float32)
    x = rows.op("MatMul", x).op("MatMul", columns.transpose(1, 0))
    return x.transpose(0, 2, 3, 1)


def _column(size: Value) -> Value:
    """0, 1, ... size - 1, as a column; `size` is a scalar of float32."""
    return _row(size).unsqueeze(1)


def _row(size: Value) -> Value:
    return counted(size.cast(np.int64)).cast(np.float32)


def _shares(weights: Value) -> Value:
    """Weights divided by the sum of their row; a row of zeros stays one."""
    total = weights.reduce("Sum", 1, keep=True)
    none = abs(total) < 1000 * float(np.finfo(np.float32).tiny)
    return none.where(0, weights / none.where(1, total))


def _lanczos(radius: float) -> Callable[[Value], Value]:
    def kernel(x: Value) -> Value:
        safe = (x <= 1e-3).where(1, x)
        waves = (safe * math.pi).op("Sin") * (safe * (math.pi / radius)).op("Sin")
        inside = waves * radius / (safe * safe * math.pi**2)
        return (x > radius).where(0, (x <= 1e-3).where(1, inside))

    return kernel


def _keys_cubic(x: Value) -> Value:
    near, far = x.polynomial([1, 0, -2.5, 1.5]), x.polynomial([2, -4, 2.5, -0.5])
    return (x >= 2).where(0, (x >= 1).where(far, near))


def _mitchell_cubic(x: Value) -> Value:
    near = x.polynomial([8 / 9, 0, -2, 7 / 6])
    far = x.polynomial([16 / 9, -10 / 3, 2, -7 / 18])
    return (x >= 2).where(0, (x >= 1).where(far, near))


def _gaussian(x: Value) -> Value:
    """Of radius 1.5, with a standard deviation of a third of it."""
    return (x >= 1.5).where(0, (x * x * -2).op("Exp"))


def _triangle(x: Value) -> Value:
    return (1 - x).op("Max", 0)


def _box(x: Value) -> Value:
    return (x < 0.5).where(1, x.equals(0.5).where(0.5, x.like(0)))


KERNELS: Mapping[str, Callable[[Value], Value]] = {
    "lanczos1": _lanczos(1),
    "lanczos3": _lanczos(3),
    "lanczos5": _lanczos(5),
    "gaussian": _gaussian,
    "box": _box,
    "triangle": _triangle,
    "keyscubic": _keys_cubic,
    "mitchellcubic": _mitchell_cubic,
}
"""Weight by distance, for TensorFlow's `kernel_type`."""
