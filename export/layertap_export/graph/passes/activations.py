"""Activation functions in the form that onnxruntime computes in one step.

TensorFlow computes them in several steps, each over the whole activation. ONNX has an operator for
`hard_swish` from opset 14 on, which makes MobileNetV3 an eighth faster:

    x * clip(x + 3, 0, 6) / 6       becomes    HardSwish(x)

It has one for GELU from opset 20 on. Before, onnxruntime recognises the five steps that PyTorch
writes, and no others:

    x / 2 * (1 - erf(-x / sqrt(2)))    becomes    x * (erf(x / sqrt(2)) + 1) * 0.5
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from layertap_export.graph.formulas import Formulas, Polynomial, Term, letter, minus
from layertap_export.graph.graph import opset_of
from layertap_export.graph.replacement import Replacement

from .contract import graph_pass, in_order


@graph_pass(requires=[in_order], ensures=[in_order])
def join_activations(model: onnx.ModelProto, keep: Iterable[str]) -> None:
    """Rewrite `model` in place. Nodes that nothing reads any more stay, to be pruned.

    Args:
        keep: tensors that must stay.
    """
    activations = _Activations(model.graph, keep)
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "Clip" and opset_of(model) >= 14:
            found |= activations.hard_swish(node)
        elif node.op_type == "Erf":
            found |= activations.gelu(node)
    if found:
        nodes = [made for node in model.graph.node for made in found.get(node.output[0], [node])]
        del model.graph.node[:]
        model.graph.node.extend(nodes)


class _Multiple(NamedTuple):
    """A tensor as a multiple of another."""

    name: str
    factor: float
    dtype: str = ""
    """Of the constants in between."""


class _Activations:
    """Recognises the activations of one graph by the function in their middle."""

    def __init__(self, graph: onnx.GraphProto, keep: Iterable[str]) -> None:
        self._graph = graph
        self._formulas = Formulas(graph, keep)

    def hard_swish(self, clip: onnx.NodeProto) -> dict[str, list[onnx.NodeProto]]:
        """By tensor, the node that makes it from now on."""
        limits = [self._formulas.number(name) for name in clip.input[1:]]
        total = self._formulas.maker(clip.input[0], "Add")
        if limits != [0, 6] or total is None:
            return {}
        source = self._other(total, 3)
        if source is None:
            return {}
        given = {source: letter("x"), clip.output[0]: letter("h")}
        found = self._formulas.matches(given, _is_hard_swish)
        return {
            name: [helper.make_node("HardSwish", [source], [name], name=name)] for name in found
        }

    def gelu(self, erf: onnx.NodeProto) -> dict[str, list[onnx.NodeProto]]:
        """By tensor, the nodes that make it from now on."""
        source, factor, dtype = self._multiple(erf.input[0])
        if dtype != "float32" or not math.isclose(abs(factor), math.sqrt(0.5), rel_tol=1e-6):
            return {}
        value = letter("e") if factor > 0 else minus(letter("e"))
        given = {source: letter("x"), erf.output[0]: value}
        found = self._formulas.matches(given, _is_gelu)
        return {name: self._written(name, source) for name in found}

    def _written(self, output: str, source: str) -> list[onnx.NodeProto]:
        made = Replacement(self._graph, {}, output)

        def number(value: float) -> str:
            return made.constant(np.array(value, np.float32))

        scaled = made.emit("Div", [source, number(math.sqrt(2))])
        total = made.emit("Add", [made.emit("Erf", [scaled]), number(1.0)])
        made.emit("Mul", [made.emit("Mul", [source, total]), number(0.5)])
        return made.finished()

    def _other(self, node: onnx.NodeProto, number: float) -> str | None:
        """The tensor that a node combines with a number."""
        for name, other in (node.input, reversed(node.input)):
            if self._formulas.number(other) == number:
                return self._formulas.source(name)
        return None

    def _multiple(self, name: str) -> _Multiple:
        """What a tensor is a multiple of."""
        node = self._formulas.maker(name, "Mul", "Div", "Neg")
        if node is None:
            return _Multiple(self._formulas.source(name), 1.0)
        if node.op_type == "Neg":
            within = self._multiple(node.input[0])
            return within._replace(factor=-within.factor)
        pairs = [tuple(node.input), tuple(reversed(node.input))]
        for data, other in pairs[:1] if node.op_type == "Div" else pairs:
            number = self._formulas.number(other)
            if number:
                within = self._multiple(data)
                factor = 1 / number if node.op_type == "Div" else number
                dtype = self._formulas.values[self._formulas.source(other)].dtype.name
                return _Multiple(within.name, within.factor * factor, dtype)
        return _Multiple(self._formulas.source(name), 1.0)


def _is_hard_swish(value: Polynomial) -> bool | None:
    """Whether it is x h / 6. In float16, 1/6 is 0.16662598."""
    (term,) = value if len(value) == 1 else (Term(0.0, ""),)
    same = term.letters == "hx" and not term.constants
    return True if same and math.isclose(term.factor, 1 / 6, rel_tol=5e-4) else None


def _is_gelu(value: Polynomial) -> bool | None:
    """Whether it is x / 2 + x e / 2."""
    return True if value == (Term(0.5, "ex"), Term(0.5, "x")) else None
