"""Passes state what they require and ensure, and are held to it."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import onnx
import pytest

from generators.tiny import model, node, value, weights
from layertap_export.graph import passes
from layertap_export.graph.passes.contract import (
    PASSES,
    PassError,
    graph_pass,
    in_order,
    named_nodes,
    no_identities,
    outputs_exist,
)


def graph(*nodes: Any, outputs: str = "y") -> onnx.ModelProto:
    return model(
        nodes,
        [value("x", [2, 3])],
        [value(name, None) for name in outputs.split()],
        [weights("w", 3, 3)],
    )


def test_each_module_is_a_pass() -> None:
    names = {info.name for info in pkgutil.iter_modules(passes.__path__)} - {"contract"}
    for name in names:
        importlib.import_module(f"{passes.__name__}.{name}")
    assert {function.__module__.rpartition(".")[2] for function in PASSES.values()} == names


@pytest.mark.parametrize(
    ("condition", "found", "fault"),
    [
        (
            in_order,
            graph(node("Neg", "z", "y"), node("Exp", "x", "z")),
            "the Neg that makes 'y' reads 'z', which no earlier node makes",
        ),
        (
            in_order,
            graph(node("Neg", "x", "y"), node("Exp", "x", "y")),
            "'y' is made twice",
        ),
        (
            in_order,
            graph(node("Neg", "x", "w")),
            "'w' is made twice",
        ),
        (in_order, graph(node("Add", "x w", "z"), node("Clip", "z _ x", "y")), ""),
        (outputs_exist, graph(node("Neg", "x", "z")), "nothing makes the output 'y'"),
        (outputs_exist, graph(node("Neg", "x", "y"), outputs="y x w"), ""),
        (
            no_identities,
            graph(node("Identity", "x", "y")),
            "the Identity that makes 'y' is left",
        ),
        (no_identities, graph(node("Identity", "x", "y", domain="own")), ""),
        (
            named_nodes,
            graph(node("Neg", "x", "z", name="n"), node("Exp", "z", "y", name="n")),
            "the Exp that makes 'y' has the name 'n', as others do",
        ),
        (named_nodes, graph(node("Neg", "x", "z"), node("Exp", "z", "y")), ""),
    ],
)
def test_a_condition_names_the_first_fault(
    condition: Any, found: onnx.ModelProto, fault: str
) -> None:
    assert condition(found) == fault


def test_a_pass_refuses_a_graph_that_breaks_what_it_requires() -> None:
    found = graph(node("Neg", "z", "y"), node("Exp", "x", "z"))
    with pytest.raises(PassError) as caught:
        PASSES["channels_first"](found, {})
    assert str(caught.value) == (
        "the pass channels_first got a graph in which the Neg that makes 'y' reads 'z', which no "
        "earlier node makes."
    )


def test_a_pass_that_breaks_what_it_ensures_is_found() -> None:
    before = dict(PASSES)

    @graph_pass(requires=[in_order], ensures=[in_order, outputs_exist])
    def careless(model: onnx.ModelProto) -> None:
        del model.graph.node[-1]

    PASSES.clear()
    PASSES.update(before)
    with pytest.raises(PassError) as caught:
        careless(graph(node("Neg", "x", "z"), node("Exp", "z", "y")))
    assert str(caught.value) == (
        "the pass careless left a graph in which nothing makes the output 'y'."
    )
