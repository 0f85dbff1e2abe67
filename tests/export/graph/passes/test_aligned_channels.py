"""Separable convolutions in numbers of channels that are multiples of 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import reference
from generators import tiny
from layertap.comparing.measures import difference
from layertap_export.graph.graph import attribute
from layertap_export.graph.passes.aligned_channels import aligned_channels
from layertap_export.graph.weights import Initializers

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

node, weights = tiny.node, tiny.weights


def aligned(
    channels: int,
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto],
    keep: str = "y",
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """The model after the pass, which must not change the kept tensors."""
    names = keep.split()
    model = tiny.model(
        nodes,
        [tiny.value("x", ("n", channels, 6, 7), dtype)],
        [tiny.value(name, (None,) * 4, dtype) for name in names],
        initializers,
    )
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    feeds = {"x": np.random.default_rng(0).normal(size=(2, channels, 6, 7)).astype(kind)}
    expected = reference.run(model, names, feeds)
    aligned_channels(model, Initializers(), names)
    onnx.checker.check_model(model, full_check=True)
    for actual, value in zip(reference.run(model, names, feeds), expected, strict=True):
        assert difference(actual, value).scaled < 1e-6
    return model


def depthwise(
    channels: int, data: str = "x", output: str = "d", **attributes: Any
) -> onnx.NodeProto:
    return node("Conv", f"{data} w", output, group=channels, **attributes)


def groups(model: onnx.ModelProto) -> list[int]:
    return [attribute(x, "group", 1) for x in model.graph.node if x.op_type == "Conv"]


def kinds(model: onnx.ModelProto) -> list[str]:
    return [x.op_type for x in model.graph.node]


@given(
    channels=st.integers(1, 13),
    size=st.sampled_from([1, 3]),
    bias=st.booleans(),
    strides=st.sampled_from([[1, 1], [2, 1]]),
    readers=st.integers(1, 2),
)
def test_separable_convolutions_are_filled_up_to_a_multiple_of_4(
    channels: int, size: int, bias: bool, strides: list[int], readers: int
) -> None:
    """With one or two pointwise ones, which may share their weights."""
    first = node("Conv", "x w b" if bias else "x w", "d", group=channels, strides=strides)
    behind = [node("Conv", f"d p{at and channels % 2}", f"y{at}") for at in range(readers)]
    values = [weights("w", channels, 1, size, size), weights("b", channels)]
    values += [weights("p0", 3, channels, 1, 1), weights("p1", 5, channels, 1, 1)]
    keep = " ".join(f"y{at}" for at in range(readers))
    model = aligned(channels, [first, *behind], values, keep)
    lacks = channels >= 6 and channels % 4 != 0
    wanted = channels + -channels % 4 if lacks else channels
    assert groups(model)[0] == wanted
    assert kinds(model).count("Pad") == lacks
    assert not lacks or "w" not in {item.name for item in model.graph.initializer}


@pytest.mark.parametrize(
    ("nodes", "keep"),
    [
        ([depthwise(10), node("Conv", "d p", "y")], "y d"),
        ([depthwise(10), node("Relu", "d", "r"), node("Conv", "r p", "y")], "y"),
        ([depthwise(10), node("Conv", "d p", "y"), node("Relu", "d", "z")], "y z"),
        ([depthwise(10), node("Conv", "d k", "y")], "y"),
        ([depthwise(10), node("Conv", "d q", "y", group=2)], "y"),
        ([depthwise(10)], "d"),
        ([node("Add", "w w", "v"), node("Conv", "x v", "d", group=10), node("Conv", "d p", "y")],
         "y"),
        ([node("Conv", "x g", "d", group=5), node("Conv", "d p", "y")], "y"),
    ],
    ids=["shown", "relu", "other reader", "not pointwise", "groups", "none", "computed", "grouped"],
)  # fmt: skip
def test_others_stay(nodes: Sequence[onnx.NodeProto], keep: str) -> None:
    """A tensor that is shown is read by what reads it in the model: it may be changed there."""
    values = [
        weights("w", 10, 1, 3, 3),
        weights("p", 4, 10, 1, 1),
        weights("k", 4, 10, 2, 2),
        weights("q", 4, 5, 1, 1),
        weights("g", 10, 2, 3, 3),
    ]
    read = {name for x in nodes for name in x.input}
    model = aligned(10, nodes, [x for x in values if x.name in read], keep)
    assert list(model.graph.node) == list(nodes)


def test_weights_outside_the_graph_are_filled_up_there() -> None:
    large = Initializers()
    pointwise = np.ones((3000, 6, 1, 1), np.float32)
    model = tiny.model(
        [depthwise(6), node("Conv", "d p", "y")],
        [tiny.value("x", ("n", 6, 6, 7))],
        [tiny.value("y", (None,) * 4)],
        [weights("w", 6, 1, 3, 3), large.make(pointwise, "p")],
    )
    aligned_channels(model, large, ["y"])
    filled = {x.name: large.value(x) for x in model.graph.initializer}
    (name,) = [x.input[1] for x in model.graph.node if x.output[0] == "y"]
    np.testing.assert_array_equal(filled[name], np.pad(pointwise, [(0, 0), (0, 2), *[(0, 0)] * 2]))


@pytest.mark.parametrize("dtype", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_only_float32_has_the_fast_kernel(dtype: int) -> None:
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    values = [
        onnx.numpy_helper.from_array(np.ones(shape, kind), name)
        for name, shape in (("w", (10, 1, 3, 3)), ("p", (4, 10, 1, 1)))
    ]
    nodes = [depthwise(10), node("Conv", "d p", "y")]
    model = tiny.model(
        nodes,
        [tiny.value("x", ("n", 10, 6, 7), dtype)],
        [tiny.value("y", (None,) * 4, dtype)],
        values,
    )
    aligned_channels(model, Initializers(), ["y"])
    assert list(model.graph.node) == nodes
