"""Putting batch normalisations and biases back together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import reference
from generators import tiny
from layertap_export.graph.passes.fuse import fuse

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

node, weights, constant = tiny.node, tiny.weights, tiny.constant
X = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
CONV = node("Conv", "x w", "conv")
KERNEL = weights("w", 6, 3, 2, 2)


def channels(name: str, count: int = 6) -> onnx.TensorProto:
    return weights(name, 1, count, 1, 1)


def fused(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto],
    keep: str = "y",
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """The model after the pass, which must not change the kept tensors."""
    names = keep.split()
    model = tiny.model(
        nodes,
        [tiny.value("x", ("n", 3, 4, 5), dtype)],
        [tiny.value(name, (None,) * 4, dtype) for name in names],
        initializers,
    )
    feeds = {"x": X if dtype == TensorProto.FLOAT else (X * 9).astype(np.int32)}
    expected = reference.run(model, names, feeds)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: tuple(d.dim_value or None for d in value.type.tensor_type.shape.dim)
        for value in [*inferred.value_info, *inferred.output, *inferred.input]
    }
    fuse(model, shapes, names)
    onnx.checker.check_model(model, full_check=True)
    for actual, value in zip(reference.run(model, names, feeds), expected, strict=True):
        reference.same(actual, value)
    return model


def ops(model: onnx.ModelProto) -> list[str]:
    return [item.op_type for item in model.graph.node]


def names_of_weights(model: onnx.ModelProto) -> set[str]:
    return {item.name for item in model.graph.initializer}


def test_scale_and_offset_are_a_batch_normalisation() -> None:
    model = fused(
        [CONV, node("Mul", "conv a", "scaled"), node("Add", "scaled b", "y")],
        [KERNEL, channels("a"), channels("b")],
    )
    assert ops(model) == ["Conv", "BatchNormalization"]
    assert model.graph.node[1].attribute[0].f == 0  # epsilon
    assert "a" not in names_of_weights(model)


def test_constants_may_stand_first() -> None:
    model = fused(
        [CONV, node("Mul", "a conv", "scaled"), node("Add", "b scaled", "y")],
        [KERNEL, channels("a"), channels("b")],
    )
    assert ops(model) == ["Conv", "BatchNormalization"]


def test_a_scale_alone_is_one_without_offset() -> None:
    model = fused([CONV, node("Mul", "conv a", "y")], [KERNEL, channels("a")])
    assert ops(model) == ["Conv", "BatchNormalization"]


def test_a_scale_that_is_asked_for_stays_apart() -> None:
    model = fused(
        [CONV, node("Mul", "conv a", "scaled"), node("Add", "scaled b", "y")],
        [KERNEL, channels("a"), channels("b")],
        keep="scaled y",
    )
    assert ops(model) == ["Conv", "BatchNormalization", "Add"]


def test_a_scale_that_something_else_reads_stays_apart() -> None:
    model = fused(
        [
            CONV,
            node("Mul", "conv a", "scaled"),
            node("Add", "scaled b", "shifted"),
            node("Mul", "shifted scaled", "y"),
        ],
        [KERNEL, channels("a"), channels("b")],
    )
    assert ops(model) == ["Conv", "BatchNormalization", "Add", "Mul"]


def test_an_addition_behind_a_convolution_is_its_bias() -> None:
    model = fused(
        [CONV, node("Add", "conv b", "biased"), node("Relu", "biased", "y")],
        [KERNEL, channels("b")],
    )
    assert ops(model) == ["Conv", "Relu"]
    assert len(model.graph.node[0].input) == 3


@pytest.mark.parametrize("keep", ["y", "conv y", "y z"])
def test_a_bias_of_a_convolution_that_is_needed_without_it(keep: str) -> None:
    nodes = [CONV, node("Add", "conv b", "y")]
    if "z" in keep:
        nodes.append(node("Relu", "conv", "z"))
    expected = ["Conv"] if keep == "y" else ["Conv", "Add", "Relu"][: len(nodes)]
    assert ops(fused(nodes, [KERNEL, channels("b")], keep)) == expected


def test_a_convolution_has_one_bias_only() -> None:
    model = fused(
        [node("Conv", "x w bias", "conv"), node("Add", "conv b", "y")],
        [KERNEL, weights("bias", 6), channels("b")],
    )
    assert ops(model) == ["Conv", "Add"]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(constant("a", 2, np.float32), id="one number"),
        pytest.param(weights("a", 3, 1, 1), id="of lower rank"),
        pytest.param(weights("a", 1, 3, 4, 1), id="of another axis too"),
        pytest.param(weights("a", 5), id="of the last axis"),
        pytest.param(weights("a", 2, 3, 1, 1), id="of the batch"),
    ],
)
def test_constants_that_are_not_one_per_channel(other: onnx.TensorProto) -> None:
    assert ops(fused([node("Mul", "x a", "y")], [other])) == ["Mul"]


def test_integers_are_left_alone() -> None:
    factor = constant("a", np.arange(3).reshape(1, 3, 1, 1), np.int32)
    assert ops(fused([node("Mul", "x a", "y")], [factor], dtype=TensorProto.INT32)) == ["Mul"]


def test_nodes_that_lead_to_no_kept_tensor_are_removed() -> None:
    model = fused(
        [CONV, node("Relu", "x", "y"), node("Mul", "conv a", "z")], [KERNEL, channels("a")]
    )
    assert ops(model) == ["Relu"]
    assert names_of_weights(model) == set()


def test_equal_channels_share_their_zeros_and_ones() -> None:
    nodes: list[Any] = []
    for index in range(3):
        nodes += [
            node("Mul", f"t{index} a", f"s{index}"),
            node("Add", f"s{index} b", f"t{index + 1}"),
        ]
    nodes[0].input[0] = "x"
    model = fused(nodes, [channels("a", 3), channels("b", 3)], keep="t3")
    assert ops(model) == ["BatchNormalization"] * 3
    assert len({tuple(item.input[3:]) for item in model.graph.node}) == 1


def test_vectors_are_left_alone() -> None:
    """There a scale and an offset cost no change of layout."""
    nodes = [node("ReduceMean", "x axes", "mean", keepdims=0), node("Mul", "mean a", "y")]
    axes = tiny.constant("axes", [2, 3])
    model = tiny.model(nodes, [tiny.value("x", (2, 3, 4, 5))], [], [axes, weights("a", 1, 3)])
    fuse(model, {"mean": (2, 3)}, ["y"])
    assert ops(model) == ["ReduceMean", "Mul"]
