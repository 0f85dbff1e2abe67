"""Resizing of images.

All methods except bilinear and nearest are separable weighted sums of pixels: rows @ image @
columns, with a matrix of weights for each axis that depends on the sizes. If the sizes are known,
the matrices are constants in the file, else they are computed in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tf2onnx.onnx_opset.nn import Resize as TensorFlowResize

from .expressions import UnsupportedUseError, Value, arange, attribute, concat, replace_node

RESIZE_ATTRIBUTES: Mapping[str, Mapping[str, Any]] = {
    "ResizeBilinear": {"mode": "linear"},
    "ResizeNearestNeighbor": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
}
"""Attributes of ONNX's Resize, by TensorFlow operation."""


def resize(graph: Any, node: Any, name: str, args: Any) -> None:
    """Bilinear and nearest, like `tf.image.resize`.

    tf2onnx writes scales in float32, with which the output can be one pixel smaller after rounding
    (12 * (7 / 12) = 6.99), and for nearest a mode that opset 13 removed from the standard. For
    nearest, TensorFlow takes the pixel floor((x + 0.5) / scale). This is (x + 0.5) / scale - 0.5
    rounded to the nearest integer, with halves rounded up.
    """
    if not attribute(node, "half_pixel_centers"):  # from before TensorFlow 2
        TensorFlowResize.version_11(graph, node)
        return
    attributes = RESIZE_ATTRIBUTES[node.type]

    def build(image: Value, size: Value) -> Value:
        x = image.transpose(0, 3, 1, 2)
        # onnxruntime supports only some integer types, and rounds bilinear results of integers.
        if x.dtype != np.float32:
            x = x.cast(np.float32)
        sizes = concat([x.shape_tensor().slice(0, 0, 2), size.cast(np.int64)], 0)
        omitted = Value(graph, "")
        x = x.op(
            "Resize",
            omitted,
            omitted,
            sizes,
            coordinate_transformation_mode="half_pixel",
            **attributes,
        )
        x = x.transpose(0, 2, 3, 1)
        dtype = image.dtype if node.type == "ResizeNearestNeighbor" else x.dtype
        return x if x.dtype == dtype else x.cast(dtype)

    replace_node(graph, node, build)


def bicubic(graph: Any, node: Any, name: str, args: Any) -> None:
    """Keys's cubic kernel with a = -0.5, sampled at 1024 steps, over the pixels in the image.

    Source: tensorflow/core/kernels/image/resize_bicubic_op.cc
    """
    if not attribute(node, "half_pixel_centers"):  # from before TensorFlow 2
        TensorFlowResize.version_11(graph, node)
        return

    def weights(old: Value, new: Value) -> Value:
        old, new = old.cast(np.float32), new.cast(np.float32)
        centres = (_column(new) + 0.5) * (old / new) - 0.5
        centres = (centres * 1024).op("Round") / 1024
        return _normalised(_keys_cubic(abs(_row(old) - centres)))

    replace_node(graph, node, lambda image, size: _separable(image, size, [weights, weights]))


def area(graph: Any, node: Any, name: str, args: Any) -> None:
    """The average over the area of each new pixel: old pixels are weighted by their overlap.

    Source: tensorflow/core/kernels/image/resize_area_op.cc
    """
    if attribute(node, "align_corners"):
        raise UnsupportedUseError("area interpolation with align_corners is not supported")

    def weights(old: Value, new: Value) -> Value:
        old, new = old.cast(np.float32), new.cast(np.float32)
        scale = old / new
        begin, end = _column(new) * scale, (_column(new) + 1) * scale
        pixel = _row(old)
        overlap = (pixel + 1).op("Min", end) - pixel.op("Max", begin)
        return overlap.op("Max", 0) / scale

    replace_node(graph, node, lambda image, size: _separable(image, size, [weights, weights]))


def scale_and_translate(graph: Any, node: Any, name: str, args: Any) -> None:
    """Kernels of any width: `lanczos3`, `lanczos5`, and all methods with `antialias`.

    The centre of the new pixel x is at (x + 0.5 - translation) / scale of the old image. The kernel
    around it gives the weights of old pixels, which are normalised to a sum of 1; if the centre is
    outside of the image, they are 0. If the image shrinks, `antialias` widens the kernel by the
    factor 1 / scale.

    Source: tensorflow/core/kernels/image/scale_and_translate_op.cc
    """
    kernel = KERNELS[attribute(node, "kernel_type")]
    antialias = bool(attribute(node, "antialias"))

    def build(image: Value, size: Value, scale: Value, translation: Value) -> Value:
        def weights_of(axis: int) -> Weights:
            inverse = 1 / scale.take(axis, 0)
            shift = -inverse * translation.take(axis, 0)
            width = inverse.op("Max", 1) if antialias else inverse.like(1)

            def weights(old: Value, new: Value) -> Value:
                old, new = old.cast(np.float32), new.cast(np.float32)
                centres = (_column(new) + 0.5) * inverse + shift
                normalised = _normalised(kernel(abs((_row(old) + 0.5 - centres) * (1 / width))))
                inside = (centres >= 0) & (centres <= old)
                return inside.where(normalised, 0)

            return weights

        return _separable(image, size, [weights_of(0), weights_of(1)])

    replace_node(graph, node, build)


Weights = Callable[[Value, Value], Value]
"""A function of the old and the new size of an axis, scalars of int64, that returns the weights,
shape `(new, old)`."""


def _separable(image: Value, size: Value, weights: list[Weights]) -> Value:
    """Resize both axes of images `(n, h, w, c)`. Like TensorFlow's, the result is float32."""
    constant = size.constant
    new = [
        size.const(constant[i], np.int64)
        if constant is not None
        else size.cast(np.int64).take(i, 0)
        for i in (0, 1)
    ]
    rows, columns = (of_axis(image.size(1 + i), new[i]) for i, of_axis in enumerate(weights))
    x = image.transpose(0, 3, 1, 2)
    x = x if x.dtype == np.float32 else x.cast(np.float32)
    x = rows.op("MatMul", x).op("MatMul", columns.transpose(1, 0))
    return x.transpose(0, 2, 3, 1)


def _column(size: Value) -> Value:
    """0, 1, ..., size - 1 in float32, shape `(size, 1)`; `size` is a scalar of float32."""
    return _row(size).unsqueeze(1)


def _row(size: Value) -> Value:
    """0, 1, ..., size - 1 in float32, shape `(size,)`; `size` is a scalar of float32."""
    return arange(size.cast(np.int64)).cast(np.float32)


def _normalised(weights: Value) -> Value:
    """Weights divided by the sum of their row; rows of zeros are not changed."""
    total = weights.reduce("Sum", 1, keep=True)
    is_zero = abs(total) < 1000 * float(np.finfo(np.float32).tiny)
    return is_zero.where(0, weights / is_zero.where(1, total))


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
    """A Gaussian of radius 1.5 and standard deviation 0.5."""
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
"""The weight as a function of the distance, by TensorFlow's `kernel_type`."""


def crop_and_resize(graph: Any, node: Any, name: str, args: Any) -> None:
    """Boxes of images, each resized to one size, like `tf.image.crop_and_resize`.

    onnxruntime's Resize leaves an image as it is, whatever the box, where the sizes are equal. Here
    rows and columns are weighted sums: a pixel at `p` between pixels has the weights 1 - |p - i|.
    """
    nearest = attribute(node, "method") == "nearest"
    outside = attribute(node, "extrapolation_value")

    def build(image: Value, boxes: Value, index: Value, crop_size: Value) -> Value:
        if crop_size.constant is None:
            raise UnsupportedUseError("the size of the crops is not constant")
        height, width = (int(size) for size in crop_size.constant)
        top, left, bottom, right = (boxes.take(i, 1) for i in range(4))
        rows, rows_inside = _along(top, bottom, image.size(1), height, nearest)
        columns, columns_inside = _along(left, right, image.size(2), width, nearest)
        chosen = image.cast(np.float32).op("Gather", index, axis=0)
        part = rows.op("Einsum", chosen, equation="nih,nhwc->niwc")
        crop = columns.op("Einsum", part, equation="njw,niwc->nijc")
        inside = rows_inside.unsqueeze(2, 3) & columns_inside.unsqueeze(1, 3)
        return inside.where(crop, outside)

    replace_node(graph, node, build)


def _along(low: Value, high: Value, size: Value, count: int, nearest: bool) -> tuple[Value, Value]:
    """The weights of the pixels along one axis, `(n, count, size)`, and which positions are inside
    the image, `(n, count)`.

    Args:
        low: where each box begins, as a share of the axis, `(n,)`.
        high: where it ends.
        size: of the axis.
        count: how many positions.
        nearest: take the nearest pixel alone.
    """
    last = size.cast(np.float32) - 1
    low, high = low.unsqueeze(1), high.unsqueeze(1)
    if count > 1:
        step = (high - low) * last / (count - 1)
        places = low * last + step * low.const(np.arange(count), np.float32)
    else:
        places = (low + high) * 0.5 * last
    inside = (places >= 0) & (places <= last)
    pixels = arange(size).cast(np.float32)
    if nearest:  # halves are rounded up
        return (places + 0.5).op("Floor").unsqueeze(2).equals(pixels).cast(np.float32), inside
    return (1 - abs(places.unsqueeze(2) - pixels)).op("Max", 0), inside
