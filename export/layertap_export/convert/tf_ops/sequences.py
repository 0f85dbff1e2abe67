"""Running products, groups and labels along a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tf2onnx.onnx_opset.math import CumProd

from .expressions import Handler, NoWayError, Value, attribute, counted, joined, stacked, take_over


def cumprod(graph: Any, node: Any, name: str, args: Any) -> None:
    """As tf2onnx does it, which wants the axis counted from the first one."""
    axis = node.inputs[1]
    if axis.is_const():
        value = int(axis.get_tensor_value()) % len(graph.get_shape(node.input[0]))
        positive = Value(graph, node.input[0]).new(value, np.int32)
        graph.replace_input(node, node.input[1], positive.name, 1)
    CumProd.version_10(graph, node)


def segments(largest: bool) -> Handler:
    """The largest or smallest element of each segment, whatever the order of the elements.

    For a segment without elements TensorFlow gives the lowest or highest number of the dtype.
    """

    def build(data: Value, segment: Value, count: Value) -> Value:
        limits: Any = (np.finfo if data.dtype.kind == "f" else np.iinfo)(data.dtype)
        start = data.new(limits.min if largest else limits.max, data.dtype)
        inner = data.sizes_of_axes().cut(0, segment.rank, data.rank)
        shape = joined([count.cast(np.int64).reshape(1), inner], 0)
        return start.op("Expand", shape).op(
            "ScatterND",
            segment.cast(np.int64).unsqueeze(-1),
            data,
            reduction="max" if largest else "min",
        )

    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        if graph.opset < 18:
            raise NoWayError("ONNX can take the largest of a segment from opset 18 on")
        take_over(graph, node, build)

    return handler


def ctc_greedy_decoder(graph: Any, node: Any, name: str, args: Any) -> None:
    """The likeliest label of each step, without blanks and, if so asked, without repetitions.

    What comes out is sparse: places (sample, position), labels, shape; and, per sample, the sum of
    its steps' scores, negated.
    """
    merge, blank = attribute(node, "merge_repeated"), attribute(node, "blank_index")

    def build(scores: Value, lengths: Value) -> Sequence[Value]:
        steps = counted(scores.size(0))
        valid = steps.unsqueeze(1) < lengths.cast(np.int64)
        best = scores.reduce("Max", 2)
        total = -valid.where(best, 0).reduce("Sum", 0).unsqueeze(1)
        labels = scores.op("ArgMax", axis=2, keepdims=0).transpose(1, 0)
        empty = labels.new(blank, np.int64) if blank >= 0 else scores.size(2) + blank
        keep = valid.transpose(1, 0) & ~labels.equals(empty)
        if merge:
            before = labels.op("Pad", *labels.sizes([0, 1, 0, -1], -1))
            keep = keep & ~labels.equals(before)
        kept = keep.cast(np.int64)
        position = kept.op("CumSum", *kept.sizes(1), exclusive=1)
        places = keep.op("NonZero").transpose(1, 0)
        found = stacked([places.take(0, 1), position.op("GatherND", places)], 1)
        shape = stacked([scores.size(1), kept.reduce("Sum", 1).reduce("Max", 0)], 0)
        return [found, labels.op("GatherND", places), shape, total]

    take_over(graph, node, build)
