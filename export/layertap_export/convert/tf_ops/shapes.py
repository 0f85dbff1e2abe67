"""Shapes that are computed in the graph, and updates of slices."""

from __future__ import annotations

from typing import Any

import numpy as np

from .expressions import Value, attribute, concat, numpy_dtype, replace_node


def broadcast_args(x: Value, y: Value) -> Value:
    """The shape that two shapes broadcast to: axes are matched from the last one on."""
    length = x.size(0).op("Max", y.size(0))

    def padded(shape: Value) -> Value:
        missing = (length - shape.size(0)).reshape(1)
        return concat([shape.const([1], shape.dtype).op("Expand", missing), shape], 0)

    padded_x, padded_y = padded(x), padded(y)
    return padded_x.equals(1).where(padded_y, padded_x)


def dynamic_update_slice(operand: Value, update: Value, start: Value) -> Value:
    """`operand` with `update` in it at `start`, which is clipped so that the update fits.

    Source: https://openxla.org/xla/operation_semantics#dynamicupdateslice
    """
    last_start = operand.shape_tensor() - update.shape_tensor()
    begin = start.cast(np.int64).op("Max", 0).op("Min", last_start)
    pads = concat([begin, last_start - begin], 0)
    values = update.op("Pad", pads)
    ones = update.const(True, np.bool_).op("Expand", update.shape_tensor())
    mask = ones.cast(np.int32).op("Pad", pads).cast(np.bool_)
    return mask.where(values, operand)


def empty(graph: Any, node: Any, name: str, args: Any) -> None:
    """A tensor of zeros in place of one with arbitrary contents."""
    dtype = numpy_dtype(attribute(node, "dtype"))

    def build(shape: Value) -> Value:
        return shape.const(0, dtype).op("Expand", shape.cast(np.int64))

    replace_node(graph, node, build)
