"""Small expressions that several parts of a finished graph need."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto, helper

from layertap_export.gradients.builder import Builder, Value

INPUT_REDUCTIONS = 18
"""The opset since which the axes of ReduceMax and others are an input, not an attribute."""


def scalar(value: Value) -> Value:
    """A vector of one as a number without axes."""
    return value.op("Squeeze")


def reduced(build: Builder, op_type: str, value: Value, axes: Sequence[int]) -> Value:
    """A reduction that keeps its axes, in the form that the opset of the graph has.

    ReduceSum takes its axes as an input since opset 13.
    """
    if op_type == "ReduceSum" or build.opset >= INPUT_REDUCTIONS:
        return value.op(op_type, build.int64(axes), keepdims=1)
    return value.op(op_type, axes=list(axes), keepdims=1)


def positions(build: Builder, count: Value) -> Value:
    """0, 1, 2, ... for a vector of one with their number, int64."""
    return build.node("Range", build.int64(0), scalar(count), build.int64(1))


def as_double(value: Value) -> Value:
    """The values in float64."""
    return value.cast(TensorProto.DOUBLE)


def or_one(value: Value) -> Value:
    """The values, with 1 in place of 0: divisors of what is 0 then."""
    return value.equals(0.0).where(value.like(1.0), value)


def reshaped(build: Builder, value: Value, *sizes: Value | int) -> Value:
    """The values in another shape; sizes are numbers, or vectors that the graph computes."""
    return value.op("Reshape", build.vector(sizes))


def part(build: Builder, value: Value, axis: int, start: int | Value, end: int | Value) -> Value:
    """A slice along one axis."""
    starts, ends = (one if isinstance(one, Value) else build.int64([one]) for one in (start, end))
    return value.op("Slice", starts, ends, build.int64([axis]))


def either(build: Builder, condition: Value, yes: Value, no: Value, *, rank: int) -> Value:
    """One of two values of different shapes, for a condition without axes."""
    branches = {}
    for word, value in (("then_branch", yes), ("else_branch", no)):
        name = build.free_name(f"{build.prefix}{word}")
        made = helper.make_tensor_value_info(name, value.dtype, [None] * rank)
        node = helper.make_node("Identity", [value.name], [name], name=name)
        branches[word] = helper.make_graph([node], word, [], [made])
    chosen = build.node("If", condition, **branches)
    return Value(build, chosen.name, yes.dtype)
