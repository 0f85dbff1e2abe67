"""Multiply-adds of operators, by the formulas of the layers that they compute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import layertap
from layertap.measuring.operations import multiply_adds

Shape = tuple[int, ...]


def cost(
    op: str, shapes: dict[str, Shape], weights: dict[str, Shape], outputs: str = "y", **more: Any
) -> int:
    """The multiply-adds of a file with one node."""
    opset = more.pop("opset", 18)
    node = helper.make_node(op, [*shapes, *weights], outputs.split(), name="node", **more)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items()],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in outputs.split()],
        [numpy_helper.from_array(np.zeros(v, np.float32), k) for k, v in weights.items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset > 18 else 8
    )
    return layertap.open(made.SerializeToString()).cost().multiply_adds


CASES: list[tuple[str, int, tuple[Any, ...], dict[str, Any]]] = [
    # Conv2D: height * width * window * channels in and out
    ("Conv", 10 * 8 * 3 * 3 * 4 * 6, ({"x": (1, 4, 10, 8)}, {"w": (6, 4, 3, 3)}),
     {"pads": [1, 1, 1, 1]}),
    ("Conv", 5 * 4 * 3 * 3 * 4 * 6, ({"x": (1, 4, 10, 8)}, {"w": (6, 4, 3, 3)}),
     {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    # DepthwiseConv2D, with two outputs of each channel
    ("Conv", 8 * 6 * 3 * 3 * 4 * 2, ({"x": (1, 4, 10, 8)}, {"w": (8, 1, 3, 3)}), {"group": 4}),
    # Conv1D with dilation, Conv3D
    ("Conv", 6 * 3 * 4 * 6, ({"x": (1, 4, 10)}, {"w": (6, 4, 3)}), {"dilations": [2]}),
    ("Conv", 4 * 4 * 4 * 2 * 2 * 2 * 3 * 5, ({"x": (1, 3, 5, 5, 5)}, {"w": (5, 3, 2, 2, 2)}), {}),
    # Conv2DTranspose: each input is spread
    ("ConvTranspose", 5 * 4 * 3 * 3 * 4 * 6, ({"x": (1, 4, 5, 4)}, {"w": (4, 6, 3, 3)}),
     {"strides": [2, 2]}),
    # Dense, on vectors and on sequences; a product of two batches of matrices
    ("MatMul", 7 * 9, ({"x": (1, 7)}, {"w": (7, 9)}), {}),
    ("MatMul", 5 * 7 * 9, ({"x": (1, 5, 7)}, {"w": (7, 9)}), {}),
    ("MatMul", 2 * 3 * 4 * 5 * 6, ({"x": (2, 3, 4, 5), "z": (2, 3, 5, 6)}, {}), {}),
    ("Gemm", 7 * 9, ({"x": (1, 7)}, {"w": (9, 7)}), {"transB": 1}),
    ("Gemm", 4 * 7 * 9, ({"x": (7, 4)}, {"w": (7, 9)}), {"transA": 1}),
    # EinsumDense, and attention scores
    ("Einsum", 5 * 7 * 2 * 3, ({"x": (1, 5, 7)}, {"w": (7, 2, 3)}), {"equation": "abc,cde->abde"}),
    ("Einsum", 2 * 4 * 6 * 5 * 3, ({"x": (2, 4, 5, 3), "z": (2, 4, 6, 3)}, {}),
     {"equation": "...id,...jd->...ij"}),
    ("Einsum", 0, ({"x": (4, 4)}, {}), {"equation": "ii->i"}),
    # LSTM, GRU and RNN: gates times units times inputs and units, in each step and direction
    ("LSTM", 5 * 4 * 8 * (6 + 8), ({"x": (5, 1, 6)}, {"w": (1, 32, 6), "r": (1, 32, 8)}),
     {"hidden_size": 8}),
    ("GRU", 5 * 2 * 3 * 8 * (6 + 8), ({"x": (5, 1, 6)}, {"w": (2, 24, 6), "r": (2, 24, 8)}),
     {"hidden_size": 8, "direction": "bidirectional"}),
    ("RNN", 5 * 8 * (6 + 8), ({"x": (5, 1, 6)}, {"w": (1, 8, 6), "r": (1, 8, 8)}),
     {"hidden_size": 8}),
    # What is not counted
    ("Relu", 0, ({"x": (1, 7)}, {}), {}),
    ("MaxPool", 0, ({"x": (1, 2, 8, 8)}, {}), {"kernel_shape": [2, 2]}),
    ("Softmax", 0, ({"x": (1, 7)}, {}), {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "expected", "given", "more"), CASES)
def test_one_operator(op: str, expected: int, given: tuple[Any, ...], more: dict[str, Any]) -> None:
    assert cost(op, *given, **more) == expected


@pytest.mark.skipif(
    tuple(map(int, ort.__version__.split(".")[:2])) < (1, 24), reason="needs opset 23"
)
def test_attention_is_two_products() -> None:
    """4 heads, 5 queries, 6 keys, 3 features of a key and 2 of a value."""
    shapes: dict[str, Shape] = {"q": (1, 4, 5, 3), "k": (1, 4, 6, 3), "v": (1, 4, 6, 2)}
    assert cost("Attention", shapes, {}, opset=23) == 4 * 5 * 6 * (3 + 2)


def test_the_attention_of_onnxruntime_projects_its_input_too() -> None:
    reads, writes = ((2, 5, 12), (12, 36), (36,)), ((2, 5, 12),)
    expected = 2 * 5 * 12 * 36 + 2 * 2 * 5 * 5 * 12
    assert multiply_adds("Attention", reads, writes, domain="com.microsoft") == expected


@pytest.mark.parametrize("op", ["Conv", "MatMul", "Gemm", "LSTM", "Attention", "QLinearConv"])
def test_shapes_that_do_not_fit_an_operator_are_not_counted(op: str) -> None:
    """An operator of another domain may have the same name."""
    assert multiply_adds(op, ((),), ((),)) == 0


def test_the_operators_of_a_loop_count_as_often_as_they_run() -> None:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["next"], name="step"),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, 7]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, 7]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "", "x"], ["y"], name="loop", body=body)],
        "looped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 7])],
        [
            numpy_helper.from_array(np.array(5), "times"),
            numpy_helper.from_array(np.zeros((7, 7), np.float32), "w"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    found = layertap.open(made.SerializeToString()).cost()
    assert found.multiply_adds == found["y"].multiply_adds == 5 * math.prod((7, 7))
