"""Formulas over the tensors of a tf2onnx graph, in mathematical notation. For example:

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
"""A function that tf2onnx calls to convert an operation: `handler(graph, node, name, args)`."""

COMPLEX = {TensorProto.COMPLEX64: TensorProto.FLOAT, TensorProto.COMPLEX128: TensorProto.DOUBLE}
"""The dtypes that represent complex numbers, with a last axis for the real and imaginary part."""

Operand: TypeAlias = "Value | ArrayLike"


class UnsupportedUseError(Exception):
    """An operation cannot be converted in this use; the message is part of the export's error."""


class Value(Arithmetic):
    """A tensor in a graph."""

    def __init__(self, graph: Any, name: str) -> None:
        self.graph = graph
        self.name = name

    # -- properties

    @property
    def dtype(self) -> np.dtype[Any]:
        return numpy_dtype(self.graph.get_dtype(self.name))

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """The sizes, `None` for free ones; `None` as a whole if the rank is not known."""
        shape = self.graph.get_shape(self.name)
        if shape is None:
            return None
        return tuple(None if size is None or size < 0 else size for size in shape)

    @property
    def rank(self) -> int:
        """The number of axes.

        Raises:
            UnsupportedUseError: it is not known.
        """
        shape = self.shape
        if shape is None:
            raise UnsupportedUseError("the number of axes of a tensor is not known")
        return len(shape)

    @property
    def constant(self) -> np.ndarray[Any, Any] | None:
        """The value of a constant; `None` if this tensor is not a constant."""
        node = self.graph.get_node_by_output(self.name)
        return node.get_tensor_value(as_list=False) if node.is_const() else None

    # -- nodes

    def op(self, op_type: str, *others: Operand, **attributes: Any) -> Value:
        return self.ops(op_type, *others, outputs=1, **attributes)[0]

    def ops(
        self, op_type: str, *others: Operand, outputs: int, domain: str = "", **attributes: Any
    ) -> list[Value]:
        """Like `op`, for operators with several outputs, or of another domain."""
        inputs = [self.name, *(self.like(other).name for other in others)]
        node = self.graph.make_node(
            op_type, inputs, attr=attributes, output_count=outputs, domain=domain
        )
        return [Value(self.graph, name) for name in node.output]

    def like(self, other: Operand) -> Value:
        return other if isinstance(other, Value) else self.const(other, self.dtype)

    def const(self, value: ArrayLike, dtype: DTypeLike) -> Value:
        """A constant in the same graph."""
        array = np.asarray(value, dtype)
        return Value(
            self.graph, self.graph.make_const(utils.make_name("constant"), array).output[0]
        )

    def int64s(self, *values: ArrayLike) -> list[Value]:
        """Constants of dtype int64, which ONNX requires for sizes, axes and indices."""
        return [self.const(value, np.int64) for value in values]

    # -- arithmetic

    def polynomial(self, coefficients: Sequence[float]) -> Value:
        """c0 + c1 x + c2 x**2 + ..., by Horner's rule."""
        *rest, last = coefficients
        result = self.const(last, self.dtype)
        for coefficient in reversed(rest):
            result = result * self + coefficient
        return result

    # -- dtypes, shapes, indexing

    def cast(self, dtype: DTypeLike) -> Value:
        return self.op("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def where(self, if_true: Operand, if_false: Operand) -> Value:
        """Select by the elements of this bool tensor; at least one operand must be a tensor."""
        tensor = if_true if isinstance(if_true, Value) else if_false
        assert isinstance(tensor, Value)
        return self.op("Where", tensor.like(if_true), tensor.like(if_false))

    def shape_tensor(self) -> Value:
        """The shape, as a vector of int64."""
        return self.op("Shape")

    def size(self, axis: int) -> Value:
        """The size of one axis, as a scalar of int64; a constant if it is known."""
        shape = self.shape
        known = None if shape is None else shape[axis]
        if known is not None:
            return self.const(known, np.int64)
        return self.shape_tensor().op("Gather", *self.int64s(axis % self.rank), axis=0)

    def reshape(self, *sizes: int) -> Value:
        return self.op("Reshape", *self.int64s(sizes))

    def unsqueeze(self, *axes: int) -> Value:
        return self.op("Unsqueeze", *self.int64s(axes))

    def squeeze(self, *axes: int) -> Value:
        return self.op("Squeeze", *self.int64s(axes))

    def transpose(self, *perm: int) -> Value:
        return self.op("Transpose", perm=perm)

    def take(self, index: int, axis: int) -> Value:
        """The elements at one index along an axis, which is removed."""
        return self.op("Gather", *self.int64s(index), axis=axis)

    def slice(self, axis: int, start: int | Value, end: int | Value) -> Value:
        """The elements from `start` to `end` (exclusive) along one axis."""
        bounds = [
            x.reshape(1) if isinstance(x, Value) else self.int64s([x])[0] for x in (start, end)
        ]
        return self.op("Slice", *bounds, *self.int64s([axis]))

    def reduce(self, reduction: str, *axes: int, keep: bool = False) -> Value:
        """`Sum`, `Max`, `Min`, `Mean` or `Prod` over some axes.

        Up to opset 17 all but ReduceSum have their axes as an attribute.
        """
        if reduction == "Sum" or self.graph.opset >= 18:
            return self.op(f"Reduce{reduction}", *self.int64s(axes), keepdims=int(keep))
        return self.op(f"Reduce{reduction}", axes=axes, keepdims=int(keep))


def stack(values: Sequence[Value], axis: int) -> Value:
    """Join tensors of the same shape along a new axis, like `numpy.stack`."""
    first, *others = [value.unsqueeze(axis) for value in values]
    return first.op("Concat", *others, axis=axis)


def concat(values: Sequence[Value], axis: int) -> Value:
    """Join tensors along an existing axis, like `numpy.concatenate`."""
    first, *others = values
    return first.op("Concat", *others, axis=axis) if others else first


def arange(end: Value) -> Value:
    """0, 1, ..., end - 1, of dtype int64; `end` is a scalar."""
    zero, one = end.int64s(0, 1)
    return zero.op("Range", end, one)


def replace_node(graph: Any, node: Any, build: Callable[..., Value | Sequence[Value]]) -> None:
    """Replace a node with the result of `build(*inputs)`: a value for each output.

    If `build` raises, the node stays as it was, and the export reports it.
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
    """A handler for an operation without attributes."""

    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        replace_node(graph, node, build)

    return handler


def attribute(node: Any, name: str) -> Any:
    """The value of a TensorFlow attribute; dtypes are ONNX element types, strings are `str`."""
    value = helper.get_attribute_value(node.get_attr(name))
    return value.decode() if isinstance(value, bytes) else value


def numpy_dtype(element_type: int) -> np.dtype[Any]:
    """The numpy dtype of an ONNX element type."""
    return helper.tensor_dtype_to_np_dtype(element_type)
