"""Operators that keep values, and looking through a final activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from layertap.format.operators import MOVERS, VIEWS, behind_final_activation, is_one_of


class Node(NamedTuple):
    op_type: str
    reads: Sequence[str]
    domain: str = ""


def chain(*op_types: str, domain: str = "") -> dict[str, Node]:
    """Nodes that write `0`, `1`, ..., each from the one before it; the first reads `x`."""
    return {
        str(at): Node(op_type, [str(at - 1) if at else "x", "shape"], domain)
        for at, op_type in enumerate(op_types)
    }


@pytest.mark.parametrize("activation", ["Sigmoid", "Softmax", "LogSoftmax"])
def test_the_input_of_a_final_activation_is_found(activation: str) -> None:
    nodes = chain("Conv", activation)
    assert behind_final_activation("1", nodes.get) == ("0", [])


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_all_movers_are_passed_and_returned_first_to_last(domain: str) -> None:
    nodes = chain("Softmax", *MOVERS, domain=domain)
    found = behind_final_activation(str(len(MOVERS)), nodes.get)
    assert found is not None
    tensor, movers = found
    assert tensor == "x"
    assert [node.op_type for node in movers] == list(MOVERS)


@pytest.mark.parametrize(
    "op_types",
    [["Conv"], ["Softmax", "Add"], ["Softmax", "Add", "Reshape"], ["Identity"]],
    ids="-".join,
)
def test_without_a_final_activation_nothing_is_found(op_types: list[str]) -> None:
    nodes = chain(*op_types)
    assert behind_final_activation(str(len(op_types) - 1), nodes.get) is None


def test_another_domain_is_not_the_standard_one() -> None:
    assert behind_final_activation("0", chain("Softmax", domain="com.microsoft").get) is None
    assert not is_one_of(Node("Identity", ["x"], "mine"), VIEWS)


def test_a_circle_of_movers_ends() -> None:
    nodes = {"a": Node("Identity", ["b"]), "b": Node("Cast", ["a"])}
    assert behind_final_activation("a", nodes.get) is None
