"""Finding makers and readers of tensors, and parts of a graph."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import reference
from generators.tiny import model, node, value, weights
from layertap_export.graph.graph import (
    between,
    captured,
    in_order,
    leading_to,
    makers,
    opset_of,
    prune,
    read_counts,
    reads,
    subgraph,
)

NODES = [
    node("Neg", "x", "a"),
    node("Exp", "a", "b"),
    node("Abs", "x", "c"),
    node("Add", "b c", "d"),
    node("Relu", "b", "e"),
    node("Mul", "d w", "f"),
]


def made() -> onnx.ModelProto:
    return model(
        NODES, [value("x", [2, 3])], [value("f", [2, 3]), value("e", [2, 3])], [weights("w", 2, 3)]
    )


def outputs(nodes: list[onnx.NodeProto]) -> str:
    return " ".join(item.output[0] for item in nodes)


def test_makers_are_in_the_order_of_the_nodes_and_leave_out_missing_outputs() -> None:
    nodes = [*NODES[:2], helper.make_node("MaxPool", ["a"], ["p", ""])]
    assert list(makers(nodes)) == ["a", "b", "p"]
    assert makers(nodes)["b"] is nodes[1]


def test_a_kept_tensor_counts_as_read() -> None:
    assert read_counts(NODES, ["e", "f"]) == Counter("xxabbcdwef")


def test_a_body_reads_what_it_captures() -> None:
    inner = helper.make_graph(
        [node("Add", "outer own", "y"), node("Neg", "y", "z")],
        "body",
        [],
        [value("z", None), value("passed", None)],
        [weights("own", 2)],
    )
    whole = helper.make_node("If", ["choice"], ["r"], then_branch=inner, else_branch=inner)
    assert captured(inner) == ["outer", "passed"]
    assert reads(whole) == ["choice", "outer", "passed", "outer", "passed"]


@pytest.mark.parametrize(
    ("tensors", "given", "nodes", "needed"),
    [
        (["f"], (), "a b c d f", "a b c d f w x"),
        (["e"], (), "a b e", "a b e x"),
        (["f"], ("d",), "f", "d f w"),
        (["f", "e"], ("b",), "c d e f", "b c d e f w x"),
        (["x"], (), "", "x"),
        (["b"], ("b",), "", "b"),
    ],
)
def test_the_nodes_that_lead_to_tensors(
    tensors: list[str], given: tuple[str, ...], nodes: str, needed: str
) -> None:
    part = leading_to(NODES, tensors, given)
    assert outputs(part.nodes) == nodes
    assert " ".join(sorted(part.needed)) == needed


@pytest.mark.parametrize(
    ("starts", "ends", "expected"),
    [
        (["x"], ["f"], "a b c d f"),
        (["b"], ["f"], "d f"),
        (["b"], ["e", "f"], "d e f"),
        (["c"], ["e"], ""),
        (["f"], ["f"], ""),
    ],
)
def test_the_nodes_between_tensors(starts: list[str], ends: list[str], expected: str) -> None:
    assert outputs(between(NODES, starts, ends)) == expected


def test_pruning_removes_nodes_and_weights() -> None:
    pruned = made()
    prune(pruned, ["e"])
    assert outputs(list(pruned.graph.node)) == "a b e"
    assert list(pruned.graph.initializer) == []


def test_a_subgraph_computes_the_same_from_what_is_given() -> None:
    whole = made()
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    b, expected = reference.run(whole, ["b", "f"], {"x": x})
    part = subgraph(whole, ["f"], {"b": (TensorProto.FLOAT, 2), "x": (TensorProto.FLOAT, 2)})
    assert [item.name for item in part.graph.input] == ["b", "x"]
    (found,) = reference.run(part, ["f"], {"b": b, "x": x})
    np.testing.assert_array_equal(found, expected)


def test_the_opset_of_a_domain() -> None:
    imports = [helper.make_opsetid("own", 3), helper.make_opsetid("ai.onnx", 17)]
    graph = helper.make_graph([], "empty", [], [])
    found = helper.make_model(graph, opset_imports=imports)
    assert [opset_of(found, name) for name in ("", "ai.onnx", "own", "other")] == [17, 17, 3, 0]


# --- Topological order ----------------------------------------------------------------------------


def test_nodes_in_order_stay_as_they_are() -> None:
    assert in_order(NODES) == NODES


def test_shuffled_nodes_are_put_in_an_order_in_which_they_can_run() -> None:
    for seed in range(20):
        shuffled = [NODES[i] for i in np.random.default_rng(seed).permutation(len(NODES))]
        known = {"x", "w"}
        for one in in_order(shuffled):
            assert known.issuperset(one.input)
            known.update(one.output)
        assert len(known) == 2 + len(NODES)


def test_no_node_of_a_circle_is_lost() -> None:
    circle = [node("Neg", "b", "a"), node("Exp", "a", "b"), node("Abs", "x", "c")]
    assert in_order(circle) == [circle[2], *circle[:2]]
