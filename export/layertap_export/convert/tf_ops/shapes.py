"""Shapes that are computed in the graph, updates of slices, and reversed axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .expressions import (
    UnsupportedUseError,
    Value,
    attribute,
    concat,
    numpy_dtype,
    replace_node,
)


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


def reverse(graph: Any, node: Any, name: str, args: Any) -> None:
    """A tensor with the elements along some axes in reverse order.

    tf2onnx 1.17 takes several transpositions and a ReverseSequence for each axis. An axis that is
    reversed twice in a row, as by `Bidirectional`, is not reversed at all.
    """

    def build(x: Value, axes: Value) -> Value:
        if axes.constant is None:
            raise UnsupportedUseError("the axes to reverse are not constant")
        wanted = sorted(int(axis) % x.rank for axis in axes.constant.ravel())
        if not wanted:
            return x
        before = _source(graph, node.input[0])
        if before is not None and before.type == "Slice" and _reversed_axes(before) == wanted:
            return Value(graph, before.input[0])
        ones = [1] * len(wanted)
        start, end, steps = -np.array(ones), np.full(len(wanted), LOWEST), -np.array(ones)
        return x.op("Slice", *x.int64s(start, end, wanted, steps))

    replace_node(graph, node, build)


LOWEST = np.iinfo(np.int64).min
"""The end of a Slice that goes backwards to the first element, which has no number before it."""


def _source(graph: Any, name: str) -> Any:
    """The node that computes a tensor, without those that pass it on."""
    node = graph.get_node_by_output(name)
    while node is not None and node.type in ("Identity", "EnsureShape"):
        node = node.inputs[0]
    return node


def _reversed_axes(node: Any) -> list[int]:
    """The axes that a Slice only reverses; none if it does anything else."""
    parameters = [item.get_tensor_value() if item.is_const() else [] for item in node.inputs[1:]]
    if len(parameters) != 4 or not all(parameters):
        return []
    start, end, axes, steps = parameters
    only = all(x == -1 for x in [*start, *steps]) and all(x == LOWEST for x in end)
    return list(axes) if only else []
