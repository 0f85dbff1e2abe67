"""What crosses a cut: the tensors that the part after a layer reads from the part before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._engine.program import Program
from layertap.format.graph import Graph, Node
from layertap.format.layer import Layer
from layertap.format.operators import VIEWS, is_one_of


class Place(NamedTuple):
    """A place at which a model can be cut: after a layer and all that it is computed from."""

    before: NDArray[np.bool_]
    """By node of the file, whether it is computed before the cut."""
    tensors: tuple[str, ...]
    """The tensors that cross, each once, however it is transposed."""


class Sources:
    """Which tensors have the values of others."""

    def __init__(self, graph: Graph, op_types: Sequence[str]) -> None:
        """
        Args:
            graph: the file's.
            op_types: operators whose result has the values of their first input: `VIEWS`, `MOVERS`.
        """
        self._source: dict[str, str] = {}
        for node in graph.nodes:
            if is_one_of(node, op_types) and node.reads and node.writes:
                source = node.reads[0]
                self._source[node.writes[0]] = self._source.get(source, source)

    def of(self, tensor: str) -> str:
        """The tensor that these values were computed as, which may be itself."""
        return self._source.get(tensor, tensor)


class Crossings:
    """The places of a model.

    A place is where `layertap cut --to LAYER` cuts: before it is what the layer is computed from,
    after it is the rest of what the outputs are computed from. What is computed from constants only
    does not cross, and is not counted: each part has it.
    """

    def __init__(self, program: Program) -> None:
        graph, nodes = program.graph, program.graph.nodes
        self._outputs = [info.name for info in program.outputs]
        self.kept = program.plan(self._outputs).nodes if self._outputs else ()
        """Indices of the nodes that the outputs are computed from."""
        self._makers = {name: at for at, node in enumerate(nodes) for name in node.writes}
        self._nodes = nodes
        live: set[str] = set(graph.inputs)
        self.source = Sources(graph, VIEWS).of
        """What a tensor is a view of, which may be itself."""
        for node in nodes:
            if not live.isdisjoint(node.reads) or _draws(node):
                live.update(node.writes)
        readers: dict[str, list[int]] = {}
        for at in self.kept:
            node = nodes[at]
            if is_one_of(node, VIEWS):
                continue  # a node that reads the view reads its source
            for name in dict.fromkeys(self.source(read) for read in node.reads):
                if name in live:
                    readers.setdefault(name, []).append(at)
        ends = {self.source(name) for name in self._outputs}
        self._tensors = [name for name in dict.fromkeys((*readers, *sorted(ends))) if name in live]
        self._written = np.array([self._makers.get(name, -1) for name in self._tensors], np.int64)
        self._ends = np.array([name in ends for name in self._tensors], bool)
        flat = [readers.get(name, []) for name in self._tensors]
        self._counts = np.array([len(one) for one in flat], np.int64)
        self._readers = np.array([at for one in flat for at in one], np.int64)
        self._starts = np.concatenate(([0], np.cumsum(self._counts)[:-1])).astype(np.int64)

    def after(self, tensors: Iterable[str]) -> Place:
        """The place after some tensors and all that they are computed from."""
        before = np.zeros(len(self._nodes) + 1, bool)  # the last stands for the model's inputs
        before[-1] = True
        wanted = [self.source(name) for name in tensors]
        waiting = [self._makers[name] for name in wanted if name in self._makers]
        while waiting:
            at = waiting.pop()
            if not before[at]:
                before[at] = True
                waiting += [
                    self._makers[name] for name in self._nodes[at].reads if name in self._makers
                ]
        inside = before[self._readers].astype(np.int64)
        read_before = np.zeros(len(self._tensors), np.int64)
        some = self._counts > 0
        if some.any():
            read_before[some] = np.add.reduceat(inside, self._starts[some])
        crosses = before[self._written] & ((read_before < self._counts) | self._ends)
        names = tuple(self._tensors[at] for at in np.flatnonzero(crosses))
        return Place(before[:-1], names)


def _draws(node: Node) -> bool:
    """Whether a node without inputs gives other values in each run."""
    return node.op_type.startswith("Random")


def layers_of(crossings: Crossings, layers: Sequence[Layer]) -> Mapping[str, str]:
    """The first layer of each tensor, by the tensor that it is a view of.

    Args:
        crossings: the model's.
        layers: its layers; those that the file does not expose are left out.
    """
    found: dict[str, str] = {}
    for layer in layers:
        if layer.tensor is not None:
            found.setdefault(crossings.source(layer.tensor), layer.name)
    return found
