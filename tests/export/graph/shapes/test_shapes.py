"""What is known of tensors before a graph runs, compared with what onnxruntime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import reference
from generators.tiny import constant, model, node, value, weights
from layertap_export.graph.shapes.shapes import Shapes
from layertap_export.graph.weights import STUB_BYTES, Initializers

FREE = ["n", "h", "w"]


def inferred(nodes: list[Any], more: list[Any] | None = None, opset: int = 18) -> Shapes:
    """Of a graph over images x `(n, 3, h, w)`."""
    return Shapes(images(nodes, more, opset))


def images(nodes: list[Any], more: list[Any] | None = None, opset: int = 18) -> onnx.ModelProto:
    return model(
        nodes,
        [value("x", ["n", 3, "h", "w"])],
        [value("y", None)],
        [weights("k", 4, 3, 3, 3), weights("t", 3, 5, 2, 2), *(more or [])],
        opset=opset,
    )


FORMS: dict[str, tuple[list[Any], list[Any], list[str]]] = {
    "valid": ([node("Conv", "x k", "y")], [], ["n", "4", "-2 + h", "-2 + w"]),
    "strides": (
        [node("Conv", "x k", "y", strides=[2, 2], pads=[1, 1, 1, 1])],
        [],
        ["n", "4", "(1 + h) // 2", "(1 + w) // 2"],
    ),
    "same": (
        [node("Conv", "x k", "y", strides=[2, 1], auto_pad="SAME_UPPER")],
        [],
        ["n", "4", "(1 + h) // 2", "w"],
    ),
    "transposed": (
        [node("ConvTranspose", "x t", "y", strides=[2, 3])],
        [],
        ["n", "5", "2 * h", "-1 + 3 * w"],
    ),
    "pooled": (
        [node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2, 2])],
        [],
        ["n", "3", "(h) // 2", "(w) // 2"],
    ),
    "ceil": (
        [node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)],
        [],
        ["n", "3", "y[2]", "y[3]"],
    ),
    "flat": ([node("Flatten", "x", "y")], [], ["n", "3 * h * w"]),
    "reshaped": ([node("Reshape", "x to", "y")], [constant("to", [0, -1, 3])], ["n", "h * w", "3"]),
    "joined": ([node("Concat", "x x", "y", axis=-1)], [], ["n", "3", "h", "2 * w"]),
    "sliced": (
        [node("Slice", "x from to axes", "y")],
        [constant("from", [1, 2]), constant("to", [-1, 2**62]), constant("axes", [2, 3])],
        ["n", "3", "-2 + h", "-2 + w"],
    ),
    "sliced to a number": (
        [node("Slice", "x from to axes", "y")],
        [constant("from", [0]), constant("to", [5]), constant("axes", [2])],
        ["n", "3", "y[2]", "w"],
    ),
    "padded": (
        [node("Pad", "x pads", "y")],
        [constant("pads", [0, 0, 1, 2, 0, 0, 3, -1])],
        ["n", "3", "4 + h", "1 + w"],
    ),
    "tiled": (
        [node("Tile", "x repeats", "y")],
        [constant("repeats", [1, 2, 1, 3])],
        ["n", "6", "h", "3 * w"],
    ),
    "resized": (
        [node("Resize", "x _ scales", "y")],
        [constant("scales", [1, 1, 2, 1], np.float32)],
        ["n", "3", "2 * h", "w"],
    ),
    "to depth": (
        [node("SpaceToDepth", "x", "y", blocksize=2)],
        [],
        ["n", "12", "(h) // 2", "(w) // 2"],
    ),
    "added": (
        [
            node("Conv", "x k", "a", strides=[2, 2], pads=[1, 1, 1, 1]),
            node("AveragePool", "x", "b", kernel_shape=[1, 1], strides=[2, 2]),
            node("Concat", "a b", "y", axis=1),
        ],
        [],
        ["n", "7", "(1 + h) // 2", "(1 + w) // 2"],
    ),
    "computed": (
        [
            node("Shape", "x", "sizes"),
            node("Slice", "sizes from to", "outer"),
            node("Concat", "outer rest", "target", axis=0),
            node("Reshape", "x target", "y"),
        ],
        [constant("from", [0]), constant("to", [2]), constant("rest", [-1])],
        ["n", "3", "h * w"],
    ),
    "computed by arithmetic": (
        [
            node("Shape", "x", "sizes", start=2, end=4),
            node("Mul", "sizes two", "double"),
            node("Shape", "x", "outer", end=2),
            node("Concat", "outer double", "target", axis=0),
            node("Resize", "x _ _ target", "y"),
        ],
        [constant("two", [2])],
        ["n", "3", "2 * h", "2 * w"],
    ),
    "expanded as PyTorch does": (
        [
            node("Shape", "x", "sizes"),
            node("Equal", "wanted minus", "open"),
            node("Where", "open sizes wanted", "target"),
            node("Expand", "one target", "y"),
        ],
        [
            constant("wanted", [-1, 3, 7, -1]),
            constant("minus", -1),
            constant("one", np.ones((1, 3, 1, 1)), np.float32),
        ],
        ["n", "3", "7", "w"],
    ),
    "partly known": (
        [
            node("Shape", "x", "outer", end=2),
            node("ReduceMax", "x", "number", keepdims=0),
            node("Cast", "number", "whole", to=7),
            node("Reshape", "whole one", "rest"),
            node("Concat", "outer rest", "target", axis=0),
            node("Reshape", "x target", "y"),
        ],
        [constant("one", [1])],
        ["n", "3", "y[2]"],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_free_sizes(name: str) -> None:
    nodes, more, expected = FORMS[name]
    dims = inferred(nodes, more).dims("y")
    assert [str(size) for size in dims or ()] == expected


@pytest.mark.parametrize("name", [name for name in FORMS if name != "partly known"])
def test_known_sizes_are_those_that_onnxruntime_computes(name: str) -> None:
    """With sizes put in for the names."""
    nodes, more, _ = FORMS[name]
    made = images(nodes, more)
    sizes = {"n": 2, "h": 9, "w": 8} if name != "to depth" else {"n": 2, "h": 6, "w": 8}
    x = np.ones((sizes["n"], 3, sizes["h"], sizes["w"]), np.float32)
    (result,) = reference.run(made, ["y"], {"x": x})
    dims = Shapes(made).dims("y")
    assert dims is not None
    assert len(dims) == result.ndim
    for size, real in zip(dims, result.shape, strict=True):
        text = str(size)
        assert "[" in text or eval(text, {}, sizes) == real


def test_values_and_dtypes() -> None:
    shapes = inferred(
        [
            node("Shape", "x", "sizes"),
            node("Gather", "sizes first", "channels", axis=0),
            node("Mul", "channels two", "double"),
            node("Greater", "x zero", "positive"),
            node("Cast", "positive", "y", to=11),
        ],
        [constant("first", 1), constant("two", 2), constant("zero", 0, np.float32)],
    )
    sizes = shapes.integers("sizes")
    assert sizes is not None
    assert [str(size) for size in sizes] == ["n", "3", "h", "w"]
    assert shapes.value("sizes") is None
    assert shapes.value("double") == 6
    assert shapes.dtype("positive") == onnx.TensorProto.BOOL
    assert shapes.dtype("y") == onnx.TensorProto.DOUBLE
    assert shapes.dtype("nowhere") == 0
    assert shapes.dims("nowhere") is None
    assert shapes.batch == {"n"}


def test_an_initialiser_that_may_be_fed_is_no_constant() -> None:
    made = model(
        [node("Reshape", "x to", "y")],
        [value("x", ["n", 4]), value("to", [2], onnx.TensorProto.INT64)],
        [value("y", None)],
        [constant("to", [-1, 2])],
    )
    shapes = Shapes(made)
    assert shapes.value("to") is None
    assert [str(size) for size in shapes.dims("y") or ()] == ["y[0]", "y[1]"]


def test_sizes_that_inference_leaves_open_are_taken_from_the_file() -> None:
    made = model(
        [node("Own", "x", "a", domain="own"), node("Relu", "a", "y")],
        [value("x", ["n", 4])],
        [value("y", ["n", 4])],
        domains={"own": 1},
    )
    made.graph.value_info.append(value("a", ["m", 4]))
    dims = Shapes(made).dims("y")
    assert [str(size) for size in dims or ()] == ["a[0]", "4"]


def test_tensors_inside_a_body_have_dtypes_too() -> None:
    body = onnx.helper.make_graph(
        [node("Cast", "x", "half", to=10), node("Mul", "half factor", "inner")],
        "body",
        [],
        [value("inner", None, 0)],
        [constant("factor", 2, np.float16)],
    )
    shapes = inferred(
        [
            onnx.helper.make_node("If", ["yes"], ["z"], then_branch=body, else_branch=body),
            node("Identity", "x", "y"),
        ],
        [constant("yes", True, bool)],
    )
    assert [shapes.dtype(name) for name in ("half", "factor", "inner")] == [10, 10, 10]
    assert shapes.dims("inner") == shapes.dims("x")


def test_a_large_weight_outside_the_graph_has_a_shape_and_no_value() -> None:
    array = np.zeros(STUB_BYTES, np.float32)
    shapes = inferred([node("Identity", "x", "y")], [Initializers().make(array, "table")])
    assert shapes.dims("table") == (STUB_BYTES,)
    assert shapes.value("table") is None
