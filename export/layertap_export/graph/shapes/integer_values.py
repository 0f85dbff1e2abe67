"""The integers that a graph computes from shapes and from constants, before it runs.

The rows of `graph/operators.py` name these functions. Each returns the value of the first output;
`None` where nothing is known of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import numpy_helper

from .node_facts import Integers, NodeFacts
from .sizes import Free, Size, product, quotient

COMPUTED_ELEMENTS = 1024
"""The most elements of a tensor of which the values are worked out."""


def shape(node: NodeFacts) -> Integers | None:
    dims = node.dims()
    if dims is None:
        return None
    return _array(dims[node.attribute("start", 0) : node.attribute("end")])


def _array(sizes: Sequence[Any]) -> Integers:
    values = np.empty(len(sizes), object)
    values[:] = sizes
    return values


def identity(node: NodeFacts) -> Integers | None:
    return node.integers()


def gather(node: NodeFacts) -> Integers | None:
    values, indices = node.integers(0), node.value(1)
    if values is None or indices is None or node.attribute("axis", 0) not in (0, -values.ndim):
        return None
    return np.asarray(values[indices], object)


def slice_(node: NodeFacts) -> Integers | None:
    values = node.integers(0)
    rest = [node.value(index) for index in range(1, node.input_count)]
    if values is None or values.ndim != 1 or any(part is None for part in rest):
        return None
    start, end, *others = (part for part in rest if part is not None)
    step = int(others[1][0]) if len(others) > 1 else 1
    stop = None if step < 0 and end[0] < -len(values) else int(end[0])
    return values[slice(int(start[0]), stop, step)]


def concat(node: NodeFacts) -> Integers | None:
    parts = [node.integers(index) for index in range(node.input_count)]
    known = [part for part in parts if part is not None]
    return np.concatenate(known, node.attribute("axis")) if len(known) == len(parts) else None


def unsqueeze(node: NodeFacts) -> Integers | None:
    values, axes = node.integers(0), node.value(1)
    if values is None or axes is None:
        return None
    return np.expand_dims(values, tuple(int(axis) for axis in axes))


def squeeze(node: NodeFacts) -> Integers | None:
    values = node.integers(0)
    axes = node.value(1) if node.input_count > 1 else None
    if values is None or (node.input_count > 1 and axes is None):
        return None
    found = np.squeeze(values, None if axes is None else tuple(int(axis) for axis in axes))
    return np.asarray(found, object)


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[[NodeFacts], Integers | None]:
    def compute(node: NodeFacts) -> Integers | None:
        left, right = node.integers(0), node.integers(1)
        if left is None or right is None:
            return None
        pairs = np.broadcast(left, right)
        found = [None if None in pair else function(*pair) for pair in pairs]
        return _array(found).reshape(pairs.shape)

    return compute


def _quotient(left: Size, right: Size) -> Size | None:
    """Rounded down. ONNX rounds towards zero, but sizes are not negative."""
    return quotient(left, right) if isinstance(right, Free) else left // right if right else None


def _larger(left: Size, right: Size) -> Size | None:
    both = isinstance(left, int) and isinstance(right, int)
    return max(left, right) if both else left if left == right else None  # type: ignore[type-var]


def _smaller(left: Size, right: Size) -> Size | None:
    both = isinstance(left, int) and isinstance(right, int)
    return min(left, right) if both else left if left == right else None  # type: ignore[type-var]


def negate(node: NodeFacts) -> Integers | None:
    values = node.integers()
    if values is None:
        return None
    found = [None if item is None else item * -1 for item in values.ravel()]
    return _array(found).reshape(values.shape)


def _equal(left: Size, right: Size) -> bool | None:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    if left == right:
        return True
    known = left if isinstance(left, int) else right
    return False if isinstance(known, int) and known < 0 else None


def where(node: NodeFacts) -> Integers | None:
    condition, left, right = (node.integers(index) for index in range(3))
    if condition is None or left is None or right is None or None in condition.ravel():
        return None
    return np.where(condition.astype(bool), left, right).astype(object)


def reduce_prod(node: NodeFacts) -> Integers | None:
    values = node.integers(0)
    if values is None or values.ndim != 1 or None in values:
        return None
    total = _array([product(values)])
    return total if node.attribute("keepdims", 1) else total.reshape(())


def constant_of_shape(node: NodeFacts) -> Integers | None:
    target = node.value(0)
    if target is None or math.prod(target) > COMPUTED_ELEMENTS:
        return None
    tensor = node.attribute("value")
    value = 0 if tensor is None else numpy_helper.to_array(tensor).ravel()[0].item()
    return np.full(tuple(target), value, object)


add = _elementwise(lambda left, right: left + right)
subtract = _elementwise(lambda left, right: left - right)
multiply = _elementwise(lambda left, right: left * right)
divide = _elementwise(_quotient)
maximum = _elementwise(_larger)
minimum = _elementwise(_smaller)
equal = _elementwise(_equal)
