"""The cut: a smaller model that computes some tensors and nothing else.

onnxruntime runs every node of a graph, also those that lead to no requested tensor, and cannot
fuse over a tensor that is an output. So the cut keeps only what is on the way to the request, and
a Transpose or Identity at its end is peeled off: its source becomes the output, and numpy gives
the axes' order as a view.

The other end can be cut too: tensors that are given become inputs, and what makes them is left out.
They are peeled in the same way, so what is fed is the source, with its axes turned back.

What is kept is copied byte for byte; nothing but names and edges is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, TypeAlias

from layertap.format.graph import (
    Graph,
    TensorType,
)
from layertap.format.operators import VIEWS

Perm: TypeAlias = "tuple[int, ...] | None"
"""A Transpose's order of axes; `None` reverses them."""


class Leaf(NamedTuple):
    """How a requested tensor is made from a tensor that is computed."""

    source: str
    perms: tuple[Perm, ...]
    """The Transposes to apply, first to last; none at all for the source itself."""


class Appended(NamedTuple):
    """Nodes that are no part of the file, to be computed at the end of the cut."""

    reads: tuple[str, ...]
    """The graph's tensors that they read."""
    writes: Mapping[str, tuple[TensorType, tuple[Perm, ...]]]
    """New outputs: what is known of their type, and the Transposes to apply to the value."""
    nodes: bytes
    """Whole fields of the graph."""


class CutPlan(NamedTuple):
    """What a request takes of a graph."""

    leaves: Mapping[str, Leaf]
    """By requested tensor, in the order asked."""
    outputs: Mapping[str, str]
    """The cut's outputs: names in the cut by source. What is fed is not among the sources."""
    nodes: tuple[int, ...]
    """Positions of the nodes that stay."""
    initializers: tuple[str, ...]
    inputs: tuple[str, ...]
    """The model's inputs that the cut reads."""
    optional: tuple[str, ...]
    """Those of the initialisers that may be fed."""
    fed: tuple[str, ...]
    """What is itself asked for, of that which is fed: fetching it gives what was fed."""
    given: Mapping[str, Leaf]
    """How the tensors that were given are made from those that are fed, by tensor."""
    starts: tuple[str, ...]
    """Sources of given tensors that the cut reads, other than the model's inputs."""
    appended: tuple[Appended, ...]
    needs: tuple[str, ...]
    """Every input of the model that must be fed."""
    key: tuple[tuple[str, ...], tuple[str, ...]]
    """Equal for plans that lead to the same cut."""


def plan_cut(
    graph: Graph,
    tensors: Iterable[str],
    given: Iterable[str] = (),
    appended: Sequence[Appended] = (),
    peeled: bool = True,
) -> CutPlan:
    """Decide what stays of `graph` for `tensors`.

    The same sources give the same plan, and so the same cut, in whatever order they are asked.

    Args:
        given: tensors that need not be computed; the walk back from `tensors` ends at them.
        appended: what is to be computed on top. Its outputs count among the leaves.
        peeled: whether Transposes at the end are left to numpy.

    Raises:
        KeyError: the graph has no such tensor.
    """
    makers = _makers(graph)
    known = makers.keys() | graph.inputs.keys() | graph.initializers.keys()
    leaves = {name: _peel(graph, makers, known, name) for name in tensors}
    if not peeled:
        leaves = {name: Leaf(name, ()) for name in leaves}
    entries = {name: _peel(graph, makers, known, name) for name in given}
    fed = graph.inputs.keys() | {leaf.source for leaf in entries.values()}
    sources = sorted({leaf.source for leaf in leaves.values()})
    constants = {name for name in sources if name in graph.initializers and name not in fed}

    nodes: set[int] = set()
    reads: set[str] = set()
    weights: set[str] = set(constants)
    open_ends = [name for name in sources if name not in fed]
    open_ends += [name for extra in appended for name in extra.reads]
    while open_ends:
        name = open_ends.pop()
        if name in fed:
            reads.add(name)
        elif name in graph.initializers:
            weights.add(name)
        elif name in makers and makers[name] not in nodes:
            nodes.add(makers[name])
            open_ends.extend(graph.nodes[makers[name]].reads)

    outputs = {
        name: _copy_name(name, known) if name in constants else name
        for name in sources
        if name not in fed
    }
    for extra in appended:
        leaves |= {name: Leaf(name, perms) for name, (_, perms) in extra.writes.items()}
        outputs |= {name: name for name in extra.writes}
    starts = tuple(sorted(reads - graph.inputs.keys()))
    inputs = tuple(name for name in graph.inputs if name in reads)
    known_sources = tuple(name for name in sources if name in fed)
    given_sources = {leaf.source for leaf in entries.values()}
    return CutPlan(
        leaves=leaves,
        outputs={name: outputs[name] for name in sorted(outputs)},
        nodes=tuple(sorted(nodes)),
        initializers=tuple(name for name in graph.initializers if name in weights),
        inputs=inputs,
        optional=tuple(name for name in graph.optional if name in weights),
        fed=known_sources,
        given=entries,
        starts=starts,
        appended=tuple(sorted(appended, key=lambda extra: sorted(extra.writes))),
        needs=tuple(
            name for name in dict.fromkeys((*inputs, *known_sources)) if name not in given_sources
        ),
        key=(tuple(sorted(outputs)), starts),
    )


def peel(graph: Graph, tensors: Iterable[str]) -> dict[str, Leaf]:
    """How each tensor is made by nothing but Transposes and Identities.

    Raises:
        KeyError: the graph has no such tensor.
    """
    makers = _makers(graph)
    known = makers.keys() | graph.inputs.keys() | graph.initializers.keys()
    return {name: _peel(graph, makers, known, name) for name in tensors}


def dependents(graph: Graph, tensors: Iterable[str]) -> set[int]:
    """Positions of the nodes that depend on any of `tensors`."""
    readers: dict[str, list[int]] = {}
    for at, node in enumerate(graph.nodes):
        for name in node.reads:
            readers.setdefault(name, []).append(at)
    found: set[int] = set()
    open_ends = list(tensors)
    while open_ends:
        for at in readers.get(open_ends.pop(), ()):
            if at not in found:
                found.add(at)
                open_ends.extend(graph.nodes[at].writes)
    return found


def border(graph: Graph, plan: CutPlan, tensors: AbstractSet[str]) -> set[str]:
    """What a plan computes before `tensors` come in, and needs beside them from there on.

    With these and `tensors` given, the rest of the plan can be carried out.
    """
    later = dependents(graph, tensors)
    earlier = {name for at in plan.nodes if at not in later for name in graph.nodes[at].writes}
    earlier.update(plan.inputs)
    wanted = {name for at in plan.nodes if at in later for name in graph.nodes[at].reads}
    wanted |= plan.outputs.keys() | {name for extra in plan.appended for name in extra.reads}
    return (wanted & earlier) - tensors


def _makers(graph: Graph) -> dict[str, int]:
    return {name: at for at, node in enumerate(graph.nodes) for name in node.writes}


def _peel(graph: Graph, makers: Mapping[str, int], known: AbstractSet[str], tensor: str) -> Leaf:
    """Walk back from `tensor` over Transposes and Identities."""
    if tensor not in known:
        raise KeyError(tensor)
    perms: list[Perm] = []
    seen = set()
    source = tensor
    while source in makers and source not in seen:
        seen.add(source)
        node = graph.nodes[makers[source]]
        if node.op_type not in VIEWS or node.domain or ("", node.op_type) in graph.functions:
            break
        if len(node.reads) != 1 or node.reads[0] not in known:
            break
        if node.op_type == "Transpose":
            perms.append(node.perm)
        source = node.reads[0]
    return Leaf(source, tuple(reversed(perms)))


def _copy_name(name: str, known: AbstractSet[str]) -> str:
    """A free name for a weight that is asked for: an output cannot well be an initialiser."""
    name = f"layertap:{name}"
    while name in known:
        name += "'"
    return name


def view(value: Any, perms: Iterable[Perm]) -> Any:
    """`value` with its axes in the order that some Transposes give them."""
    for perm in perms:
        value = value.transpose(perm)
    return value
