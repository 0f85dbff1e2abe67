"""The cut: a smaller model that computes some tensors and nothing else.

onnxruntime runs every node of a graph, including those that no requested tensor depends on, and
cannot fuse across a tensor that is an output. So the cut keeps only the nodes that the request
depends on. A Transpose or Identity at its end is peeled off: its source becomes the output, and
numpy transposes it as a view.

The other end can be cut, too: given tensors become inputs, and the nodes that make them are left
out. They are peeled in the same way: the source is fed, with its axes transposed back.

Kept nodes are copied byte for byte; only names and edges are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, TypeAlias

from layertap.errors import ModelFileError
from layertap.format.graph import Graph, TensorType, in_order
from layertap.format.operators import VIEWS

Perm: TypeAlias = "tuple[int, ...] | None"
"""A Transpose's order of axes; `None` reverses them."""


MOST_PEELED = 64
"""Most Transposes and Identities that are peeled off one tensor, so that the time for many tensors
along one long chain does not grow with its square."""


class MissingTensorError(ModelFileError, KeyError):
    """The graph lacks a tensor, which the card names."""

    def __init__(self, tensor: str, name: str = "the file") -> None:
        super().__init__(
            f"{name} has no tensor {tensor!r}, though its card names it. It was "
            "changed after the export; export it again."
        )
        self.tensor = tensor


class Leaf(NamedTuple):
    """How a requested tensor is made from a tensor that is computed."""

    source: str
    perms: tuple[Perm, ...]
    """The Transposes to apply, in order; empty for the source itself."""


class Appended(NamedTuple):
    """Nodes that are not in the file, to be computed at the end of the cut."""

    reads: tuple[str, ...]
    """The graph's tensors that they read."""
    writes: Mapping[str, tuple[TensorType, tuple[Perm, ...]]]
    """New outputs: their types, as far as known, and the Transposes to apply to the values."""
    nodes: bytes
    """The nodes as fields of the graph."""


class CutPlan(NamedTuple):
    """The part of a graph that a request needs."""

    leaves: Mapping[str, Leaf]
    """How each requested tensor is made, in the order requested."""
    outputs: Mapping[str, str]
    """The cut's outputs: names in the cut, by source. Fed tensors are not among them."""
    nodes: tuple[int, ...]
    """Indices of the kept nodes."""
    initializers: tuple[str, ...]
    inputs: tuple[str, ...]
    """The model's inputs that the cut reads."""
    optional: tuple[str, ...]
    """The inputs that may be fed."""
    fed: tuple[str, ...]
    """Fed tensors that are themselves requested: fetching them returns the fed values."""
    given: Mapping[str, Leaf]
    """How each given tensor is made from a fed one."""
    starts: tuple[str, ...]
    """Sources of given tensors that the cut reads, except the model's inputs."""
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
    """Plan the part of `graph` that computes `tensors`.

    The same sources give the same plan, and so the same cut, in any order.

    Args:
        given: tensors that need not be computed; the search back from `tensors` stops at them.
        appended: nodes to be added. Their outputs are among the leaves.
        peeled: whether Transposes at the end are left to numpy.

    Raises:
        MissingTensorError: the graph lacks a tensor.
    """
    makers = _makers(graph)
    known = makers.keys() | graph.inputs.keys() | graph.initializers.keys() | graph.optional.keys()
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
        elif name in graph.initializers or name in graph.optional:
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
    """How each tensor is made from its source by Transposes and Identities only.

    Raises:
        MissingTensorError: the graph lacks a tensor.
    """
    makers = _makers(graph)
    known = makers.keys() | graph.inputs.keys() | graph.initializers.keys() | graph.optional.keys()
    return {name: _peel(graph, makers, known, name) for name in tensors}


def places(graph: Graph, tensors: Iterable[str]) -> dict[str, int]:
    """The place in the order of execution at which each tensor is computed.

    A Transpose or Identity of a tensor has the place of that tensor. Inputs and constants have the
    place -1, before all nodes.

    Raises:
        MissingTensorError: the graph lacks a tensor.
    """
    made = {name: node for node in graph.nodes for name in node.writes}
    order = {id(node): at for at, node in enumerate(in_order(graph.nodes, made))}
    leaves = peel(graph, tensors)
    return {
        name: order[id(made[leaf.source])] if leaf.source in made else -1
        for name, leaf in leaves.items()
    }


def dependents(graph: Graph, tensors: Iterable[str]) -> set[int]:
    """Indices of the nodes that depend on any of `tensors`."""
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
    """The tensors that a plan computes without `tensors` and needs together with them.

    The rest of the plan can be computed from these and `tensors`.
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
        raise MissingTensorError(tensor)
    perms: list[Perm] = []
    seen: set[str] = set()
    source = tensor
    while source in makers and source not in seen and len(seen) < MOST_PEELED:
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
    """An unused name for a requested weight: onnxruntime does not return an initializer itself."""
    name = f"layertap:{name}"
    while name in known:
        name += "'"
    return name


def view(value: Any, perms: Iterable[Perm]) -> Any:
    """`value` with its axes in the order that the Transposes give, as a view."""
    for perm in perms:
        value = value.transpose(perm)
    return value
