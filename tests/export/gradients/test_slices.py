"""Slices of every form: the gradient is put back to where the elements were taken from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from generators.gradient_rules.operators import Backward
from generators.tiny import model, node, value

ENDS = st.none() | st.integers(-6, 6)
SLICES = st.builds(slice, ENDS, ENDS, st.sampled_from([None, 1, 2, 3, -1, -2, -3]))


def as_inputs(slices: list[slice]) -> dict[str, np.ndarray]:
    """The inputs of ONNX's Slice: an open end is a number beyond all sizes."""
    steps = [one.step or 1 for one in slices]
    far = [-(2**40) if step < 0 else 2**40 for step in steps]
    first = [0 if step > 0 else -end for step, end in zip(steps, far, strict=True)]
    starts = [
        one.start if one.start is not None else start
        for one, start in zip(slices, first, strict=True)
    ]
    ends = [one.stop if one.stop is not None else end for one, end in zip(slices, far, strict=True)]
    return {
        name: np.array(values, np.int64)
        for name, values in (("starts", starts), ("ends", ends), ("steps", steps))
    }


@settings(deadline=None, max_examples=150)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    data=st.data(),
    free=st.booleans(),
    computed=st.booleans(),
)
def test_any_slice(shape: list[int], data: st.DataObject, free: bool, computed: bool) -> None:
    """Of known and free sizes, with bounds in the file and computed ones."""
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    slices = [data.draw(SLICES) for _ in axes]
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    whole = [slice(None)] * len(shape)
    for axis, one in zip(axes, slices, strict=True):
        whole[axis] = one
    weights = np.random.default_rng(0).normal(size=x[tuple(whole)].shape).astype(np.float32)
    expected = np.zeros_like(x)
    expected[tuple(whole)] = weights

    bounds = as_inputs(slices)
    dims = [f"d{axis}" if free else size for axis, size in enumerate(shape)]
    inputs = [value("x", dims)]
    held: list[onnx.TensorProto] = [constant("axes", np.array(axes))]
    if computed:
        inputs += [value(name, [len(axes)], TensorProto.INT64) for name in bounds]
    else:
        held += [constant(name, array) for name, array in bounds.items()]
    made = model(
        [node("Slice", "x starts ends axes steps", "y")],
        inputs,
        [value("y", [None] * len(shape))],
        held,
    )
    feeds = {"x": x, **(bounds if computed else {})}
    found = Backward.of(made).run(feeds, weights)["x"]
    np.testing.assert_array_equal(found, expected)


def constant(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array.astype(np.int64), name)


def test_a_free_axis_may_be_shorter_than_the_slice_leaves_out() -> None:
    made = model(
        [node("Slice", "x two three axes", "y")],
        [value("x", ["n", "t"])],
        [value("y", ["n", None])],
        [constant(name, np.array([number])) for name, number in (("two", 2), ("three", 3))]
        + [constant("axes", np.array([1]))],
    )
    for size in range(5):
        x = np.ones((2, size), np.float32)
        weights = np.full((2, max(min(size, 3) - 2, 0)), 7, np.float32)
        found = Backward.of(made).run({"x": x}, weights)["x"]
        expected = np.zeros_like(x)
        expected[:, 2:3] = 7
        np.testing.assert_array_equal(found, expected)


def test_computed_axes_are_refused() -> None:
    from layertap_export import GradientError

    made = model(
        [node("Slice", "x one two axes", "y")],
        [value("x", ["n", 4]), value("axes", [1], TensorProto.INT64)],
        [value("y", [None, None])],
        [constant("one", np.array([1])), constant("two", np.array([2]))],
    )
    with pytest.raises(GradientError, match="Slice with computed axes"):
        Backward.of(made)
