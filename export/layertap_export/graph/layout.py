"""Which nodes run channels last: the choice with the fewest values turned.

Convolutions and poolings of ONNX read channels first. Matrix products and normalisations of
features read channels last, as most Keras models are written. What lies between, such as additions
and activations, runs either way. Where two neighbours differ, a Transpose moves every value that
passes. The choice with the fewest moves is a minimum cut: its two ends are the nodes whose layout
is given, and the capacity between two nodes is the number of values that pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import onnx

from layertap.format.layer import Shape

from .graph import attribute, makers, reads
from .minimum_cut import Network
from .operators import facts

RANKS = (3, 4, 5)

FIRST, LAST = "channels first", "channels last"

EITHER = ("Identity", "Shape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that the pass `channels_first` runs on either layout."""

IN_BLOCKS = (
    *("Add", "Clip", "Concat", "HardSigmoid", "LeakyRelu", "MatMul", "Mul", "Relu", "Sigmoid"),
    "Tanh",
)
"""Flexible operators that onnxruntime runs in the blocked layout of its convolutions; a product
with a matrix becomes one of them. Between these and any other, it reorders all values in any case,
into whichever layout the other has."""

UNKNOWN_SIZE = 32
"""What a free size behind the batch axis is taken to be."""


def channels_last_nodes(
    model: onnx.ModelProto, shapes: Mapping[str, Shape], weights: Iterable[str]
) -> set[str]:
    """Nodes that run in the order of axes in which they are written, by their first output.

    Where it makes no difference, a node runs channels first.

    Args:
        model: as tf2onnx made it: channels last, with a Transpose on either side of each
            convolution.
        shapes: what is known of its tensors' shapes.
        weights: names of its constants.
    """
    choice = _Choice(model, shapes, weights)
    return choice.made() if choice.turns else set()


class _Choice:
    def __init__(
        self, model: onnx.ModelProto, shapes: Mapping[str, Shape], weights: Iterable[str]
    ) -> None:
        self.shapes = shapes
        self.constant, self.nodes = set(weights) | {""}, list[onnx.NodeProto]()
        for node in model.graph.node:
            if self.constant.issuperset(reads(node)):
                self.constant.update(node.output)
            else:
                self.nodes.append(node)
        self.makers = makers(self.nodes)
        self.flexible = {node.output[0] for node in self.nodes if self.is_flexible(node)}
        self.turns = {node.output[0] for node in self.nodes if _turns(node)}
        """Results of a Transpose between the two layouts."""
        self.to_given = {
            name
            for node in self.nodes
            if node.output[0] not in self.flexible
            for name in self.turns.intersection(node.input)
        }
        """Those that a node reads which is not flexible, such as a convolution."""

    def made(self) -> set[str]:
        network: Network[str] = Network()
        beside: dict[str, set[str]] = {}
        for start, end, size, back in self.connections():
            network.add(start, end, size, back)
            if end != LAST or back:  # neighbours, not only a reason against channels first
                beside.setdefault(start, set()).add(end)
                beside.setdefault(end, set()).add(start)
        side, found, waiting = network.side_of(LAST, FIRST), {LAST}, [LAST]
        while waiting:  # a convolutional part without a neighbour that is given stays as it is
            new = (beside.get(waiting.pop(), set()) & side) - found
            found |= new
            waiting += new
        return found & self.flexible

    def connections(self) -> Iterator[tuple[str, str, int, int]]:
        """Two nodes, or a node and a given layout, and what it costs if the first one runs channels
        first and the second one last, and the other way round."""
        shared: set[str] = set()
        for node in self.nodes:
            after = self.where_read(node)
            for name in set(node.input) - self.constant:
                before, size = self.where_made(name), self.size(name)
                if not before or not after or before == after:
                    continue
                if self.in_blocks(before) and self.is_loose(after):
                    reordered = f"{name}, reordered"  # once, for all such readers
                    yield reordered, after, size, size
                    if name not in shared:
                        shared.add(name)
                        yield reordered, before, size, 0
                        yield before, LAST, size, 0
                elif self.is_loose(before) and self.in_blocks(after):
                    yield before, after, size, 0
                    yield after, LAST, size, 0
                elif self.in_blocks(before) and after in self.flexible:
                    together = size + size // 4  # may be computed together
                    yield before, after, together, together
                else:
                    yield before, after, size, size

    def in_blocks(self, place: str) -> bool:
        """Whether a place can be in the blocked layout of convolutions."""
        return place == FIRST or self.kind(place) in IN_BLOCKS

    def is_loose(self, place: str) -> bool:
        """Whether a place is a flexible node around which values are reordered in any case."""
        return place in self.flexible and not self.in_blocks(place)

    def kind(self, place: str) -> str:
        return self.makers[place].op_type if place in self.flexible else ""

    def where_made(self, name: str) -> str | None:
        """The layout in which a tensor is made, or the flexible node that makes it; `None` if
        either layout suits."""
        node = self.makers.get(name)
        while node is not None and node.op_type == "Identity":
            name = node.input[0]
            node = self.makers.get(name)
        if node is None:  # an input of the graph
            return LAST
        if name in self.turns:
            before = self.makers.get(node.input[0])
            given = before is not None and before.output[0] not in self.flexible
            return FIRST if given else None
        return self.place(node)

    def where_read(self, node: onnx.NodeProto) -> str | None:
        """The layout in which a node reads tensors, or the node itself if it is flexible; `None` if
        either layout suits."""
        if node.output[0] in self.turns:
            return FIRST if node.output[0] in self.to_given else None
        return self.place(node)

    def place(self, node: onnx.NodeProto) -> str | None:
        name: str = node.output[0]
        if name in self.flexible:
            return name
        rank = len(self.shapes.get(name, ()))
        # A matrix behind a Reshape can be rearranged; a mean over space is the same either way.
        flattens = rank == 2 and (node.op_type == "Reshape" or _is_kind(node, "reduction"))
        either = flattens or rank < 2 or node.op_type in EITHER
        return None if either else LAST

    def size(self, name: str) -> int:
        sizes = self.shapes.get(name, ())[1:]
        return math.prod(UNKNOWN_SIZE if size is None else size for size in sizes)

    def is_flexible(self, node: onnx.NodeProto) -> bool:
        """Whether the pass `channels_first` can run a node in another order of axes."""
        row, rank = facts(node), len(self.shapes.get(node.output[0], ()))
        if row is None or rank not in RANKS:
            return False
        if node.op_type == "Identity":  # the pass removes it
            return False
        if node.op_type == "MatMul":
            return node.input[1] in self.constant and len(self.shapes.get(node.input[1], ())) == 2
        if row.kind == "reduction":
            return bool(attribute(node, "keepdims", 1))
        kinds = ("elementwise", "elementwise first", "along axis")
        return row.kind in kinds or node.op_type in ("Concat", "Pad", "Slice")


def _is_kind(node: onnx.NodeProto, kind: str) -> bool:
    """Whether a node's operator is of a kind in the table of operators."""
    row = facts(node)
    return row is not None and row.kind == kind


def _turns(node: onnx.NodeProto) -> bool:
    """Whether a node turns channels last to channels first, or back."""
    perm = tuple(attribute(node, "perm", ())) if node.op_type == "Transpose" else ()
    rank = len(perm)
    return rank in RANKS and perm in ((0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1))
