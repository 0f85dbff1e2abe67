"""Cumulative products, segments, and decoding of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto
from tf2onnx.onnx_opset.math import CumProd
from tf2onnx.onnx_opset.tensor import ScatterND

from .expressions import (
    Handler,
    UnsupportedUseError,
    Value,
    arange,
    attribute,
    concat,
    replace_node,
    stack,
)


def cumprod(graph: Any, node: Any, name: str, args: Any) -> None:
    """The cumulative product of tf2onnx, which does not support negative axes."""
    axis = node.inputs[1]
    if axis.is_const():
        value = int(axis.get_tensor_value()) % len(graph.get_shape(node.input[0]))
        nonnegative = Value(graph, node.input[0]).const(value, np.int32)
        graph.replace_input(node, node.input[1], nonnegative.name, 1)
    CumProd.version_10(graph, node)


def scatter(graph: Any, node: Any, name: str, args: Any) -> None:
    """Values at indices, added up where an index occurs twice, which tf2onnx's form does not do.

    Before opset 16 ONNX cannot add; then an index must not occur twice.
    """
    node.type = "ScatterND"
    dtype = graph.get_dtype(node.input[1])
    ScatterND.version_11(graph, node)
    if graph.opset >= 16 and dtype != TensorProto.BOOL:
        node.set_attr("reduction", "add")


def segments(largest: bool) -> Handler:
    """A handler for the largest or smallest element of each segment; elements may be in any order.

    The result for a segment without elements is the lowest or highest number of the dtype, as in
    TensorFlow.
    """

    def build(data: Value, segment: Value, count: Value) -> Value:
        limits: Any = (np.finfo if data.dtype.kind == "f" else np.iinfo)(data.dtype)
        initial = data.const(limits.min if largest else limits.max, data.dtype)
        inner_shape = data.shape_tensor().slice(0, segment.rank, data.rank)
        shape = concat([count.cast(np.int64).reshape(1), inner_shape], 0)
        return initial.op("Expand", shape).op(
            "ScatterND",
            segment.cast(np.int64).unsqueeze(-1),
            data,
            reduction="max" if largest else "min",
        )

    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        if graph.opset < 18:
            raise UnsupportedUseError(
                "the largest or smallest element of a segment needs opset 18 or newer, and this "
                f"export has {graph.opset}"
            )
        replace_node(graph, node, build)

    return handler


def ctc_greedy_decoder(graph: Any, node: Any, name: str, args: Any) -> None:
    """The most likely label of each step, without blanks and, with `merge_repeated`, repetitions.

    The outputs are a sparse tensor, as indices (sample, position), labels and shape; and, for each
    sample, the negated sum of the scores of its steps.
    """
    merge, blank = attribute(node, "merge_repeated"), attribute(node, "blank_index")

    def build(scores: Value, lengths: Value) -> Sequence[Value]:
        steps = arange(scores.size(0))
        valid = steps.unsqueeze(1) < lengths.cast(np.int64)
        best = scores.reduce("Max", 2)
        total = -valid.where(best, 0).reduce("Sum", 0).unsqueeze(1)
        labels = scores.op("ArgMax", axis=2, keepdims=0).transpose(1, 0)
        blank_label = labels.const(blank, np.int64) if blank >= 0 else scores.size(2) + blank
        keep = valid.transpose(1, 0) & ~labels.equals(blank_label)
        if merge:
            previous = labels.op("Pad", *labels.int64s([0, 1, 0, -1], -1))
            keep = keep & ~labels.equals(previous)
        kept = keep.cast(np.int64)
        position = kept.op("CumSum", *kept.int64s(1), exclusive=1)
        steps_kept = keep.op("NonZero").transpose(1, 0)
        indices = stack([steps_kept.take(0, 1), position.op("GatherND", steps_kept)], 1)
        shape = stack([scores.size(1), kept.reduce("Sum", 1).reduce("Max", 0)], 0)
        return [indices, labels.op("GatherND", steps_kept), shape, total]

    replace_node(graph, node, build)
