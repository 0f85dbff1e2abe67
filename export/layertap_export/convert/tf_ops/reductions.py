"""Sums and products over axes, of whole numbers too.

A sum that is too large for its dtype begins again at the least number in TensorFlow, as in hashes.
onnxruntime gives the largest number instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tf2onnx.onnx_opset.reduction import ReduceOpBase

from .expressions import Handler, Value, attribute, concat, replace_node


def reduction(kind: str) -> Handler:
    """A handler for `Sum` or `Prod`: for whole numbers with operators that begin again."""

    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        x, axes = (Value(graph, tensor) for tensor in node.input)
        shape, constant = x.shape, axes.constant
        if x.dtype.kind not in "iu" or shape is None or constant is None:
            _as_tf2onnx(graph, node, kind)
            return
        over = sorted({int(axis) % len(shape) for axis in constant.ravel()}, reverse=True)
        keep = bool(attribute(node, "keep_dims"))

        def build(x: Value, _: Value) -> Value:
            dtype = x.dtype
            if not over:
                return x.op("Identity")
            if kind == "Sum":
                return _sum(x, over, keep).cast(dtype)
            for axis in over:
                size = shape[axis]
                if size is None or size < 1:
                    # Right as long as 64 bits hold it.
                    x = x.cast(np.int64).reduce("Prod", axis, keep=True).cast(dtype)
                else:
                    x = _product(x, axis, size)
            return x if keep else x.squeeze(*over)

        replace_node(graph, node, build)

    return handler


def _sum(x: Value, axes: Sequence[int], keep: bool) -> Value:
    """The sum in 64 bits. onnxruntime adds up 64 bits in float64 on some processors, which is exact
    for the upper and the lower 32 bits on their own, of up to two million elements."""
    if x.dtype.itemsize < 8:
        return x.cast(np.int64).reduce("Sum", *axes, keep=keep)
    x = x.cast(np.int64)
    low = x.op("Mod", 1 << 32)
    high = (x - low).op("Div", 1 << 32)
    low, high = (part.reduce("Sum", *axes, keep=keep) for part in (low, high))
    return high * (1 << 32) + low


def _product(x: Value, axis: int, size: int) -> Value:
    """The product along an axis, which stays with size 1: halves are multiplied."""
    while size > 1:
        half = size // 2
        y = x.slice(axis, 0, half).op("Mul", x.slice(axis, half, 2 * half))
        if size % 2:
            y = concat([y, x.slice(axis, size - 1, size)], axis)
        x, size = y, half + size % 2
    return x


def _as_tf2onnx(graph: Any, node: Any, kind: str) -> None:
    node.type = f"Reduce{kind}"
    convert = ReduceOpBase.version_18 if graph.opset >= 18 else ReduceOpBase.version_13
    convert(graph, node)
