"""Which layer a node belongs to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from layertap._cut.plan import places
from layertap._engine.program import Program
from layertap.format.graph import Graph, Node
from layertap.format.layer import Layer

from .profiling import Ran

_FAMILIES = {
    "Conv": ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvTranspose"),
    "MatMul": ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "TransposeMatMul", "MatMulNBits"),
}
"""Operators into which others are fused."""

_DEEPEST = 8
"""Most nodes between one that was fused and the convolution or product that it was fused to."""


class Owners:
    """The layer of each node of a file.

    A file that layertap exported names nodes for the layer that needs them first:
    `conv1_conv/Conv`. In another file each tensor is a layer, so a node is the layer of the first
    tensor that it writes.
    """

    def __init__(self, program: Program) -> None:
        graph = program.graph
        self._nodes = graph.nodes
        self._makers = {name: at for at, node in enumerate(graph.nodes) for name in node.writes}
        self._names = {layer.name: layer.index for layer in program.layers}
        written = {layer.tensor: layer.index for layer in reversed(program.layers)}
        self._by_name: dict[str, int] = {}
        """The index of the node with a name that no other has."""
        doubled: set[str] = set()
        for at, node in enumerate(graph.nodes):
            if node.name in self._by_name or not node.name:
                doubled.add(node.name)
            self._by_name[node.name] = at
        for name in doubled:
            self._by_name.pop(name, None)
        self.of_node: list[int | None] = [
            self._of(node, written, program.card is not None) for node in graph.nodes
        ]
        """By node, the index of its layer; `None` if it belongs to none."""
        self._lend(graph, program.layers)

    def _of(self, node: Node, written: dict[str | None, int], exported: bool) -> int | None:
        if exported:
            named = self._named(node.name)
            if named is not None:
                return named
        return next((written[name] for name in node.writes if name in written), None)

    def _named(self, text: str) -> int | None:
        """The layer with the longest name that a node's name begins with."""
        end = text.rfind("/")
        while end > 0:
            found = self._names.get(text[:end])
            if found is not None:
                return found
            end = text.rfind("/", 0, end)
        return self._names.get(text)

    def _lend(self, graph: Graph, layers: Sequence[Layer]) -> None:
        """Give nodes without a layer to the first layer that needs them."""
        ends = [
            (layer.tensor, layer)
            for layer in layers
            if layer.tensor is not None and layer.tensor in self._makers
        ]
        # In the order in which layers are computed; a view of one may stand anywhere.
        at_node = places(graph, [tensor for tensor, _ in ends])
        ends.sort(key=lambda end: at_node[end[0]])
        seen: set[int] = set()
        for tensor, layer in ends:
            waiting = [self._makers[tensor]]
            while waiting:
                at = waiting.pop()
                if at in seen:
                    continue
                seen.add(at)
                if self.of_node[at] is None:
                    self.of_node[at] = layer.index
                waiting += [self._makers[x] for x in self._nodes[at].reads if x in self._makers]

    def node_of(self, ran: Ran, kept: Sequence[int]) -> int | None:
        """The node of the file that ran in an unoptimized session; `None` if it is not known.

        Args:
            ran: a node of the main graph.
            kept: the indices of the nodes that the session was made of, in order.
        """
        at = self._by_name.get(ran.name)
        if at is None and ran.op_type == "If":  # a guard around a node, see `_cut.guards`
            return self._makers.get(ran.name)
        if at is None and 0 <= ran.number < len(kept):
            at = kept[ran.number]  # nodes without a name of their own
        return at if at is not None and self._nodes[at].op_type == ran.op_type else None

    def of_runs(self, run: Sequence[Ran]) -> list[int | None]:
        """The layer of each node that ran in an optimized session.

        A node that onnxruntime fused of several has the name of one of them; it belongs to the
        layer of the convolution or product that is in it. One that onnxruntime made itself, such as
        one that reorders values, belongs to the layer of the node that ran before it.
        """
        named = [self._node_named(ran.name) for ran in run]
        claimed = {
            at
            for at, ran in zip(named, run, strict=True)
            if at is not None and self._family(ran.op_type) == self._family(self._nodes[at].op_type)
        }
        found: list[int | None] = []
        last: int | None = None
        for at, ran in zip(named, run, strict=True):
            owner = None
            if at is None:
                owner = self._named(ran.name)
            else:
                inner = self._fused(at, self._family(ran.op_type), claimed)
                claimed.add(inner)
                owner = self.of_node[inner]
            last = last if owner is None else owner
            found.append(last)
        return found

    def _node_named(self, name: str) -> int | None:
        """The node that a node of an optimized session is named for.

        onnxruntime keeps the name, or that of the tensor that is written, adds to it
        (`conv1_conv/Conv_nchwc`), or puts a word before it.
        """
        for text in (name, *name.split(" ")):
            while text:
                at = self._by_name.get(text, self._makers.get(text))
                if at is not None:
                    return at
                text = text.rpartition("_")[0]
        return None

    @staticmethod
    def _family(op_type: str) -> str:
        """What an operator computes, whatever is fused into it; empty for one that is not fused."""
        return next((word for word, ops in _FAMILIES.items() if op_type in ops), "")

    def _fused(self, at: int, family: str, claimed: set[int]) -> int:
        """The node of a family nearest before a node that is named for what was fused to it."""
        if not family or self._family(self._nodes[at].op_type) == family:
            return at
        waiting, seen = deque([(at, 0)]), {at}
        while waiting:
            here, steps = waiting.popleft()
            if self._family(self._nodes[here].op_type) == family:
                if here not in claimed:
                    return here
                continue
            if steps < _DEEPEST:
                for name in self._nodes[here].reads:
                    before = self._makers.get(name)
                    if before is not None and before not in seen:
                        seen.add(before)
                        waiting.append((before, steps + 1))
        return at
