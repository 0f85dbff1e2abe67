"""What is known of a graph's tensors before it runs: dtypes, sizes of axes, values.

ONNX's own shape inference does most of it, node by node. It gives up on sizes that are computed
from free sizes; those are worked out here, as expressions (see `sizes`), together with the integers
that a graph computes from shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from layertap_export.graph.constant_folding import constant_of
from layertap_export.graph.graph import bodies, opset_of
from layertap_export.graph.operators import facts
from layertap_export.graph.weights import is_stub

from .integer_values import COMPUTED_ELEMENTS
from .node_facts import Integers, NodeFacts
from .sizes import Dims, Free, Size, fixed


class Shapes:
    """What is known of the tensors of one graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """
        Args:
            model: its nodes are in topological order.
        """
        self.opset = opset_of(model)
        self._imports = list(model.opset_import)
        # Initializers that a file lists among its inputs may be fed, so they are not constant.
        listed = {value.name for value in model.graph.input} if model.ir_version >= 4 else set()
        self._weights = {x.name: x for x in model.graph.initializer if x.name not in listed}
        self._dtypes: dict[str, int] = {}
        self._dims: dict[str, Dims] = {}
        self._values: dict[str, Integers] = {}
        self._free: dict[str, Free] = {}
        graph = model.graph
        for item in self._weights.values():
            self.add_constant(item.name, item)
        for value in graph.input:
            if value.name not in self._weights:
                self._set_type(value.name, value.type)
        firsts = [dims[0] for dims in self._dims.values() if dims]
        self.batch = frozenset(
            name for size in firsts if isinstance(size, Free) for name in size.names
        )
        """Names of the free sizes of the inputs' first axes."""
        self._visit_nodes(graph)

    def dtype(self, name: str) -> int:
        """The `TensorProto.DataType`; 0 where it is unknown."""
        return self._dtypes.get(name, 0)

    def dims(self, name: str) -> Dims | None:
        """Sizes of the axes; `None` if the rank is not known."""
        return self._dims.get(name)

    def liken(self, name: str, other: str) -> None:
        """Record a new tensor that has the dtype and sizes of another."""
        self._dtypes[name] = self.dtype(other)
        if other in self._dims:
            self._dims[name] = self._dims[other]

    def take(self, name: str, other: str, axis: int) -> None:
        """Record a new tensor that is one index of an axis of another."""
        self.liken(name, other)
        if name in self._dims:
            self._dims[name] = tuple(
                1 if at == axis else size for at, size in enumerate(self._dims[name])
            )

    def value(self, name: str) -> NDArray[Any] | None:
        """The value of a constant in the graph, or of integers that follow from known shapes.

        `None` if it is not known. The values of weights outside the graph are not.
        """
        if name in self._weights:
            item = self._weights[name]
            return None if is_stub(item) else numpy_helper.to_array(item)
        values = self._values.get(name)
        if values is None or not all(isinstance(size, int) for size in values.ravel()):
            return None
        return values.astype(np.int64)

    # -- one node

    def _visit_nodes(self, graph: onnx.GraphProto) -> None:
        stated = {value.name: value.type for value in (*graph.value_info, *graph.output)}
        for node in graph.node:
            self._visit(node, stated)

    def _visit_body(self, body: onnx.GraphProto) -> None:
        """A graph inside a node: its tensors have names of their own."""
        for item in body.initializer:
            self.add_constant(item.name, item)
        for value in body.input:
            self._set_type(value.name, value.type)
        self._visit_nodes(body)

    def _visit(self, node: onnx.NodeProto, stated: Mapping[str, onnx.TypeProto]) -> None:
        constant = constant_of(node)
        if constant is not None:
            self.add_constant(node.output[0], constant)
            return
        for body in bodies(node):
            self._visit_body(body)
        for name, kind in self._inferred(node).items():
            self._set_type(name, kind)
        row = facts(node)
        refined = row.sizes(NodeFacts(self, node)) if row and row.sizes else None
        for name in filter(None, node.output):
            if name in stated:
                self._note_stated(name, stated[name])
            self._settle(name, self._dims.get(name), refined)
        self._compute(node)

    def _settle(self, name: str, dims: Dims | None, refined: Sequence[Size | None] | None) -> None:
        """Set the sizes of a tensor; a size that is not known gets a name of its own."""
        if dims is None and refined is None:
            return
        known: Sequence[Size | None] = refined if dims is None else dims  # type: ignore[assignment]
        if dims is not None and refined is not None and len(dims) == len(refined):
            known = [
                better if self._is_own(name, axis, size) and better is not None else size
                for axis, (size, better) in enumerate(zip(dims, refined, strict=True))
            ]
        self._dims[name] = tuple(
            self._own(name, axis) if size is None else size for axis, size in enumerate(known)
        )

    def _own(self, name: str, axis: int) -> Free:
        return Free.named(f"{name}[{axis}]")

    def _is_own(self, name: str, axis: int, size: Size) -> bool:
        return isinstance(size, Free) and size == self._own(name, axis)

    def _set_type(self, name: str, type_proto: onnx.TypeProto) -> None:
        tensor = type_proto.tensor_type
        self._dtypes[name] = tensor.elem_type
        if tensor.HasField("shape"):
            self._dims[name] = tuple(
                self._decoded(dim, name, axis) for axis, dim in enumerate(tensor.shape.dim)
            )

    def _decoded(self, dim: Any, name: str, axis: int) -> Size:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            return int(dim.dim_value)
        if not dim.dim_param:
            return self._own(name, axis)
        return self._free.get(dim.dim_param) or Free.named(dim.dim_param)

    def _note_stated(self, name: str, type_proto: onnx.TypeProto) -> None:
        """Use the numbers that the file states where inference finds none."""
        tensor = type_proto.tensor_type
        if not self._dtypes.get(name):
            self._dtypes[name] = tensor.elem_type
        if not tensor.HasField("shape"):
            return
        dims = self._dims.get(name) or tuple(
            self._own(name, axis) for axis in range(len(tensor.shape.dim))
        )
        if len(dims) == len(tensor.shape.dim):
            self._dims[name] = tuple(
                int(dim.dim_value)
                if self._is_own(name, axis, size) and dim.HasField("dim_value")
                else size
                for axis, (size, dim) in enumerate(zip(dims, tensor.shape.dim, strict=True))
            )

    def _type(self, name: str) -> onnx.TypeProto:
        dims = self._dims.get(name)
        shape = None
        if dims is not None:
            shape = [size if isinstance(size, int) else self._encoded(size) for size in dims]
        return helper.make_tensor_type_proto(self._dtypes[name], shape)

    def _encoded(self, size: Free) -> str:
        text = str(size)
        self._free[text] = size
        return text

    def _inferred(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """The types of a node's outputs by ONNX's inference, as far as it can tell."""
        names = [name for name in node.input if name]
        if any(not self._dtypes.get(name) for name in names):
            return {}
        if node.op_type == "GroupNormalization":  # of opset 18, which the package does not infer
            return {node.output[0]: self._type(names[0])}
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
            return dict(
                onnx.shape_inference.infer_node_outputs(
                    schema,
                    node,
                    {name: self._type(name) for name in names},
                    {name: data for name in names if (data := self._data(name)) is not None},
                    opset_imports=self._imports,
                )
            )
        except _REFUSALS:
            return {}

    def _data(self, name: str) -> TensorProto | None:
        """The value of a small constant, from which shapes may follow."""
        if name in self._weights:
            item = self._weights[name]
            return item if math.prod(item.dims) <= COMPUTED_ELEMENTS else None
        value = self.value(name)
        if value is None:
            return None
        dtype = helper.tensor_dtype_to_np_dtype(self._dtypes[name])
        return numpy_helper.from_array(value.astype(dtype), name)

    def add_constant(self, name: str, tensor: TensorProto) -> None:
        self._weights[name] = tensor
        self._dtypes[name], self._dims[name] = tensor.data_type, tuple(tensor.dims)

    # -- integers

    def integers(self, name: str) -> Integers | None:
        """The value of a small tensor of integers, as far as it is known."""
        if name in self._values:
            return self._values[name]
        if self._dtypes.get(name) not in _WHOLE:
            return None
        item = self._weights.get(name)
        if item is None or math.prod(item.dims) > COMPUTED_ELEMENTS:
            return None
        return np.array(numpy_helper.to_array(item).tolist(), object)

    def _compute(self, node: onnx.NodeProto) -> None:
        name = node.output[0]
        if self._dtypes.get(name) not in _WHOLE:
            return
        row = facts(node)
        values = row.integers(NodeFacts(self, node)) if row and row.integers else None
        if values is None:  # other elements may become known later, by a Concat
            dims = fixed(self._dims.get(name))
            if dims is None or math.prod(dims) > COMPUTED_ELEMENTS:
                return
            values = np.full(dims, None, object)
        if values.size <= COMPUTED_ELEMENTS:
            self._values[name] = values


_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)

_REFUSALS = (
    onnx.defs.SchemaError,
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,
)
"""The errors of ONNX's inference for operators and inputs that it does not know."""
