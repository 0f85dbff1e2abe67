"""Finds the tensors that layers are differentiated with respect to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from layertap.format.card import Gradients
from layertap.format.layer import Shape
from layertap_export.graph.graph import is_standard, leading_to, makers, reads
from layertap_export.graph.operators import is_mover


@dataclass(frozen=True, slots=True)
class Differentiated:
    """A layer or input that the score is differentiated with respect to."""

    name: str
    """Of the layer or input."""
    tensor: str
    shape: Shape
    source: str
    """The tensor that has the gradient: `tensor` itself, or the one that it is a copy of."""
    movers: tuple[onnx.NodeProto, ...]
    """The nodes that make `tensor` from `source`, in order."""


class SourceFinder:
    """Finds the tensor that has the gradient of a layer: its own, or the one it is a copy of.

    The graph output of a layer is often made by a mover, such as a Transpose, that no node reads
    but other movers. The score does not depend on that output, but on what it is made from.
    """

    def __init__(self, nodes: Sequence[onnx.NodeProto], score: str) -> None:
        self._makers = makers(nodes)
        self._read: set[str] = set()
        self._needed = leading_to(nodes, [score]).needed
        for node in reversed(nodes):
            read = reads(node)
            if not _passes_on(node) or self._read.intersection(node.output):
                self._read.update(read)

    def find(self, name: str, tensor: str, shape: Shape) -> Differentiated:
        movers: list[onnx.NodeProto] = []
        source = tensor
        while source not in self._needed:
            node = self._makers.get(source)
            if node is None or not _passes_on(node) or source in self._read:
                return Differentiated(name, tensor, shape, tensor, ())
            movers.insert(0, node)
            source = node.input[0]
        return Differentiated(name, tensor, shape, source, tuple(movers))


def _passes_on(node: onnx.NodeProto) -> bool:
    """Whether a node is a mover, or rounds to integers of few bits and back.

    A layer of a quantised file is shown by its rounded values; the score depends on others.
    """
    return is_mover(node) or (is_standard(node) and node.op_type in ROUNDING)


ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def forward_half(graph: onnx.GraphProto, gradients: Gradients) -> tuple[list[onnx.NodeProto], str]:
    """The nodes of a file with gradients that do not belong to the backward half, and the tensor
    that is differentiated."""
    behind, forward = {gradients.weights}, []
    shapes: dict[str, str] = {}
    scores = ""
    for node in graph.node:
        if behind.isdisjoint(reads(node)):
            forward.append(node)
            if node.op_type == "Shape":
                shapes[node.output[0]] = node.input[0]
            continue
        if gradients.weights in node.input:  # they are expanded to the shape of the scores
            scores = shapes[node.input[1]]
        behind.update(node.output)
    return forward, scores
