"""Leaves out means that a layer normalisation subtracts itself.

The exporter subtracts the mean before each LayerNormalization, because onnxruntime before 1.30
loses digits where the mean is far from 0. Later versions do not, and the subtraction takes as long
as the normalisation.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from layertap.format.graph import Graph, Node
from layertap.format.operators import STANDARD_DOMAINS

from .plan import CutPlan


class Spared(NamedTuple):
    """What a cut can do without."""

    reads: dict[int, dict[str, str]]
    """By index of a normalisation, the name of what it reads, and of what it can read instead."""
    nodes: frozenset[int]
    """Indices of the nodes that nothing reads then."""
    initializers: frozenset[str]
    """Names of the constants that nothing reads then."""


NOTHING = Spared({}, frozenset(), frozenset())


def spared_means(graph: Graph, plan: CutPlan) -> Spared:
    """What the normalisations of a plan do not need, in a file that layertap has exported.

    In other files, the mean may be that along other axes.
    """
    makers = {name: at for at in plan.nodes for name in graph.nodes[at].writes}
    counts = Counter(name for at in plan.nodes for name in graph.nodes[at].reads)
    counts.update((*plan.outputs, *(name for extra in plan.appended for name in extra.reads)))
    reads: dict[int, dict[str, str]] = {}
    gone: set[int] = set()

    def release(name: str) -> None:
        """Count one reader less; nodes that nothing reads any more release what they read."""
        counts[name] -= 1
        at = makers.get(name)
        if at is not None and not any(counts[other] for other in graph.nodes[at].writes):
            gone.add(at)
            for other in graph.nodes[at].reads:
                release(other)

    for at in plan.nodes:
        node = graph.nodes[at]
        if _is(node, "LayerNormalization") and len(node.writes) == 1:
            tensor = _with_mean(graph, makers, node.reads[0])
            if tensor is not None:
                reads[at] = {node.reads[0]: tensor}
                counts[tensor] += 1
                release(node.reads[0])
    unread = (name for name in plan.initializers if not counts[name] and name not in plan.outputs)
    return Spared(reads, frozenset(gone), frozenset(unread))


def _with_mean(graph: Graph, makers: dict[str, int], centred: str) -> str | None:
    """The tensor from which its mean is subtracted to make `centred`."""
    subtraction = _maker(graph, makers, centred, "Sub")
    if subtraction is None:
        return None
    tensor, mean = subtraction.reads
    averaging = _maker(graph, makers, mean, "ReduceMean")
    return tensor if averaging is not None and averaging.reads[0] == tensor else None


def _maker(graph: Graph, makers: dict[str, int], name: str, op_type: str) -> Node | None:
    at = makers.get(name)
    node = None if at is None else graph.nodes[at]
    return node if node is not None and _is(node, op_type) else None


def _is(node: Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain in STANDARD_DOMAINS
