"""Searching in sorted numbers, top k, one-hot encoding and counting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .expressions import UnsupportedUseError, Value, arange, attribute, numpy_dtype, replace_node


def bucketize(graph: Any, node: Any, name: str, args: Any) -> None:
    """For each element, the number of boundaries that are at most as large as it."""
    boundaries = np.array(attribute(node, "boundaries"), np.float32)

    def build(x: Value) -> Value:
        x = x if x.dtype == np.float64 else x.cast(np.float32)
        not_above = x.unsqueeze(-1) >= x.like(boundaries)
        return not_above.cast(np.int32).reduce("Sum", -1)

    replace_node(graph, node, build)


def lower_bound(graph: Any, node: Any, name: str, args: Any) -> None:
    """For each value, the number of elements of its row of sorted numbers that are smaller."""
    _count(graph, node, lambda numbers, value: numbers < value)


def upper_bound(graph: Any, node: Any, name: str, args: Any) -> None:
    """For each value, the number of elements of its row of sorted numbers that are not larger."""
    _count(graph, node, lambda numbers, value: numbers <= value)


def _count(graph: Any, node: Any, compare: Callable[[Value, Value], Value]) -> None:
    dtype = numpy_dtype(attribute(node, "out_type"))

    def build(numbers: Value, values: Value) -> Value:
        found = compare(numbers.unsqueeze(1), values.unsqueeze(2))
        return found.cast(dtype).reduce("Sum", 2)

    replace_node(graph, node, build)


def in_top_k(predictions: Value, targets: Value, k: Value) -> Value:
    """Whether fewer than k predictions of a row are larger than that of the target.

    False if a prediction of the row is infinite or NaN, or if the target is out of range.
    """
    indices = arange(predictions.size(1)).cast(targets.dtype)
    is_target = indices.equals(targets.unsqueeze(1))
    of_target = is_target.where(predictions, 0).reduce("Sum", 1, keep=True)
    larger = (predictions > of_target).cast(k.dtype).reduce("Sum", 1)
    finite = (predictions - predictions).equals(0)  # infinity minus infinity is NaN
    all_finite = finite.cast(np.int32).reduce("Min", 1).equals(1)
    in_range = is_target.cast(np.int32).reduce("Max", 1).equals(1)
    return (larger < k) & all_finite & in_range


def top_k(graph: Any, node: Any, name: str, args: Any) -> None:
    """The k largest elements along the last axis. (tf2onnx treats unsigned numbers as signed.)"""
    is_sorted = attribute(node, "sorted")

    def build(x: Value, k: Value) -> list[Value]:
        count = k.cast(np.int64).reshape(1)
        values, indices = x.ops("TopK", count, outputs=2, axis=-1, sorted=is_sorted)
        return [values, indices.cast(np.int32)]

    replace_node(graph, node, build)


def one_hot(graph: Any, node: Any, name: str, args: Any) -> None:
    """A new axis with the value `on` at the index given by the element, and `off` elsewhere."""
    axis = attribute(node, "axis")

    def build(indices: Value, depth: Value, on: Value, off: Value) -> Value:
        new_axis = axis % (indices.rank + 1)
        positions = arange(depth.cast(np.int64)).cast(indices.dtype)
        axes_after = indices.rank - new_axis
        if axes_after:
            positions = positions.reshape(-1, *[1] * axes_after)
        hot = indices.unsqueeze(new_axis).equals(positions)
        return hot if on.dtype == np.bool_ and _true_and_false(on, off) else hot.where(on, off)

    replace_node(graph, node, build)


def bincount(graph: Any, node: Any, name: str, args: Any) -> None:
    """For each row, how often each number from 0 to size - 1 occurs, or the sum of its weights.

    With `binary_output`, whether it occurs.
    """
    binary = attribute(node, "binary_output")

    def build(numbers: Value, size: Value, weights: Value) -> Value:
        bins = arange(size.cast(np.int64)).cast(numbers.dtype)
        in_bin = numbers.unsqueeze(-1).equals(bins)
        if binary:
            return in_bin.cast(np.int32).reduce("Max", -2).cast(weights.dtype)
        shape = weights.shape
        if shape is None:
            raise UnsupportedUseError("it is not known whether the weights are empty")
        counts = (
            in_bin.cast(weights.dtype) if 0 in shape else in_bin.where(weights.unsqueeze(-1), 0)
        )
        return counts.reduce("Sum", -2)

    replace_node(graph, node, build)


def _true_and_false(on: Value, off: Value) -> bool:
    """Whether the two values are the constants true and false."""
    return on.constant is not None and bool(on.constant) and not off.constant
