"""Shapes that are worked out in the graph, and parts that are put into a whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from .expressions import Value, attribute, joined, numpy_dtype, take_over


def broadcast_args(one: Value, other: Value) -> Value:
    """The shape that two shapes broadcast to: axes are matched from the last one on."""
    length = one.size(0).op("Max", other.size(0))

    def padded(shape: Value) -> Value:
        missing = (length - shape.size(0)).reshape(1)
        return joined([shape.new([1], shape.dtype).op("Expand", missing), shape], 0)

    left, right = padded(one), padded(other)
    return left.equals(1).where(right, left)


def dynamic_update_slice(whole: Value, part: Value, start: Value) -> Value:
    """`whole` with `part` in it from `start` on, which moves inward if the part would stick out.

    Source: https://openxla.org/xla/operation_semantics#dynamicupdateslice
    """
    room = whole.sizes_of_axes() - part.sizes_of_axes()
    begin = start.cast(np.int64).op("Max", 0).op("Min", room)
    pads = joined([begin, room - begin], 0)
    values = part.op("Pad", pads)
    inside = part.new(True, np.bool_).op("Expand", part.sizes_of_axes())
    marks = inside.cast(np.int32).op("Pad", pads).cast(np.bool_)
    return marks.where(values, whole)


def empty(graph: Any, node: Any, name: str, args: Any) -> None:
    """A tensor to be filled later, of zeros."""
    dtype = numpy_dtype(attribute(node, "dtype"))

    def build(shape: Value) -> Value:
        return shape.new(0, dtype).op("Expand", shape.cast(np.int64))

    take_over(graph, node, build)
