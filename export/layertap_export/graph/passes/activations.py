"""Activation functions in the form that onnxruntime computes fastest.

TensorFlow computes them in several steps, each over the whole activation. ONNX has an operator for
`hard_swish` from opset 14 on, which makes MobileNetV3 an eighth faster:

    x * clip(x + 3, 0, 6) / 6       becomes    HardSwish(x)

It has one for GELU from opset 20 on. Before, onnxruntime recognises the steps that PyTorch writes,
and no others:

    x / 2 * (1 - erf(-x / sqrt(2)))    becomes    x * (erf(x / sqrt(2)) + 1) * 0.5

and of the approximation by tanh, those of GPT-2, with s = sqrt(2 / pi):

    x / 2 * (1 + tanh(s (x + 0.044715 x^3)))
    becomes    (x * 0.5) * (tanh((x * s) * (x * 0.044715 * x + 1)) + 1)

Softplus is slow in onnxruntime, and Mish without it nine times as fast. With n = e^x (e^x + 2) it
is the same function:

    x * tanh(softplus(x))           becomes    x / (2 / n + 1)

GELU by a sigmoid is recognised as it is, and SiLU without the factor that TensorFlow has in it:

    x * sigmoid(1 * x)              becomes    x * sigmoid(x)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import onnx
from onnx import TensorProto, helper

from layertap.format.layer import Shape
from layertap_export.graph.formulas import Formulas, Polynomial, letter, minus
from layertap_export.graph.graph import opset_of
from layertap_export.graph.replacement import Replacement

from .contract import graph_pass, in_order

ROOT = math.sqrt(2 / math.pi)
CUBIC = 0.044715


@graph_pass(requires=[in_order], ensures=[in_order])
def join_activations(
    model: onnx.ModelProto, shapes: Mapping[str, Shape], keep: Iterable[str]
) -> None:
    """Rewrite `model` in place. Nodes that nothing reads any more stay, to be pruned.

    Args:
        shapes: what is known of its tensors' shapes.
        keep: tensors that must stay.
    """
    activations = _Activations(model.graph, shapes, keep)
    written: dict[str, Callable[[onnx.NodeProto], dict[str, list[onnx.NodeProto]]]] = {
        "Erf": activations.gelu,
        "Tanh": activations.by_tanh,
    }
    if opset_of(model) >= 14:
        written["Clip"] = activations.hard_swish
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type in written:
            found |= written[node.op_type](node)
        elif node.op_type == "Sigmoid":
            activations.read_directly(node)
    if found:
        nodes = [made for node in model.graph.node for made in found.get(node.output[0], [node])]
        del model.graph.node[:]
        model.graph.node.extend(nodes)


class _Activations:
    """Recognises the activations of one graph by the function in their middle.

    The methods return, by tensor, the nodes that make it from now on.
    """

    def __init__(
        self, graph: onnx.GraphProto, shapes: Mapping[str, Shape], keep: Iterable[str]
    ) -> None:
        self._graph = graph
        self._shapes = shapes
        self._formulas = Formulas(graph, keep)

    def read_directly(self, sigmoid: onnx.NodeProto) -> None:
        """Let a sigmoid of 1 * x read x."""
        product = self._formulas.maker(sigmoid.input[0], "Mul")
        source = product and self._other(product, 1)
        if source and self._shapes.get(source) == self._shapes.get(sigmoid.input[0]):
            sigmoid.input[0] = source

    def hard_swish(self, clip: onnx.NodeProto) -> dict[str, list[onnx.NodeProto]]:
        limits = [self._formulas.number(name) for name in clip.input[1:]]
        total = self._formulas.maker(clip.input[0], "Add")
        if limits != [0, 6] or total is None:
            return {}
        source = self._other(total, 3)
        if source is None:
            return {}
        given = {source: letter("x"), clip.output[0]: letter("f")}
        return {
            name: [helper.make_node("HardSwish", [source], [name], name=name)]
            for name in self._matches(given, source, _is_hard_swish)
        }

    def gelu(self, erf: onnx.NodeProto) -> dict[str, list[onnx.NodeProto]]:
        for source in self._sources(erf.input[0]):
            inner = self._formulas.expressed(erf.input[0], {source: letter("x")})
            for sign in (1, -1):
                if _is_close(inner, {"x": sign * math.sqrt(0.5)}):
                    value = letter("f") if sign > 0 else minus(letter("f"))
                    given = {source: letter("x"), erf.output[0]: value}
                    found = self._matches(given, source, _is_gelu)
                    if found:
                        return {name: self._by_erf(name, source) for name in found}
        return {}

    def by_tanh(self, tanh: onnx.NodeProto) -> dict[str, list[onnx.NodeProto]]:
        """Mish, and the approximation of GELU."""
        softplus = self._formulas.maker(tanh.input[0], "Softplus")
        if softplus is not None:
            source = self._formulas.source(softplus.input[0])
            given = {source: letter("x"), tanh.output[0]: letter("f")}
            single = self._formulas.dtype(source) == TensorProto.FLOAT
            found = self._matches(given, source, _is_mish) if single else []
            return {name: self._by_exp(name, source) for name in found}
        for source in self._sources(tanh.input[0]):
            inner = self._formulas.expressed(tanh.input[0], {source: letter("x")})
            if _is_close(inner, {"x": ROOT, "xxx": ROOT * CUBIC}):
                given = {source: letter("x"), tanh.output[0]: letter("f")}
                found = self._matches(given, source, _is_gelu)
                if found:
                    return {name: self._by_gpt2(name, source) for name in found}
        return {}

    # -- what is recognised

    def _sources(self, name: str) -> list[str]:
        """The float32 tensors of which a tensor may be a polynomial, the nearest first."""
        near = self._formulas.behind(name)
        return [x for x in near if self._formulas.dtype(x) == TensorProto.FLOAT]

    def _matches(
        self,
        given: Mapping[str, Polynomial],
        source: str,
        match: Callable[[Polynomial], bool | None],
    ) -> list[str]:
        """The tensors that match; constants of more axes do not count as numbers."""
        found = self._formulas.matches(given, match)
        shape = self._shapes.get(source)
        return [name for name in found if self._shapes.get(name, shape) == shape]

    def _other(self, node: onnx.NodeProto, number: float) -> str | None:
        """The tensor that a node combines with a number."""
        for name, other in (node.input, reversed(node.input)):
            if self._formulas.number(other) == number:
                return self._formulas.source(name)
        return None

    # -- what is written

    def _by_erf(self, output: str, source: str) -> list[onnx.NodeProto]:
        made = Replacement(self._graph, {}, output)
        scaled = made.emit("Div", [source, made.number(math.sqrt(2))])
        total = made.emit("Add", [made.emit("Erf", [scaled]), made.number(1)])
        made.emit("Mul", [made.emit("Mul", [source, total]), made.number(0.5)])
        return made.finished()

    def _by_gpt2(self, output: str, source: str) -> list[onnx.NodeProto]:
        made = Replacement(self._graph, {}, output)
        square = made.emit("Mul", [made.emit("Mul", [source, made.number(CUBIC)]), source])
        cubic = made.emit("Add", [square, made.number(1)])
        scaled = made.emit("Mul", [source, made.number(ROOT)])
        tanh = made.emit("Tanh", [made.emit("Mul", [scaled, cubic])])
        half = made.emit("Mul", [source, made.number(0.5)])
        made.emit("Mul", [half, made.emit("Add", [tanh, made.number(1)])])
        return made.finished()

    def _by_exp(self, output: str, source: str) -> list[onnx.NodeProto]:
        made = Replacement(self._graph, {}, output)
        two = made.number(2)
        # Outside, the quotient is 1 or 0 to the last digit, and gradients would overflow.
        limited = made.emit("Clip", [source, made.number(-40), made.number(20)])
        power = made.emit("Exp", [limited])
        product = made.emit("Mul", [power, made.emit("Add", [power, two])])
        inverse = made.emit("Div", [two, product])
        made.emit("Div", [source, made.emit("Add", [inverse, made.number(1)])])
        return made.finished()


def _is_close(
    value: Polynomial | None, factors: Mapping[str, float], tolerance: float = 1e-6
) -> bool:
    """Whether a polynomial has these factors, by letters, and no constants."""
    terms = value or ()
    found = {term.letters: term.factor for term in terms if not term.constants}
    return (
        len(found) == len(terms)
        and found.keys() == factors.keys()
        and all(math.isclose(found[x], factors[x], rel_tol=tolerance) for x in factors)
    )


def _is_hard_swish(value: Polynomial) -> bool | None:
    """Whether it is x f / 6. In float16, 1/6 is 0.16662598."""
    return _is_close(value, {"fx": 1 / 6}, 5e-4) or None


def _is_gelu(value: Polynomial) -> bool | None:
    """Whether it is x / 2 + x f / 2."""
    return _is_close(value, {"fx": 0.5, "x": 0.5}, 0.0) or None


def _is_mish(value: Polynomial) -> bool | None:
    """Whether it is x f."""
    return _is_close(value, {"fx": 1.0}, 0.0) or None
