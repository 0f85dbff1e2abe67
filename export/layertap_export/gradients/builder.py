"""Writes nodes and constants after a graph, as expressions on its tensors: the backward half.

A rule reads like the formula in its docstring:

    step.gradient * (1 - step.y * step.y)

Equal expressions become one node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from layertap_export.errors import GradientError
from layertap_export.graph.arithmetic import Arithmetic
from layertap_export.graph.graph import attributes, leading_to
from layertap_export.graph.operators import OPERATORS
from layertap_export.graph.shapes.shapes import Shapes
from layertap_export.graph.shapes.sizes import Dims, Free, Size, fixed
from layertap_export.graph.unique_names import UniqueNames

PREFIX = "grad/"
"""The prefix of all names of the backward half."""

FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
"""The element types that have gradients."""

WIDENED: dict[int, int] = {
    TensorProto.FLOAT16: TensorProto.FLOAT,
    TensorProto.BFLOAT16: TensorProto.FLOAT,
}
"""In which type the backward half computes with tensors of another type. In float16 the parts of a
gradient that are below 6e-5 lose digits, and onnxruntime cannot add several values to one element.
"""

Operand: TypeAlias = "Value | float"


class Value(Arithmetic):
    """A tensor of the graph."""

    __slots__ = ("_builder", "dtype", "name")

    def __init__(self, builder: Builder, name: str, dtype: int) -> None:
        self._builder = builder
        self.name = name
        self.dtype = dtype

    def op(self, op_type: str, *others: Operand | None, **attributes: Any) -> Value:
        inputs = (None if other is None else self.like(other) for other in others)
        return self._builder.node(op_type, self, *inputs, **attributes)

    def cast(self, dtype: int) -> Value:
        return self if dtype == self.dtype else self.op("Cast", to=dtype)

    def shape(self) -> Value:
        """The sizes of the axes, computed when the graph runs, int64."""
        return self.op("Shape")

    def like(self, other: Operand) -> Value:
        if isinstance(other, Value):
            return other
        return self._builder.constant(np.array(other, helper.tensor_dtype_to_np_dtype(self.dtype)))

    def where(self, yes: Value, no: Operand) -> Value:
        """`yes` where this is true, else `no`; values that are not taken may be infinite or NaN."""
        return self._builder.node("Where", self, yes, yes.like(no))

    def masks(self, other: Value) -> Value:
        """`other` where this is true, else 0.

        A product, which onnxruntime computes ten times faster than a Where.
        """
        return self.cast(other.dtype) * other


class Builder:
    """Appends to one graph. `finish` puts the new nodes and constants into the model."""

    def __init__(
        self,
        model: onnx.ModelProto,
        shapes: Shapes,
        names: UniqueNames | None = None,
        prefix: str = PREFIX,
        *,
        names_nodes: bool = True,
    ) -> None:
        """
        Args:
            names: gives the new names; by default those that the graph does not have.
            prefix: that of all names.
            names_nodes: whether nodes have names, too, which take many bytes.
        """
        self.shapes = shapes
        self.opset = shapes.opset
        self._graph = model.graph
        self._names = names or UniqueNames(_names(model.graph), "_", 1)
        self._made: dict[tuple[Any, ...], tuple[Value, ...]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._outputs: list[str] = []
        self._transposes = {
            node.output[0]: node for node in model.graph.node if node.op_type == "Transpose"
        }
        self._start, self._names_nodes = prefix, names_nodes
        self.prefix = prefix
        """That of the names of nodes."""

    def inside(self, model: onnx.ModelProto) -> Builder:
        """A builder for a graph inside a node. Its names are given in neither graph again."""
        made = Builder(
            model, Shapes(model), self._names, self._start, names_nodes=self._names_nodes
        )
        made.prefix = self.prefix
        return made

    def name_after(self, owner: str) -> None:
        """Name the nodes that follow after `owner`, a node of the forward half."""
        self.prefix = f"{self._start}{owner.removeprefix(self._start)}/"

    def finish(self, *, whole: bool = False) -> None:
        """Put the new nodes and constants that lead to an output into the model.

        Args:
            whole: also those that do not.
        """
        nodes = self._nodes
        needed = {item.name for item in self._constants}
        if not whole:
            nodes, needed = leading_to(nodes, self._outputs)
        self._graph.node.extend(nodes)
        self._graph.initializer.extend(x for x in self._constants if x.name in needed)

    # -- making

    def repeat(self, node: onnx.NodeProto, source: str) -> str:
        """Repeat a node of the forward half for another input of the same shape."""
        output = self.free_name(f"{PREFIX}scores/{node.op_type}")
        copy = helper.make_node(node.op_type, [source, *node.input[1:]], [output], name=output)
        copy.attribute.extend(node.attribute)
        self._graph.node.append(copy)
        self.shapes.liken(output, node.output[0])
        return output

    def part(self, source: str, axis: int, index: int, name: str) -> str:
        """Take one index of an axis of a tensor of the forward half, and keep the axis."""
        bounds = [self.free_name(f"{name}/{what}") for what in ("start", "end", "axis")]
        for bound, value in zip(bounds, (index, index + 1, axis), strict=True):
            item = numpy_helper.from_array(np.array([value], np.int64), bound)
            self._graph.initializer.append(item)
            self.shapes.add_constant(bound, item)
        self._graph.node.append(helper.make_node("Slice", [source, *bounds], [name], name=name))
        self.shapes.take(name, source, axis)
        return name

    def tensor(self, name: str) -> Value:
        """A tensor of the forward half; one of float16 or bfloat16 is read as float32."""
        dtype = self.shapes.dtype(name)
        return Value(self, name, WIDENED.get(dtype, dtype))

    def node(self, op_type: str, *inputs: Value | None, **attributes: Any) -> Value:
        """The first output of a new node."""
        return self.nodes(op_type, 1, *inputs, **attributes)[0]

    def nodes(
        self, op_type: str, outputs: int, *inputs: Value | None, **attributes: Any
    ) -> tuple[Value, ...]:
        """The outputs of a new node."""
        if op_type != "Shape":
            inputs = tuple(value and self._read(value) for value in inputs)
        names = [value.name if value else "" for value in inputs]
        while names and not names[-1]:
            names.pop()
        key = (op_type, outputs, tuple(names), *map(_key, sorted(attributes.items())))
        if key not in self._made:
            # Names take most of the added bytes: only that of the node says where it belongs.
            first = f"{self._start}{len(self._nodes)}"
            written = [self.free_name(f"{first}:{i}" if i else first) for i in range(outputs)]
            name = self.free_name(f"{self.prefix}{op_type}") if self._names_nodes else None
            node = helper.make_node(op_type, names, written, name=name, **attributes)
            self._nodes.append(node)
            dtype = self._dtype_of(op_type, inputs, attributes)
            self._made[key] = tuple(Value(self, item, dtype) for item in written)
        return self._made[key]

    def _read(self, value: Value) -> Value:
        """The value in its dtype: a tensor of the forward half may have to be widened.

        A Transpose is repeated after the Cast: onnxruntime 1.32 crashes on some float16 Transposes
        before a Cast before a MatMul.
        """
        stored = self.shapes.dtype(value.name)
        if WIDENED.get(stored) != value.dtype:
            return value
        mover = self._transposes.get(value.name)
        if mover is not None:
            moved = self._read(Value(self, mover.input[0], value.dtype))
            return moved.op("Transpose", **attributes(mover))
        return self.node("Cast", Value(self, value.name, stored), to=value.dtype)

    def output(self, value: Value, name: str) -> None:
        """Make a value a graph output of this name."""
        value = self._read(value)
        self._nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
        self._outputs.append(name)

    def _dtype_of(self, op_type: str, inputs: Sequence[Value | None], attributes: Any) -> int:
        if op_type == "Cast":
            return int(attributes["to"])
        if op_type == "ConstantOfShape":
            return int(attributes["value"].data_type)
        row = OPERATORS[op_type]
        typed_by = inputs[row.typed_by]
        if row.result:
            return row.result
        assert typed_by is not None
        return typed_by.dtype

    def constant(self, value: NDArray[Any]) -> Value:
        key = ("", value.dtype.str, value.shape, value.tobytes())
        if key not in self._made:
            name = self.free_name(f"{self._start}constant")
            self._constants.append(numpy_helper.from_array(value, name))
            dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
            self._made[key] = (Value(self, name, dtype),)
        return self._made[key][0]

    def int64(self, values: Iterable[int] | int) -> Value:
        """An int64 vector or number."""
        return self.constant(np.array(values if isinstance(values, int) else [*values], np.int64))

    def ones(self, dims: Sequence[int], dtype: int) -> Value:
        return self.constant(np.ones(tuple(dims), helper.tensor_dtype_to_np_dtype(dtype)))

    def zeros(self, shape: Value, dtype: int) -> Value:
        """Zeros of a shape that the graph computes."""
        value = helper.make_tensor("value", dtype, [1], [0])
        return self.node("ConstantOfShape", shape, value=value)

    def free_name(self, wanted: str) -> str:
        """A name that nothing in the graph has."""
        return self._names.free(wanted)

    # -- shapes

    def dims(self, value: Value) -> Dims:
        """Sizes of a tensor of the forward half.

        Raises:
            GradientError: its rank is not known.
        """
        dims = self.shapes.dims(value.name)
        if dims is None:
            raise GradientError(
                f"the rank of the tensor {value.name!r} is not known before the model runs"
            )
        return dims

    def rank(self, value: Value) -> int:
        return len(self.dims(value))

    def sizes(self, value: Value, axes: Iterable[int]) -> Value:
        """Some sizes of a tensor of the forward half, an int64 vector."""
        chosen = fixed(tuple(self.dims(value)[axis] for axis in axes))
        if chosen is not None:
            return self.int64(chosen)
        return value.shape().op("Gather", self.int64(axes), axis=0)

    def size(self, value: Value, axis: int) -> Value | int:
        """One size of a tensor of the forward half: a number, or an int64 vector of one."""
        size = self.dims(value)[axis]
        return size if isinstance(size, int) else self.sizes(value, [axis])

    def vector(self, parts: Iterable[Value | int]) -> Value:
        """An int64 vector of numbers and of vectors that the graph computes."""
        sizes: list[Value] = []
        pending: list[int] = []
        for part in [*parts, None]:
            if isinstance(part, int):
                pending.append(part)
                continue
            if pending:
                sizes.append(self.int64(pending))
                pending = []
            if part is not None:
                sizes.append(part)
        return sizes[0] if len(sizes) == 1 else self.node("Concat", *sizes, axis=0)

    def count(self, value: Value, axes: Sequence[int]) -> Value | int:
        """How many elements there are along some axes, as a number or an int64 scalar."""
        chosen = fixed(tuple(self.dims(value)[axis] for axis in axes))
        if chosen is not None:
            return math.prod(chosen)
        return self.sizes(value, axes).op("ReduceProd", keepdims=0)

    def shaped(self, gradient: Value, like: Value) -> Value:
        """A gradient in the shape of a tensor of the forward half.

        The axis of the batch is left open: the gradient may have many rows where the forward half
        has one sample.
        """
        dims = self.dims(like)
        open_axis = self._open_axis(dims)
        target: list[Value | int] = [
            -1 if axis == open_axis else self.size(like, axis) for axis in range(len(dims))
        ]
        return gradient.op("Reshape", self.vector(target))

    def is_batch(self, size: Size) -> bool:
        """Whether a size depends on the size of the batch."""
        return isinstance(size, Free) and bool(size.names & self.shapes.batch)

    def _open_axis(self, dims: Dims) -> int | None:
        free = [axis for axis, size in enumerate(dims) if isinstance(size, Free)]
        if len(free) == 1:
            return free[0]
        batch = [axis for axis in free if self.is_batch(dims[axis])]
        if batch:
            return batch[0]
        return 0 if dims and not free and 0 not in dims else None

    def summed(self, gradient: Value, operand: Value, large: Dims) -> Value:
        """The gradient of an operand that was broadcast to some sizes, summed back to its shape."""
        small = self.dims(operand)
        lead = len(large) - len(small)
        certain, open_axes = list(range(lead)), []
        for axis, (own, size) in enumerate(zip(small, large[lead:], strict=True), start=lead):
            if own == size:
                continue
            if own == 1:
                certain.append(axis)
            elif isinstance(own, Free):
                open_axes.append(axis)
        if open_axes:  # summed only if the operand has size 1 when the graph runs
            lone = self.sizes(operand, [axis - lead for axis in open_axes]).op(
                "Equal", self.int64([1])
            )
            axes = self.int64(open_axes).op("Compress", lone, axis=0)
            gradient = gradient.op("ReduceSum", axes, keepdims=1, noop_with_empty_axes=1)
        if certain:
            gradient = gradient.op("ReduceSum", self.int64(certain), keepdims=1)
        if lead:
            gradient = gradient.op("Squeeze", self.int64(range(lead)))
        return gradient

    def spread(self, gradient: Value, like: Value, axes: Sequence[int]) -> Value:
        """A gradient of size 1 along some axes, repeated to the sizes of a forward tensor there.

        Its other axes stay as they are.
        """
        target: list[Value | int] = [1] * self.rank(like)
        for axis in axes:
            target[axis] = self.size(like, axis)
        return gradient.op("Expand", self.vector(target))

    def rows(self, gradient: Value) -> Value:
        """How many rows a gradient has along its first axis, an int64 vector of one."""
        return gradient.shape().op("Slice", self.int64([0]), self.int64([1]))


def _key(attribute: tuple[str, Any]) -> tuple[str, object]:
    """What tells an attribute from others: the `repr` of a graph or tensor says little of it."""
    name, value = attribute
    return name, value.SerializeToString() if isinstance(value, Message) else repr(value)


def _names(graph: onnx.GraphProto) -> set[str]:
    stated = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    names = {value.name for value in stated}
    for node in graph.node:
        names.update((node.name, *node.output))
    return names
