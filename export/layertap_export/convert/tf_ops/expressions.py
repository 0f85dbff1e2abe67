"""Formulas over the tensors of a tf2onnx graph, written as they stand in a book.

def expm1(x: Value) -> Value:
    return (x / 2).op("Tanh") * (x.op("Exp") + 1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from onnx import TensorProto, helper
from tf2onnx import utils

from layertap_export.graph.arithmetic import Arithmetic

Handler: TypeAlias = Callable[[Any, Any, str, Any], None]
"""What tf2onnx calls for an operation: `handler(graph, node, name, args)`."""

COMPLEX = {TensorProto.COMPLEX64: TensorProto.FLOAT, TensorProto.COMPLEX128: TensorProto.DOUBLE}
"""What stands for complex numbers, with one more axis that holds the two parts."""

Operand: TypeAlias = "Value | ArrayLike"


class NoWayError(Exception):
    """Why an operation cannot be converted as it is used, for the export's message."""


class Value(Arithmetic):
    """A tensor in a graph."""

    def __init__(self, graph: Any, name: str) -> None:
        self.graph = graph
        self.name = name

    # -- what is known

    @property
    def dtype(self) -> np.dtype[Any]:
        return numpy_dtype(self.graph.get_dtype(self.name))

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """Sizes, `None` where free; `None` if not even the rank is known."""
        shape = self.graph.get_shape(self.name)
        if shape is None:
            return None
        return tuple(None if size is None or size < 0 else size for size in shape)

    @property
    def rank(self) -> int:
        """The number of axes.

        Raises:
            NoWayError: it is not known.
        """
        shape = self.shape
        if shape is None:
            raise NoWayError("the number of axes of a tensor is not known")
        return len(shape)

    @property
    def constant(self) -> np.ndarray[Any, Any] | None:
        """The value of a constant, `None` if this is none."""
        node = self.graph.get_node_by_output(self.name)
        return node.get_tensor_value(as_list=False) if node.is_const() else None

    # -- making nodes

    def op(self, op_type: str, *others: Operand, **attributes: Any) -> Value:
        return self.ops(op_type, *others, outputs=1, **attributes)[0]

    def ops(
        self, op_type: str, *others: Operand, outputs: int, domain: str = "", **attributes: Any
    ) -> list[Value]:
        """As `op`, for an operator with several outputs, or of another domain."""
        inputs = [self.name, *(self.like(other).name for other in others)]
        node = self.graph.make_node(
            op_type, inputs, attr=attributes, output_count=outputs, domain=domain
        )
        return [Value(self.graph, name) for name in node.output]

    def like(self, other: Operand) -> Value:
        return other if isinstance(other, Value) else self.new(other, self.dtype)

    def new(self, value: ArrayLike, dtype: DTypeLike) -> Value:
        """A constant in the same graph."""
        array = np.asarray(value, dtype)
        return Value(
            self.graph, self.graph.make_const(utils.make_name("constant"), array).output[0]
        )

    def sizes(self, *values: ArrayLike) -> list[Value]:
        """Constants of dtype int64, which ONNX wants for sizes, axes and places."""
        return [self.new(value, np.int64) for value in values]

    # -- arithmetic

    def polynomial(self, coefficients: Sequence[float]) -> Value:
        """c0 + c1 x + c2 x**2 + ..., by Horner's rule."""
        *rest, last = coefficients
        result = self.new(last, self.dtype)
        for coefficient in reversed(rest):
            result = result * self + coefficient
        return result

    # -- types, shapes, places

    def cast(self, dtype: DTypeLike) -> Value:
        return self.op("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def where(self, if_true: Operand, if_false: Operand) -> Value:
        """By element of this bool tensor one of two; at least one must be a tensor."""
        kind = if_true if isinstance(if_true, Value) else if_false
        assert isinstance(kind, Value)
        return self.op("Where", kind.like(if_true), kind.like(if_false))

    def sizes_of_axes(self) -> Value:
        """The shape, as a vector of int64."""
        return self.op("Shape")

    def size(self, axis: int) -> Value:
        """The size of one axis, as a scalar of int64; a constant where it is known."""
        shape = self.shape
        known = None if shape is None else shape[axis]
        if known is not None:
            return self.new(known, np.int64)
        return self.sizes_of_axes().op("Gather", *self.sizes(axis % self.rank), axis=0)

    def reshape(self, *sizes: int) -> Value:
        return self.op("Reshape", *self.sizes(sizes))

    def unsqueeze(self, *axes: int) -> Value:
        return self.op("Unsqueeze", *self.sizes(axes))

    def squeeze(self, *axes: int) -> Value:
        return self.op("Squeeze", *self.sizes(axes))

    def transpose(self, *perm: int) -> Value:
        return self.op("Transpose", perm=perm)

    def take(self, index: int, axis: int) -> Value:
        """One place along an axis, which vanishes."""
        return self.op("Gather", *self.sizes(index), axis=axis)

    def cut(self, axis: int, start: int | Value, end: int | Value) -> Value:
        """Places `start` to `end` along one axis."""
        bounds = [
            x.reshape(1) if isinstance(x, Value) else self.sizes([x])[0] for x in (start, end)
        ]
        return self.op("Slice", *bounds, *self.sizes([axis]))

    def reduce(self, how: str, *axes: int, keep: bool = False) -> Value:
        """`Sum`, `Max`, `Min`, `Mean` or `Prod` over some axes.

        Up to opset 17 all but ReduceSum take their axes as an attribute.
        """
        if how == "Sum" or self.graph.opset >= 18:
            return self.op(f"Reduce{how}", *self.sizes(axes), keepdims=int(keep))
        return self.op(f"Reduce{how}", axes=axes, keepdims=int(keep))


def stacked(values: Sequence[Value], axis: int) -> Value:
    """Tensors of one shape side by side along a new axis."""
    first, *others = [value.unsqueeze(axis) for value in values]
    return first.op("Concat", *others, axis=axis)


def joined(values: Sequence[Value], axis: int) -> Value:
    """Tensors one behind the other along an axis that they have."""
    first, *others = values
    return first.op("Concat", *others, axis=axis) if others else first


def counted(end: Value) -> Value:
    """0, 1, ..., end - 1, of dtype int64; `end` is a scalar."""
    zero, one = end.sizes(0, 1)
    return zero.op("Range", end, one)


def take_over(graph: Any, node: Any, build: Callable[..., Value | Sequence[Value]]) -> None:
    """Put what `build(*inputs)` makes in the place of a node.

    Nothing is changed if it raises: tf2onnx then leaves the node, and the export names it.
    """
    results = build(*(Value(graph, name) for name in node.input))
    results = [results] if isinstance(results, Value) else results
    outputs = list(zip(node.output, node.output_shapes, node.output_dtypes, strict=True))
    graph.remove_node(node.name)
    for (name, shape, dtype), result in zip(outputs, results, strict=True):
        if dtype in COMPLEX:
            dtype = COMPLEX[dtype]
            shape = shape if shape is None else [*shape, 2]
        graph.make_node("Identity", [result.name], outputs=[name], shapes=[shape], dtypes=[dtype])


def formula(build: Callable[..., Value | Sequence[Value]]) -> Handler:
    """A handler for an operation that depends on its inputs alone."""

    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        take_over(graph, node, build)

    return handler


def attribute(node: Any, name: str) -> Any:
    """The value of a TensorFlow attribute of a node; types as ONNX's numbers, strings as `str`."""
    value = helper.get_attribute_value(node.get_attr(name))
    return value.decode() if isinstance(value, bytes) else value


def numpy_dtype(element_type: int) -> np.dtype[Any]:
    """The numpy dtype of an ONNX element type."""
    return helper.tensor_dtype_to_np_dtype(element_type)
