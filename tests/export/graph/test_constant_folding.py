"""What a graph computes from constants is computed while the file is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import reference
from generators import tiny
from layertap_export.graph.constant_folding import compute, constant_of, weights_to_initializers
from layertap_export.graph.weights import Initializers

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

node, value = tiny.node, tiny.value
W = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)

IMPORTS = [helper.make_opsetid("", 18)]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": numpy_helper.from_array(W)}, W),
        ({"value_int": 3}, np.array(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4])),
        ({"value_float": 0.5}, np.array(0.5, np.float32)),
        ({"value_floats": [0.5, 2]}, np.array([0.5, 2], np.float32)),
    ],
)
def test_the_value_of_a_constant_node(attributes: dict[str, Any], expected: np.ndarray) -> None:
    made = constant_of(helper.make_node("Constant", [], ["y"], **attributes))
    assert made is not None
    found = numpy_helper.to_array(made)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


def test_text_and_other_nodes_are_no_constants() -> None:
    assert constant_of(helper.make_node("Constant", [], ["y"], value_string="a")) is None
    assert constant_of(node("Neg", "x", "y")) is None


ARRAYS = {
    "Identity": (node("Identity", "w", "y"), {}),
    "Cast": (node("Cast", "w", "y", to=TensorProto.INT64), {}),
    "Cast to text": (node("Cast", "w", "y", to=TensorProto.STRING), {}),
    "Transpose": (node("Transpose", "w", "y", perm=[2, 0, 1]), {}),
    "Transpose all": (node("Transpose", "w", "y"), {}),
    "Reshape": (node("Reshape", "w to", "y"), {"to": [0, -1]}),
    "Reshape of nothing": (node("Reshape", "none to", "y", allowzero=1), {"to": [0, 3]}),
    "Unsqueeze": (node("Unsqueeze", "w at", "y"), {"at": [0, -1]}),
    "Squeeze": (node("Squeeze", "one at", "y"), {"at": [0]}),
    "Squeeze all": (node("Squeeze", "one", "y"), {}),
    "Add": (node("Add", "w one", "y"), {}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_nodes_are_computed_as_the_reference_does(name: str) -> None:
    item, constants = ARRAYS[name]
    values: dict[str, np.ndarray] = {"w": W * 3, "one": W[:1, :1], "none": np.zeros((0, 5))}
    values |= {key: np.array(data, np.int64) for key, data in constants.items()}
    values = {key: values[key] for key in item.input}
    found = compute(item, values, IMPORTS)
    graph = helper.make_graph(
        [item],
        "one",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in values.items()
        ],
        [helper.make_empty_tensor_value_info("y")],
    )
    model = helper.make_model(graph, opset_imports=IMPORTS)
    evaluator: Any = onnx.reference.ReferenceEvaluator(model)
    (expected,) = evaluator.run(None, values)
    assert found is not None
    np.testing.assert_array_equal(found[0], expected)
    assert found[0].dtype == expected.dtype


@pytest.mark.parametrize(
    "item",
    [
        node("RandomNormalLike", "w", "y"),
        node("Bernoulli", "w", "y"),
        node("Det", "one", "y"),  # of a matrix that is not square, which the package refuses
        helper.make_node("Range", [], ["y"]),
        node("Neg", "w", "y", domain="own"),
    ],
    ids=lambda item: item.domain + item.op_type,
)
def test_a_node_without_a_fixed_result_is_left_to_the_runtime(item: onnx.NodeProto) -> None:
    assert compute(item, {"w": W, "one": W[:1, :1]}, IMPORTS) is None


def converted(*nodes: onnx.NodeProto, outputs: str = "y", **constants: Any) -> onnx.ModelProto:
    """What a converter leaves where a weight `w` is a graph input; all outputs are float."""
    return tiny.model(
        nodes,
        [value("x", None), value("w", W.shape)],
        [value(name, None) for name in outputs.split()],
        [tiny.constant(name, data) for name, data in constants.items()],
    )


@pytest.mark.parametrize(
    ("nodes", "constants", "expected"),
    [
        ([], {}, W),
        ([node("Identity", "w", "v")], {}, W),
        ([node("Transpose", "w", "v")], {}, W.T),
        ([node("Transpose", "w", "v", perm=[1, 0, 2])], {}, W.transpose(1, 0, 2)),
        ([node("Reshape", "w to", "v")], {"to": [4, -1]}, W.reshape(4, 15)),
        ([node("Unsqueeze", "w at", "v")], {"at": [0, 2]}, W[None, :, None]),
        (
            [node("Unsqueeze", "w at", "u"), node("Squeeze", "u at", "v")],
            {"at": [1]},
            W,
        ),
        (
            [node("Cast", "w", "h", to=TensorProto.FLOAT16), node("Cast", "h", "v", to=1)],
            {},
            W.astype(np.float16).astype(np.float32),
        ),
    ],
)
def test_nodes_on_a_weight_alone_are_computed(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], expected: np.ndarray
) -> None:
    read = nodes[-1].output[0] if nodes else "w"
    model = converted(*nodes, node("Mul", f"x {read}", "y"), **constants)
    weights_to_initializers(model, {"w": W}, Initializers())
    assert [item.op_type for item in model.graph.node] == ["Mul"]
    assert [item.name for item in model.graph.input] == ["x"]
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    np.testing.assert_array_equal(weights[read], expected)


def test_older_opsets_have_axes_as_an_attribute() -> None:
    model = converted(node("Unsqueeze", "w", "v", axes=[0]), node("Mul", "x v", "y"))
    weights_to_initializers(model, {"w": W}, Initializers())
    assert numpy_helper.to_array(model.graph.initializer[0]).shape == (1, 3, 4, 5)


def test_nodes_that_read_more_than_the_weight_stay() -> None:
    nodes = [
        node("Transpose", "w", "t"),
        node("Transpose", "w", "again"),
        node("Reshape", "w x", "r"),  # the shape is fed
        node("Mul", "t again", "m"),
        node("Neg", "w", "n"),
        node("Transpose", "w", "out"),
    ]
    model = converted(*nodes, outputs="r m n out")
    weights_to_initializers(model, {"w": W}, Initializers())
    graph = model.graph
    assert [(item.op_type, list(item.input)) for item in graph.node] == [
        ("Reshape", ["w", "x"]),
        ("Mul", ["t", "t"]),  # computed once
        ("Neg", ["w"]),
    ]
    assert [item.name for item in graph.initializer] == ["w", "t", "out"]


def test_the_model_computes_what_it_did() -> None:
    nodes = [node("Transpose", "w", "t"), node("Reshape", "t to", "m"), node("MatMul", "x m", "y")]
    before = converted(*nodes, to=[20, 3])
    after = onnx.ModelProto()
    after.CopyFrom(before)
    weights_to_initializers(after, {"w": W}, Initializers())
    x = np.random.default_rng(1).normal(size=(2, 20)).astype(np.float32)
    (expected,) = reference.run(before, ["y"], {"x": x, "w": W})
    (found,) = reference.run(after, ["y"], {"x": x})
    np.testing.assert_array_equal(found, expected)
