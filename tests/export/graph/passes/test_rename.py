"""Names and order inside the file."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import reference
from generators import tiny
from layertap_export.graph.passes.rename import rename

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

node, value = tiny.node, tiny.value
X = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)

OWNERS = [("conv", "t2"), ("relu", "t3"), ("add", "t5"), ("early", "t0"), ("same", "t3")]
"""Name and output tensor of each layer."""


def two_branches(order: Sequence[int] = range(6)) -> onnx.ModelProto:
    """Nodes and weights under a converter's names; `order` is that of the nodes."""
    nodes = [
        node("Neg", "x", "t0", "Neg__17"),
        node("Conv", "t0 w9 w3", "t2", "Conv__4"),
        node("Relu", "t2", "t3", "functional_1/relu/Relu"),
        node("Conv", "x w9", "t4", "Conv__9"),
        node("Add", "t3 t4", "t5", "Add__1"),
        node("Sub", "t5 t5", "nobody", "Sub__2"),
    ]
    model = tiny.model(
        [nodes[index] for index in order],
        [value("x", (1, 3, 4, 5))],
        [],
        [tiny.weights("unread", 3), tiny.weights("w9", 2, 3, 1, 1), tiny.weights("w3", 2)],
    )
    for item in model.graph.node:
        item.name = item.name.replace("1", str(order[0]))  # numbers as they come
    return model


def test_everything_is_named_after_the_first_layer_that_needs_it() -> None:
    model = two_branches()
    new = rename(model, OWNERS, {"t2": "conv"})
    graph = model.graph
    assert [(item.name, list(item.input), list(item.output)) for item in graph.node] == [
        ("conv/Neg", ["x"], ["conv/Neg"]),
        ("conv/Conv", ["conv/Neg", "conv/Conv/W", "conv/Conv/B"], ["conv"]),
        ("relu/Relu", ["conv"], ["relu/Relu"]),
        ("add/Conv", ["x", "conv/Conv/W"], ["add/Conv"]),
        ("add/Add", ["relu/Relu", "add/Conv"], ["add/Add"]),
    ]
    assert [item.name for item in graph.initializer] == ["conv/Conv/W", "conv/Conv/B"]
    assert new["t2"] == "conv"
    assert new["t3"] == "relu/Relu"
    assert new["x"] == "x"


def test_the_values_stay() -> None:
    model = two_branches()
    expected = reference.run(model, ["t2", "t5"], {"x": X})
    new = rename(model, OWNERS, {"t2": "conv"})
    actual = reference.run(model, [new["t2"], new["t5"]], {"x": X})
    reference.same(actual, expected)


def test_the_order_of_the_nodes_that_come_does_not_matter() -> None:
    wanted = two_branches()
    rename(wanted, OWNERS, {"t2": "conv"})
    shuffle = random.Random(0)
    for _ in range(10):
        order = list(range(6))
        shuffle.shuffle(order)
        model = two_branches(order)
        rename(model, OWNERS, {"t2": "conv"})
        assert model.graph == wanted.graph


def test_no_name_is_given_twice() -> None:
    """Not even where layers bear names that would be given to nodes."""
    nodes = [node("Relu", "x", "t0"), *(node("Relu", f"t{i}", f"t{i + 1}") for i in range(4))]
    model = tiny.model(nodes, [value("x", (2,))], [])
    owners = [("a", "t2"), ("a/Relu", "t3"), ("a/Relu_1", "t4")]
    rename(model, owners, {"t3": "a/Relu"})
    assert [item.name for item in model.graph.node] == [
        "a/Relu_2",
        "a/Relu_3",
        "a/Relu_4",
        "a/Relu/Relu",
        "a/Relu_1/Relu",
    ]
    outputs = [name for item in model.graph.node for name in item.output]
    assert outputs[3] == "a/Relu"
    assert len(set(outputs)) == 5


def test_a_node_with_several_outputs() -> None:
    model = tiny.model(
        [node("Split", "x", "p q", axis=1, num_outputs=2), node("Add", "p q", "y")],
        [value("x", (1, 4))],
        [],
    )
    rename(model, [("halves", "p"), ("sum", "y")], {"p": "halves"})
    assert [list(item.output) for item in model.graph.node] == [
        ["halves", "halves/Split:1"],
        ["sum/Add"],
    ]


def test_a_weight_that_is_a_layers_output() -> None:
    model = tiny.model([], [], [], [tiny.weights("w", 3)])
    assert rename(model, [("constant", "w")], {}) == {"w": "constant/value"}
    assert [item.name for item in model.graph.initializer] == ["constant/value"]


def test_bodies_are_renamed_with_what_they_capture() -> None:
    def body(op: str) -> onnx.GraphProto:
        inner = helper.make_node("If", ["yes__1"], [f"{op}__o"], **{
            f"{branch}_branch": helper.make_graph(
                [helper.make_node(op, ["t0", "k__1"], [f"{op}__{branch}"], name="n__4")],
                "g__1",
                [],
                [value(f"{op}__{branch}", ("unk__7",))],
            )
            for branch in ("then", "else")
        })  # fmt: skip
        return helper.make_graph([inner], "g__2", [], [value(f"{op}__o", (2,))])

    model = tiny.model(
        [
            node("Relu", "x", "t0"),
            node("If", "yes__1", "t1", then_branch=body("Add"), else_branch=body("Sub")),
        ],
        [value("x", (2,))],
        [],
        [tiny.weights("k__1", 2), tiny.constant("yes__1", True, np.bool_)],
    )
    x = {"x": np.array([-1, 2], np.float32)}
    expected = reference.run(model, ["t1"], x)
    new = rename(model, [("layer", "t1")], {})
    reference.same(reference.run(model, [new["t1"]], x), expected)
    assert "__" not in str(model.graph)  # nor in the sizes of a body's tensors
    assert [item.name for item in model.graph.initializer] == [
        "layer/If/cond",
        "layer/If/captured",
    ]


def test_operators_outside_the_standard_count_their_inputs() -> None:
    model = tiny.model(
        [helper.make_node("Odd", ["x", "w"], ["y"], domain="elsewhere")],
        [value("x", (2,), TensorProto.FLOAT)],
        [],
        [tiny.weights("w", 2)],
        domains={"elsewhere": 1},
    )
    rename(model, [("layer", "y")], {})
    assert list(model.graph.node[0].input) == ["x", "layer/Odd/input_1"]
