"""Means that a layer normalisation subtracts itself are left out, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import reference
from generators import tiny
from layertap._cut.means import spared_means
from layertap._cut.plan import plan_cut
from layertap._cut.write import write_cut
from layertap._engine import program
from layertap.format.graph import read_graph

node = tiny.node
NORMALISED = [
    node("Relu", "x", "x2"),
    node("ReduceMean", "x2 axes", "mean", keepdims=1),
    node("Sub", "x2 mean", "centred"),
    node("LayerNormalization", "centred scale offset", "y", axis=-1, epsilon=1e-3),
]
FEEDS = {"x": np.random.default_rng(0).normal(1, 2, (2, 3, 4)).astype(np.float32)}


def model(nodes: Sequence[onnx.NodeProto], card: bool = False) -> onnx.ModelProto:
    layers = [tiny.layer(0, "x", "InputLayer", (None, 3, 4)), tiny.layer(1, "y", "L", (None, 3, 4))]
    return tiny.model(
        nodes,
        [tiny.value("x", ("n", 3, 4))],
        [tiny.value("y", ("n", 3, 4))],
        [
            tiny.constant("axes", [-1]),
            tiny.weights("scale", 4),
            tiny.weights("offset", 4),
        ],
        card=tiny.card(layers, {"x": (None, 3, 4)}, {"y": (None, 3, 4)}) if card else None,
    )


def lean(nodes: Sequence[onnx.NodeProto], *tensors: str) -> list[str]:
    """The operators of a cut, which computes what the model computes."""
    made = model(nodes)
    data = made.SerializeToString()
    graph = read_graph(data)
    plan = plan_cut(graph, tensors or ["y"], peeled=False)
    cut = write_cut(data, graph, plan, spared=spared_means(graph, plan))
    part = onnx.ModelProto.FromString(cut)
    names = list(tensors or ["y"])
    for one, other in zip(
        reference.run(part, names, FEEDS), reference.run(made, names, FEEDS), strict=True
    ):
        reference.same(one, other)
    read = {name for item in part.graph.node for name in item.input}
    assert {item.name for item in part.graph.initializer} <= read
    return [item.op_type for item in part.graph.node]


def test_a_mean_is_left_out() -> None:
    assert lean(NORMALISED) == ["Relu", "LayerNormalization"]


@pytest.mark.parametrize(
    ("name", "stay"),
    [("centred", ["Relu", "ReduceMean", "Sub"]), ("mean", ["Relu", "ReduceMean"])],
)
def test_what_is_asked_for_stays(name: str, stay: list[str]) -> None:
    assert lean(NORMALISED, name, "y") == [*stay, "LayerNormalization"]


def test_what_something_else_reads_stays() -> None:
    other = node("Mul", "centred centred", "square")
    whole = ["Relu", "ReduceMean", "Sub", "LayerNormalization", "Mul"]
    assert lean([*NORMALISED, other], "y", "square") == whole
    assert lean([*NORMALISED, other]) == ["Relu", "LayerNormalization"]


def test_two_normalisations_of_one_mean() -> None:
    again = node("LayerNormalization", "centred scale", "z", axis=-1)
    assert lean([*NORMALISED, again], "y", "z") == ["Relu", *["LayerNormalization"] * 2]


@pytest.mark.parametrize(
    ("index", "other"),
    [
        (1, node("ReduceMax", "x2 axes", "mean", keepdims=1)),
        (1, node("ReduceMean", "x axes", "mean", keepdims=1)),
        (2, node("Sub", "mean x2", "centred")),
        (2, node("Add", "x2 mean", "centred")),
        (3, node("LayerNormalization", "centred scale", "y inner", axis=-1)),
    ],
    ids=["no mean", "of another tensor", "sign", "sum", "mean as output"],
)
def test_other_graphs_stay(index: int, other: onnx.NodeProto) -> None:
    nodes = [*NORMALISED]
    nodes[index] = other
    assert len(lean(nodes)) == 4


@pytest.mark.parametrize("card", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_sessions(card: bool, exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only files of layertap, and only where onnxruntime is exact without the subtraction."""
    cuts: list[bytes] = []
    original = program.write_cut  # type: ignore[attr-defined]

    def written(*args: Any) -> bytes:
        cuts.append(original(*args))
        return cuts[-1]

    monkeypatch.setattr(program, "write_cut", written)
    monkeypatch.setattr(program, "normalises_exactly", lambda: exact)
    data = model(NORMALISED, card).SerializeToString()
    x = FEEDS["x"] + np.float32(5)
    actual = layertap.open(data).tap("y")(x)
    operators = [item.op_type for item in onnx.ModelProto.FromString(cuts[-1]).graph.node]
    assert ("Sub" not in operators) == (card and exact)
    reference.same(actual, reference.run(model(NORMALISED), ["y"], {"x": x})[0])
