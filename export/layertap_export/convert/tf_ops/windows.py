"""Windows with padding `same` whose size is computed in the graph: poolings and patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tf2onnx.onnx_opset.nn import PoolOp

from .expressions import Handler, UnsupportedUseError, Value, attribute, concat, replace_node


def pooling(kind: str) -> Handler:
    """The handler of a pooling, `MaxPool` or `AveragePool` in ONNX.

    With strides larger than the windows, tf2onnx pads by negative sizes.
    """

    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        _pooling(kind, graph, node)

    return handler


def _pooling(kind: str, graph: Any, node: Any) -> None:
    channels_last = attribute(node, "data_format").endswith("C")
    sizes, strides = (spatial(attribute(node, key), channels_last) for key in ("ksize", "strides"))
    same = attribute(node, "padding") == "SAME"
    if not (same and skips(graph, node, channels_last, sizes, strides)):
        operation, node.type = node.type, kind
        PoolOp.version_11(graph, node, tf_op=operation)
        return

    def build(x: Value) -> Value:
        rank = x.rank
        x = x.transpose(0, rank - 1, *range(1, rank - 1)) if channels_last else x
        pads = same_pads(x, sizes, strides)
        options = {"kernel_shape": sizes, "strides": strides}
        if kind == "MaxPool":
            lowest = np.finfo(x.dtype).min if x.dtype.kind == "f" else np.iinfo(x.dtype).min
            y = x.op("Pad", pads, x.const(lowest, x.dtype)).op(kind, **options)
        else:  # the mean of the elements that are not padding
            ones = x.const(1, x.dtype).op("Expand", x.shape_tensor())
            y = x.op("Pad", pads).op(kind, **options)
            y = y / ones.op("Pad", pads).op(kind, **options)
        return y.transpose(0, *range(2, rank), 1) if channels_last else y

    replace_node(graph, node, build)


def patches(graph: Any, node: Any, name: str, args: Any) -> None:
    """Patches of images as the last axis, `(n, rows, columns, height * width * channels)`."""
    (height, width), strides, rates = (
        spatial(attribute(node, key), True) for key in ("ksizes", "strides", "rates")
    )
    same = attribute(node, "padding") == "SAME"

    def build(x: Value) -> Value:
        channels = x.shape[-1] if x.shape else None
        if channels is None:
            raise UnsupportedUseError("the number of channels is not known")
        dtype = x.dtype
        images = x.transpose(0, 3, 1, 2)
        images = images if dtype.kind == "f" else images.cast(np.float32)
        if same:
            extents = [(n - 1) * rate + 1 for n, rate in zip((height, width), rates, strict=True)]
            images = images.op("Pad", same_pads(images, extents, strides))
        count = height * width
        kernel = np.tile(np.eye(count).reshape(count, 1, height, width), (channels, 1, 1, 1))
        found = images.op(
            "Conv",
            images.const(kernel, images.dtype),
            group=channels,
            strides=strides,
            dilations=rates,
        )
        found = found.op("Reshape", *found.int64s([0, channels, count, -1]))
        found = found.transpose(0, 3, 2, 1)  # (n, rows * columns, count, channels)
        grid = [
            (images.shape_tensor().slice(0, axis, axis + 1) - extent) / stride + 1
            for axis, extent, stride in zip(
                (2, 3),
                [(n - 1) * rate + 1 for n, rate in zip((height, width), rates, strict=True)],
                strides,
                strict=True,
            )
        ]
        samples = images.shape_tensor().slice(0, 0, 1)
        depth = samples.like(np.array([count * channels]))
        return found.op("Reshape", concat([samples, *grid, depth], 0)).cast(dtype)

    replace_node(graph, node, build)


def same_pads(x: Value, extents: Sequence[int], strides: Sequence[int]) -> Value:
    """The pads of `x`, `(n, c, ...)`, for ONNX's Pad, with which windows without padding give
    ceil(size / stride) results; half of the padding, rounded down, is at the start.

    Source: https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    """
    size = x.shape_tensor().slice(0, 2, x.rank)
    stride = size.like(np.array(strides))
    results = (size + stride - 1) / stride
    total = ((results - 1) * stride + size.like(np.array(extents)) - size).op("Max", 0)
    before = total / 2
    none = size.like(np.zeros(2, np.int64))
    return concat([none, before, none, total - before], 0)


def skips(
    graph: Any, node: Any, channels_last: bool, extents: Sequence[int], strides: Sequence[int]
) -> bool:
    """Whether a stride is larger than the windows' extent, and the size of the input is free.

    Where an operator computes the padding of these itself, it is negative.
    """
    shape = graph.get_shape(node.input[0])
    free = shape is None or min(spatial(shape, channels_last)) < 0
    return free and any(stride > size for size, stride in zip(extents, strides, strict=True))


def spatial(values: Any, channels_last: bool) -> list[int]:
    """The values for the spatial axes, from one value for each axis."""
    return [int(value) for value in (values[1:-1] if channels_last else values[2:])]
