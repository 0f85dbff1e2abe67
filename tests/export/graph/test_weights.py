"""Large weights beside the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import reference
from generators import tiny
from layertap_export.graph.weights import LARGE, Initializers, is_stub, weights_to_initializers

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

node, value = tiny.node, tiny.value
W = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)


def test_a_large_value_is_kept_and_not_copied() -> None:
    initializers = Initializers()
    array = np.zeros(LARGE // 4, np.float32).reshape(-1, 2).T
    made = initializers.make(array, "w")
    assert (made.name, list(made.dims), made.data_type) == ("w", [2, LARGE // 8], TensorProto.FLOAT)
    assert is_stub(made)
    assert made.ByteSize() < 100
    assert initializers.value(made) is array


def test_a_small_value_is_in_the_graph() -> None:
    initializers = Initializers()
    array = np.zeros(LARGE // 4 - 1, np.float32)
    made = initializers.make(array, "b")
    assert not is_stub(made)
    np.testing.assert_array_equal(numpy_helper.to_array(made), array)
    np.testing.assert_array_equal(initializers.value(made), array)


def converted(*nodes: onnx.NodeProto, outputs: str = "y", **constants: object) -> onnx.ModelProto:
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
def test_what_is_done_to_a_weight_alone_is_computed(
    nodes: list[onnx.NodeProto], constants: dict[str, object], expected: np.ndarray
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


def test_what_needs_more_than_the_weight_stays() -> None:
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
