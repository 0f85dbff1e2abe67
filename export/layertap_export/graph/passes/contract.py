"""The contract of a pass: what it requires of a graph, and what it ensures, checked at every call.

A pass is a function that changes a model in place:

    @graph_pass(requires=[in_order, outputs_exist], ensures=[in_order, no_identities])
    def channels_first(model, ...): ...

A pass that breaks its contract would else be noticed passes later, or in a wrong layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar

import onnx

from layertap_export.graph.graph import is_standard, reads

P = ParamSpec("P")
R = TypeVar("R")

Condition: TypeAlias = Callable[[onnx.ModelProto], str]
"""What is wrong with a model; empty if it meets the condition."""

PASSES: dict[str, Callable[..., object]] = {}
"""All passes, by name, of the modules that were imported."""


class PassError(RuntimeError):
    """A pass got, or left, a graph that breaks its contract: a fault in layertap."""


def graph_pass(
    *, requires: Sequence[Condition], ensures: Sequence[Condition]
) -> Callable[
    [Callable[Concatenate[onnx.ModelProto, P], R]], Callable[Concatenate[onnx.ModelProto, P], R]
]:
    """Check the conditions of a pass before and after each call.

    Raises:
        PassError: by the pass, if its model breaks a condition.
    """

    def decorate(
        function: Callable[Concatenate[onnx.ModelProto, P], R],
    ) -> Callable[Concatenate[onnx.ModelProto, P], R]:
        name = function.__name__

        @wraps(function)
        def checked(model: onnx.ModelProto, /, *args: P.args, **kwargs: P.kwargs) -> R:
            _check(model, requires, f"the pass {name} got a graph in which")
            result = function(model, *args, **kwargs)
            _check(model, ensures, f"the pass {name} left a graph in which")
            return result

        PASSES[name] = checked
        return checked

    return decorate


def _check(model: onnx.ModelProto, conditions: Sequence[Condition], where: str) -> None:
    for condition in conditions:
        fault = condition(model)
        if fault:
            raise PassError(f"{where} {fault}.")


# --- Conditions ----------------------------------------------------------------------------------


def in_order(model: onnx.ModelProto) -> str:
    """Each tensor is made once, and before a node reads it."""
    graph = model.graph
    known = {value.name for value in graph.input} | {item.name for item in graph.initializer}
    known |= {item.values.name for item in graph.sparse_initializer}
    for node in graph.node:
        for name in reads(node):
            if name not in known:
                return f"{_shown(node)} reads {name!r}, which no earlier node makes"
        for name in filter(None, node.output):
            if name in known:
                return f"{name!r} is made twice"
            known.add(name)
    return ""


def outputs_exist(model: onnx.ModelProto) -> str:
    """Each output of the graph is made by a node, or is an input or a constant."""
    graph = model.graph
    known = {name for node in graph.node for name in node.output}
    known |= {item.name for item in (*graph.input, *graph.initializer)}
    gone = next((value.name for value in graph.output if value.name not in known), None)
    return "" if gone is None else f"nothing makes the output {gone!r}"


def no_identities(model: onnx.ModelProto) -> str:
    """No node is an Identity."""
    found = next((x for x in model.graph.node if x.op_type == "Identity" and is_standard(x)), None)
    return "" if found is None else f"{_shown(found)} is left"


def named_nodes(model: onnx.ModelProto) -> str:
    """Each node has a name of its own."""
    names: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in names:
            return f"{_shown(node)} has the name {node.name!r}, as others do"
        names.add(node.name)
    return ""


def _shown(node: onnx.NodeProto) -> str:
    made = next(filter(None, node.output), "")
    return f"the {node.op_type} that makes {made!r}"
