"""Places in sorted lists, ranks, and marks at places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .expressions import NoWayError, Value, attribute, counted, numpy_dtype, take_over


def bucketize(graph: Any, node: Any, name: str, args: Any) -> None:
    """How many boundaries are not above each element; they are compared one by one."""
    boundaries = np.array(attribute(node, "boundaries"), np.float32)

    def build(x: Value) -> Value:
        x = x if x.dtype == np.float64 else x.cast(np.float32)
        not_above = x.unsqueeze(-1) >= x.like(boundaries)
        return not_above.cast(np.int32).reduce("Sum", -1)

    take_over(graph, node, build)


def lower_bound(graph: Any, node: Any, name: str, args: Any) -> None:
    """How many elements of each row of sorted numbers are below each value."""
    _count(graph, node, lambda numbers, value: numbers < value)


def upper_bound(graph: Any, node: Any, name: str, args: Any) -> None:
    """How many elements of each row of sorted numbers are not above each value."""
    _count(graph, node, lambda numbers, value: numbers <= value)


def _count(graph: Any, node: Any, compare: Callable[[Value, Value], Value]) -> None:
    dtype = numpy_dtype(attribute(node, "out_type"))

    def build(numbers: Value, values: Value) -> Value:
        found = compare(numbers.unsqueeze(1), values.unsqueeze(2))
        return found.cast(dtype).reduce("Sum", 2)

    take_over(graph, node, build)


def in_top_k(predictions: Value, targets: Value, k: Value) -> Value:
    """Whether fewer than k predictions of a row are above that of the target.

    Never if one of the row is infinite or NaN, or if there is no such place.
    """
    places = counted(predictions.size(1)).cast(targets.dtype)
    here = places.equals(targets.unsqueeze(1))
    wanted = here.where(predictions, 0).reduce("Sum", 1, keep=True)
    above = (predictions > wanted).cast(k.dtype).reduce("Sum", 1)
    finite = (predictions - predictions).equals(0)  # infinity less infinity is NaN
    sound = finite.cast(np.int32).reduce("Min", 1).equals(1)
    known = here.cast(np.int32).reduce("Max", 1).equals(1)
    return (above < k) & sound & known


def top_k(graph: Any, node: Any, name: str, args: Any) -> None:
    """The k largest of the last axis, of any type. (tf2onnx takes unsigned numbers for signed.)"""
    in_order = attribute(node, "sorted")

    def build(x: Value, k: Value) -> list[Value]:
        count = k.cast(np.int64).reshape(1)
        values, places = x.ops("TopK", count, outputs=2, axis=-1, sorted=in_order)
        return [values, places.cast(np.int32)]

    take_over(graph, node, build)


def one_hot(graph: Any, node: Any, name: str, args: Any) -> None:
    """One of two values at each place of a new axis: the first where it is the element's index."""
    axis = attribute(node, "axis")

    def build(indices: Value, depth: Value, on: Value, off: Value) -> Value:
        at = axis % (indices.rank + 1)
        places = counted(depth.cast(np.int64)).cast(indices.dtype)
        behind = indices.rank - at
        if behind:
            places = places.reshape(-1, *[1] * behind)
        here = indices.unsqueeze(at).equals(places)
        return here if on.dtype == np.bool_ and _plain(on, off) else here.where(on, off)

    take_over(graph, node, build)


def bincount(graph: Any, node: Any, name: str, args: Any) -> None:
    """How often each number from 0 to size - 1 is there, or the sum of its weights; per row.

    With `binary_output`, whether it is there.
    """
    binary = attribute(node, "binary_output")

    def build(numbers: Value, size: Value, weights: Value) -> Value:
        places = counted(size.cast(np.int64)).cast(numbers.dtype)
        here = numbers.unsqueeze(-1).equals(places)
        if binary:
            return here.cast(np.int32).reduce("Max", -2).cast(weights.dtype)
        shape = weights.shape
        if shape is None:
            raise NoWayError("it is not known whether there are weights")
        shares = here.cast(weights.dtype) if 0 in shape else here.where(weights.unsqueeze(-1), 0)
        return shares.reduce("Sum", -2)

    take_over(graph, node, build)


def _plain(on: Value, off: Value) -> bool:
    """Whether the two values are true and false, as `equals` gives them."""
    return on.constant is not None and bool(on.constant) and not off.constant
