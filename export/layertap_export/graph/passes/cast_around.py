"""Casts around nodes with a dtype for which onnxruntime has no CPU kernel.

The inputs are cast to another dtype, and the outputs back:

    Conv(x: float64)      becomes      Cast(float32) -> Conv -> Cast(float64)

float16 seldom needs that: onnxruntime inserts such casts itself where ONNX allows the dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from layertap_export.graph.graph import bodies, opset_of
from layertap_export.graph.operators import NARROW, OPERATORS, WIDE_UNSIGNED, facts
from layertap_export.graph.shapes.shapes import Shapes
from layertap_export.graph.weights import Initializers

from .contract import graph_pass, in_order, outputs_exist

SUBSTITUTES: Mapping[str, Sequence[str]] = {
    "bool": ("int32", "uint8", "float32"),
    **dict.fromkeys(NARROW.split(), ("int32", "int64", "float32", "uint32")),
    "int32": ("int64", "float64", "float32"),
    **dict.fromkeys([*WIDE_UNSIGNED.split(), "int64"], ("int64", "float64", "float32")),
    "float16": ("float32",),
    "float64": ("float32",),
}
"""The dtypes to compute in instead, the most exact first."""


def substitute(op_type: str, dtype: str, opset: int) -> str | None:
    """The dtype to compute in instead.

    `None` if there is a kernel for `dtype`, or none for any substitute.
    """
    schema = onnx.defs.get_schema(op_type, opset, "")
    row = OPERATORS[op_type]
    allowed = set(schema.inputs[row.typed_by].types)
    missing = row.no_kernel.split()

    def has_kernel(name: str) -> bool:
        return name not in missing and f"tensor({_ONNX_NAMES.get(name, name)})" in allowed

    if dtype not in SUBSTITUTES or has_kernel(dtype):
        return None
    return next((other for other in SUBSTITUTES[dtype] if has_kernel(other)), None)


_ONNX_NAMES = {"float64": "double", "float32": "float"}


@graph_pass(requires=[in_order, outputs_exist], ensures=[in_order, outputs_exist])
def cast_around(model: onnx.ModelProto, initializers: Initializers) -> frozenset[str]:
    """Put casts around every node that has no kernel for its dtype, in place.

    Args:
        model: the finished graph.
        initializers: holds the values of its large weights; those that are cast are added to it.

    Returns:
        The operators that compute in float32 because they have no float64 kernel.
    """
    return _Casts(opset_of(model), Shapes(model), initializers).run(model.graph)


class _Casts:
    """One pass over one model."""

    def __init__(self, opset: int, shapes: Shapes, initializers: Initializers) -> None:
        self.opset = opset
        self.initializers = initializers
        self.shapes = shapes
        self.narrowed: set[str] = set()
        self.made: dict[tuple[str, str], str] = {}
        self.casts = 0

    def run(self, graph: onnx.GraphProto) -> frozenset[str]:
        weights = {item.name: item for item in graph.initializer}
        nodes: list[onnx.NodeProto] = []
        before, self.made = self.made, {}
        for node in graph.node:
            for body in bodies(node):
                self.run(body)
            nodes += self.around(node, graph, weights)
        self.made = before
        del graph.node[:]
        graph.node.extend(nodes)
        return frozenset(self.narrowed)

    def around(
        self,
        node: onnx.NodeProto,
        graph: onnx.GraphProto,
        weights: Mapping[str, onnx.TensorProto],
    ) -> list[onnx.NodeProto]:
        row = facts(node)
        if row is None or len(node.input) <= row.typed_by:
            return [node]
        dtype = _name(self.shapes.dtype(node.input[row.typed_by]))
        other = substitute(node.op_type, dtype, self.opset)
        if other is None:
            return [node]
        if dtype == "float64":
            self.narrowed.add(node.op_type)
        schema = onnx.defs.get_schema(node.op_type, self.opset, "")
        typed = schema.inputs[row.typed_by].type_str
        target, nodes = helper.np_dtype_to_tensor_dtype(np.dtype(other)), []
        for index, name in enumerate(node.input):
            formal = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
            if not name or formal != typed:
                continue
            key = (name, other)
            if key not in self.made:
                self.made[key] = f"{name}/as_{other}"
                if name in weights:
                    value = self.initializers.value(weights[name]).astype(other)
                    graph.initializer.append(self.initializers.make(value, self.made[key]))
                else:
                    nodes.append(self.cast(name, self.made[key], target))
            node.input[index] = self.made[key]
        nodes.append(node)
        for index, name in enumerate(node.output):
            formal = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
            if name and formal == typed:
                node.output[index] = f"{name}/in_{other}"
                source = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
                nodes.append(self.cast(node.output[index], name, source))
                if dtype == "float64":  # a reader that needs float32 takes it from here
                    self.made[name, other] = node.output[index]
        return nodes

    def cast(self, source: str, target: str, element_type: int) -> onnx.NodeProto:
        self.casts += 1
        name = f"cast/{self.casts}"
        return helper.make_node("Cast", [source], [target], name=name, to=element_type)


def _name(element_type: int) -> str:
    """The numpy name of an ONNX element type; empty if numpy has no such dtype."""
    if element_type in (TensorProto.UNDEFINED, TensorProto.STRING, TensorProto.BFLOAT16):
        return ""
    return str(helper.tensor_dtype_to_np_dtype(element_type).name)
