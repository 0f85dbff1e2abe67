"""Keras's `hard_swish` as the one operator that ONNX has for it, from opset 14 on.

TensorFlow computes x * (relu6(x + 3) * (1/6)) in four steps, each over the whole activation.
onnxruntime computes HardSwish in one step, which makes MobileNetV3 an eighth faster.

    Add(x, 3) -> Clip(0, 6) -> Mul(1/6) -> Mul(x)      becomes      HardSwish(x)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
from onnx import helper, numpy_helper

from layertap_export.graph.graph import makers, opset_of, read_counts

from .contract import graph_pass, in_order


@graph_pass(requires=[in_order], ensures=[in_order])
def join_hard_swish(model: onnx.ModelProto, keep: Iterable[str]) -> None:
    """Rewrite `model` in place. Nodes that nothing reads any more stay, to be pruned.

    Args:
        keep: tensors that must stay.
    """
    if opset_of(model) < 14:
        return
    chain = _Chain(model.graph, keep)
    for node in model.graph.node:
        source = chain.source_of(node)
        if source:
            node.CopyFrom(helper.make_node("HardSwish", [source], node.output, name=node.name))


class _Chain:
    """Recognises the four steps by the last of them."""

    def __init__(self, graph: onnx.GraphProto, keep: Iterable[str]) -> None:
        self.makers = makers(graph.node)
        self.uses = read_counts(graph.node, keep)
        self.numbers = {
            item.name: numpy_helper.to_array(item).reshape(-1)[0]
            for item in graph.initializer
            if math.prod(item.dims) == 1 and item.data_type in _FLOAT_TYPES
        }

    def source_of(self, last: onnx.NodeProto) -> str:
        """The tensor at the start of the chain that ends with `last`; empty if it ends none."""
        if last.op_type != "Mul":
            return ""
        for source, gate in (tuple(last.input), tuple(reversed(last.input))):
            clip = self.before(gate, "Mul", 1 / 6)
            shifted = self.clipped(clip)
            if shifted and self.before(shifted, "Add", 3) == source:
                return str(source)
        return ""

    def before(self, name: str, op_type: str, number: float) -> str:
        """The tensor that was combined with this number to make the tensor `name`.

        Empty if there is none, or if several nodes read `name`.
        """
        node = self.single(name, op_type)
        if node is None:
            return ""
        for data, other in (node.input, reversed(node.input)):
            if self.is_number(other, number):
                return str(data)
        return ""

    def clipped(self, name: str) -> str:
        """The tensor that was clipped to 0 to 6 to make `name`; empty if there is none."""
        node = self.single(name, "Clip")
        if node is None or len(node.input) < 3:
            return ""
        source, *limits = node.input
        return str(source) if all(map(self.is_number, limits, (0, 6))) else ""

    def is_number(self, name: str, number: float) -> bool:
        """Whether the tensor is this number, rounded to its dtype."""
        value = self.numbers.get(name)
        return value is not None and bool(value == value.dtype.type(number))

    def single(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """The node of this type that makes `name`, if one node alone reads `name`."""
        node = self.makers.get(name)
        matches = node is not None and node.op_type == op_type and self.uses[name] == 1
        return node if matches else None


_FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
