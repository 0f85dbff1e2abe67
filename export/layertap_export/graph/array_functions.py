"""Operators that numpy computes with at most one copy, for constants that may be large.

Each function takes the values of a node's inputs and its attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

Attributes: TypeAlias = Mapping[str, Any]
Arrays: TypeAlias = "Sequence[NDArray[Any]]"
ArrayFunction: TypeAlias = Callable[[Arrays, Attributes], "NDArray[Any] | None"]
"""From the inputs and attributes of a node to its first output; `None` for a form of the operator
that numpy lacks."""


def identity(inputs: Arrays, attributes: Attributes) -> NDArray[Any]:
    return inputs[0]


def cast(inputs: Arrays, attributes: Attributes) -> NDArray[Any] | None:
    """A copy, unless the dtype is the same."""
    if attributes["to"] == TensorProto.STRING:
        return None
    dtype = helper.tensor_dtype_to_np_dtype(attributes["to"])
    value: NDArray[Any] = inputs[0].astype(dtype, copy=False)
    return value


def transpose(inputs: Arrays, attributes: Attributes) -> NDArray[Any]:
    perm: Sequence[int] | None = attributes.get("perm")
    return np.transpose(inputs[0], perm)


def reshape(inputs: Arrays, attributes: Attributes) -> NDArray[Any]:
    value, target = inputs[0], [int(size) for size in inputs[1]]
    if not attributes.get("allowzero", 0):
        target = [size or value.shape[axis] for axis, size in enumerate(target)]
    return value.reshape(target)


def gather(inputs: Arrays, attributes: Attributes) -> NDArray[Any] | None:
    """A copy of the chosen parts."""
    value, indices = inputs
    axis: int = attributes.get("axis", 0)
    if not indices.ndim or (np.abs(indices + 0.5) > value.shape[axis]).any():
        return None
    return np.take(value, indices, axis)


def unsqueeze(inputs: Arrays, attributes: Attributes) -> NDArray[Any]:
    return np.expand_dims(inputs[0], _axes(inputs, attributes) or ())


def squeeze(inputs: Arrays, attributes: Attributes) -> NDArray[Any]:
    return inputs[0].squeeze(_axes(inputs, attributes))


def _axes(inputs: Arrays, attributes: Attributes) -> tuple[int, ...] | None:
    """An input since opset 13, an attribute before; `None` where there are neither."""
    axes = inputs[1] if len(inputs) > 1 else attributes.get("axes")
    return None if axes is None else tuple(int(axis) for axis in axes)
