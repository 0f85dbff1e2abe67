"""From a traced function to a TensorFlow graph without variables.

TensorFlow's own freezing writes every variable into the graph as a constant. A graph of more than
2 GB cannot be, and each step of the conversion would copy all weights: VGG16 took 12 GB. So a
large variable that goes straight into a product or a convolution becomes a placeholder, which is
filled with the variable's value in the finished ONNX graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import (
    _FunctionConverterDataInEager,
    _replace_variables_by_constants,
)
from tf2onnx import tf_loader

from layertap_export.errors import ExportError
from layertap_export.graph.weights import STUB_BYTES
from layertap_export.keras_model.recurrence import OPERATION
from layertap_export.keras_model.variables import shared

from .dtypes import as_in_file, nodes_of, widen
from .tf_ops.lookup import Table

READERS: Mapping[str, tuple[int, ...]] = {
    "BatchMatMulV2": (0, 1),
    "BatchMatMulV3": (0, 1),
    "Conv2D": (1,),
    "Conv2DBackpropInput": (1,),
    "Conv3D": (1,),
    "Conv3DBackpropInputV2": (1,),
    "DepthwiseConv2dNative": (1,),
    "Einsum": (0, 1),
    "GatherV2": (0,),
    "MatMul": (0, 1),
    "ResourceGather": (0,),
    OPERATION: (1, 2),
}
"""Operations that tf2onnx converts in the same way whether it knows the values of these inputs or
not."""

GRAPH_DEF_BYTES = 2**31 - 2**24
"""Largest total size of the variables in the GraphDef: protobuf's limit, less room for the rest."""

PASSING = frozenset({"Cast", "ExpandDims", "Identity", "ReadVariableOp", "Reshape", "Transpose"})
"""Operations through which a weight may go on its way there; `initializers` computes them."""


@dataclass(frozen=True, eq=False)
class FrozenGraph:
    """A graph without variables."""

    graph_def: Any
    inputs: list[str]
    """Names of the tensors that take the function's inputs."""
    outputs: list[str]
    """Names of the tensors that it returns."""
    weights: dict[str, NDArray[Any]]
    """The values of placeholders, by name of the tensor; they must not be written to."""


def freeze(function: Any) -> FrozenGraph:
    """Freeze a concrete function.

    Keras's `Normalization` and others capture eager constants, which TensorFlow's freezing leaves
    as placeholders without a value: they become constants here.

    Raises:
        ExportError: more than 2 GB of variables are used in other ways.
    """
    graph = function.graph
    captured = {inner.name.split(":")[0] for _, inner in graph.captures}
    inputs = [x.name for x in function.inputs if x.name.split(":")[0] not in captured]
    outputs = [tensor.name for tensor in function.outputs]
    graph.clear_collection(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)  # it warns of them
    data = _Variables(function, lower_control_flow=False, aggressive_inlining=True)
    graph_def, _ = _replace_variables_by_constants(data)
    _keep_shapes(function, graph_def)
    weights = {}
    for node in graph_def.node:
        if node.name in data.kept:
            value = weights[f"{node.name}:0"] = as_in_file(data.kept[node.name])
            node.op = "Placeholder"
            del node.attr["value"]
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    graph_def = tf_loader.fix_freezing_errors_part2(graph_def)
    widen(graph_def)
    with tf.Graph().as_default():  # grappler wants no eager execution around it
        ends = [*inputs, *weights]
        return FrozenGraph(
            tf_loader.tf_optimize(ends, outputs, graph_def), inputs, outputs, weights
        )


def lookup_tables(function: Any, graph_def: Any) -> dict[str, Table]:
    """The lookup tables that a function uses, by the name of the node that stands for each."""
    handles = {inner.name.partition(":")[0]: outer for outer, inner in function.graph.captures}
    tables: dict[str, Table] = {}
    for node in nodes_of(graph_def):
        if node.op == "LookupTableFindV2" and node.input[0] in handles:
            keys, values = tf.raw_ops.LookupTableExportV2(
                table_handle=handles[node.input[0]],
                Tkeys=node.attr["Tin"].type,
                Tvalues=node.attr["Tout"].type,
            )
            tables[node.input[0]] = (keys.numpy(), values.numpy())
    return tables


def _keep_shapes(function: Any, graph_def: Any) -> None:
    """State the shapes of what lookup tables give, which TensorFlow can't infer from the graph."""
    for node in [node for node in graph_def.node if node.op == "LookupTableFindV2"]:
        shape = function.graph.get_tensor_by_name(f"{node.name}:0").shape
        found = graph_def.node.add()
        found.CopyFrom(node)
        found.name = f"{node.name}/found"
        dtype = node.attr["Tout"].type
        node.op, node.input[:] = "EnsureShape", [found.name]
        node.attr.clear()
        node.attr["T"].type = dtype
        node.attr["shape"].shape.CopyFrom(shape.as_proto())


class _Variables(_FunctionConverterDataInEager):  # type: ignore[misc]
    """The function's graph, inlined, and the values of its variables.

    A variable that is kept out of the graph stands there as a constant of one element, so that
    TensorFlow rewrites what reads it; `freeze` makes the constant a placeholder.
    """

    def __init__(self, function: Any, **options: Any) -> None:
        self.kept: dict[str, NDArray[Any]] = {}
        """Values by name of the node."""
        self._inside = 0
        self._names = {
            id(outer): inner.name.split(":")[0] for outer, inner in function.graph.captures
        }
        super().__init__(function, **options)

    def _build_tensor_data(self) -> None:
        self._readers: dict[str, list[tuple[Any, int]]] = {}
        self._nodes = {node.name: node for node in self.graph_def.node}
        for node in self.graph_def.node:
            for position, name in enumerate(_read_by(node)):
                self._readers.setdefault(name, []).append((node, position))
        super()._build_tensor_data()

    def _eval(self, tensor: Any) -> NDArray[Any]:
        """The value of a variable, or of a constant that was captured."""
        if not isinstance(tensor, tf.Variable):
            return np.asarray(tensor.numpy())
        value = shared(tensor)
        name = self._names[id(tensor.handle)]
        if value.nbytes < STUB_BYTES or not self._goes_straight(name):
            self._inside += value.nbytes
            if self._inside > GRAPH_DEF_BYTES:
                raise ExportError(
                    f"more than {GRAPH_DEF_BYTES / 1e9:.1f} GB of the weights are used in loops or "
                    f"arithmetic, {tensor.name!r} among them. Above this size, weights can only be "
                    "exported if convolutions and matrix products use them."
                )
            return value
        self.kept[name] = value
        return np.zeros((), value.dtype)

    def _goes_straight(self, name: str) -> bool:
        """Whether all that reads a node leads it, as it is, to one of READERS."""
        for node, position in self._readers.get(name, []):
            if position in READERS.get(node.op, ()):
                continue
            others = _read_by(node)[1:]
            known = position == 0 and all(self._nodes[other].op == "Const" for other in others)
            if node.op not in PASSING or not known or not self._goes_straight(node.name):
                return False
        return True


def _read_by(node: Any) -> list[str]:
    """Names of the nodes that a node reads from."""
    return [name.split(":")[0] for name in node.input if not name.startswith("^")]
