"""How far each layer is quantised, and which nodes belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import onnx

from layertap.format.card import Card
from layertap_export.graph.graph import between, leading_to, makers, reads
from layertap_export.graph.operators import views


class Level(IntEnum):
    """How a layer is quantised; the larger, the more exact."""

    NARROW = 0
    """It computes in the narrow dtype, from weights in that dtype."""
    STORED = 1
    """Its weights are in the narrow dtype; it computes in float32."""
    FLOAT = 2
    """It is as it was."""


Levels = Mapping[str, Level]
"""The level of each layer, by its name; a layer that is not named is `NARROW`."""


class Ownership:
    """Which nodes of a graph belong to which layer, and which of them gradients pass through.

    The nodes of a layer are those that compute its tensor from the tensors of other layers. A node
    that several layers need belongs to the first.
    """

    def __init__(self, model: onnx.ModelProto, card: Card) -> None:
        """
        Args:
            model: its nodes are in topological order.
            card: names the layers, the outputs and the gradients.
        """
        nodes = list(model.graph.node)
        made = makers(nodes)
        gradients = card.gradients
        backward = set(gradients.tensors.values()) if gradients else set[str]()
        shown = [value.name for value in model.graph.output if value.name not in backward]
        forward = {id(node) for node in leading_to(nodes, shown).nodes}
        layers: dict[str, str] = {}
        for layer in card.layers:
            for name in views(str(layer.tensor), made) if layer.exposed else ():
                layers.setdefault(name, layer.name)
        readers: dict[str, int] = {}
        owners: dict[int, str] = {}
        for at in reversed(range(len(nodes))):
            node = nodes[at]
            if id(node) not in forward:
                continue
            own = [layers[name] for name in node.output if name in layers]
            later = [readers[name] for name in node.output if name in readers]
            owners[at] = own[0] if own else owners[min(later)] if later else node.output[0]
            readers.update(dict.fromkeys(reads(node), at))
        self.owners = dict(sorted(owners.items()))
        """By index of a node of the forward half, the name of its layer."""
        self.passed: frozenset[int] = frozenset()
        """The indices of the nodes that gradients pass through: they compute in float32."""
        if gradients is not None:
            tensors = {info.name: info.name for info in card.inputs}
            tensors |= {layer.name: str(layer.tensor) for layer in card.layers}
            starts = [
                name
                for layer in gradients.tensors
                for name in views(tensors.get(layer, layer), made)
            ]
            through = {id(node) for node in between(nodes, starts, [gradients.output])}
            self.passed = frozenset(at for at, node in enumerate(nodes) if id(node) in through)

    def level(self, at: int, levels: Levels) -> Level:
        """The level of a node of the forward half."""
        level = levels.get(self.owners[at], Level.NARROW)
        return max(level, Level.STORED) if at in self.passed else level


def float_layers(card: Card, chosen: Sequence[str]) -> dict[str, Level]:
    """The levels if some layers, and all layers inside them, stay in float.

    Args:
        card: names the layers.
        chosen: names of layers.
    """
    kept = set(chosen)
    for layer in card.layers:  # the layers inside a layer follow it
        if layer.parent in kept:
            kept.add(layer.name)
    return dict.fromkeys((layer.name for layer in card.layers if layer.name in kept), Level.FLOAT)


def unused_mark(model: onnx.ModelProto, mark: str) -> str:
    """The mark, or a longer one, that no name of a tensor ends in: names with it are new."""
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    while any(name.endswith(mark) for name in names):
        mark += "'"
    return mark
