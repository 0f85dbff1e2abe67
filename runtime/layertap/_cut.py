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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeAlias

from ._graph import (
    ELEMENT_TYPES,
    External,
    Graph,
    Initializer,
    Node,
    TensorType,
    read_type,
    read_values,
)
from ._record import Record
from ._wire import Buffer, Span, encode, fields, find, header, text

Perm: TypeAlias = "tuple[int, ...] | None"
"""A Transpose's order of axes; `None` reverses them."""

Placed: TypeAlias = "External | bytes"
"""Where weights of another file are to be found: in a file, or here they are."""

SMALL = 1024
"""Bytes of weights from which on they may stay in the file: a reference takes some hundred."""


class Leaf(NamedTuple):
    """How a requested tensor is made from a tensor that is computed."""

    source: str
    perms: tuple[Perm, ...]
    """The Transposes to apply, first to last; none at all for the source itself."""


class Appended(NamedTuple):
    """Nodes that are no part of the file, to be computed at the end of the cut."""

    reads: str
    """The tensor that they start from."""
    writes: Mapping[str, tuple[TensorType, tuple[Perm, ...]]]
    """New outputs: what is known of their type, and the Transposes to apply to the value."""
    nodes: bytes
    """Whole fields of the graph."""


class CutPlan(Record):
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

    @property
    def needs(self) -> tuple[str, ...]:
        """Every input of the model that must be fed."""
        sources = {leaf.source for leaf in self.given.values()}
        fed = dict.fromkeys((*self.inputs, *self.fed))
        return tuple(name for name in fed if name not in sources)

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Equal for plans that lead to the same cut."""
        return tuple(self.outputs), self.starts


def plan(
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
    starts = {name: _peel(graph, makers, known, name) for name in given}
    fed = graph.inputs.keys() | {leaf.source for leaf in starts.values()}
    sources = sorted({leaf.source for leaf in leaves.values()})
    constants = {name for name in sources if name in graph.initializers and name not in fed}

    nodes: set[int] = set()
    reads: set[str] = set()
    weights: set[str] = set(constants)
    open_ends = [name for name in sources if name not in fed]
    open_ends += [extra.reads for extra in appended]
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
    return CutPlan(
        leaves=leaves,
        outputs={name: outputs[name] for name in sorted(outputs)},
        nodes=tuple(sorted(nodes)),
        initializers=tuple(name for name in graph.initializers if name in weights),
        inputs=tuple(name for name in graph.inputs if name in reads),
        optional=tuple(name for name in graph.optional if name in weights),
        fed=tuple(name for name in sources if name in fed),
        given=starts,
        starts=tuple(sorted(reads - graph.inputs.keys())),
        appended=tuple(sorted(appended, key=lambda extra: sorted(extra.writes))),
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
    wanted |= plan.outputs.keys() | {extra.reads for extra in plan.appended}
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
        kind = node.domain, node.op_type
        if kind not in _LEAVES or kind in graph.functions:
            break
        if len(node.reads) != 1 or node.reads[0] not in known:
            break
        if node.op_type == "Transpose":
            perms.append(node.perm)
        source = node.reads[0]
    return Leaf(source, tuple(reversed(perms)))


_LEAVES = {("", "Transpose"), ("", "Identity")}


def _copy_name(name: str, known: AbstractSet[str]) -> str:
    """A free name for a weight that is asked for: an output cannot well be an initialiser."""
    name = f"layertap:{name}"
    while name in known:
        name += "'"
    return name


def write(
    buffer: Buffer,
    graph: Graph,
    plan: CutPlan,
    place: Callable[[External], Placed] | None = None,
    types: Mapping[str, TensorType] | None = None,
    stay: Callable[[int, int], External | None] | None = None,
) -> bytes:
    """The bytes of the model that `plan` describes.

    Args:
        buffer: the file that `graph` is the index of.
        place: says, for weights that are kept in another file, where they are from now on; without
            it they stay where the file says.
        types: of given tensors, by source, for where the file does not state them.
        stay: gives a reference to weights that stand in `buffer` from one byte to another, if
            there is one; without it they are copied.
    """
    # Memory views, so that weights are copied once: when the chunks are joined.
    with memoryview(buffer) as view:
        body = _computing(view, buffer, graph, plan, place, stay)
        body += [_identity(name, copy) for name, copy in plan.outputs.items() if name != copy]
        body += _listed(buffer, graph, plan, plan.inputs)
        body += _inputs(buffer, graph, plan, types or {})
        body += _outputs(buffer, graph, plan)
        return _joined(view, graph, body)


def write_part(
    buffer: Buffer,
    graph: Graph,
    plan: CutPlan,
    place: Callable[[External], Placed],
    types: Mapping[str, bytes],
    metadata: Mapping[str, str],
) -> bytes:
    """A model file of its own, whose inputs and outputs are the tensors themselves, unpeeled.

    Args:
        types: the `ValueInfoProto` of each given and each requested tensor.
        metadata: what to write beside the graph.
    """
    entries = b"".join(_entry(name, leaf) for name, leaf in plan.given.items())
    sources = {leaf.source for leaf in plan.given.values()}
    left_out = plan.given.keys() - sources
    made = {name for at in plan.nodes for name in graph.nodes[at].writes}
    made |= plan.given.keys() | sources | graph.inputs.keys()
    exits = b"".join(_exit(name, leaf) for name, leaf in plan.leaves.items() if name not in made)
    with memoryview(buffer) as view:
        body = _computing(view, buffer, graph, plan, place, None, entries, left_out)
        body.append(exits)
        body += _listed(buffer, graph, plan, plan.needs)
        body += [encode(11, types[name]) for name in plan.given if name not in graph.inputs]
        body += [encode(12, types[name]) for name in plan.leaves]
        tail = [encode(14, encode(1, key) + encode(2, text)) for key, text in metadata.items()]
        return _joined(view, graph, body, tail)


def _computing(
    view: memoryview,
    buffer: Buffer,
    graph: Graph,
    plan: CutPlan,
    place: Callable[[External], Placed] | None,
    stay: Callable[[int, int], External | None] | None,
    entries: bytes = b"",
    left_out: AbstractSet[str] = frozenset(),
) -> list[bytes | memoryview]:
    """The fields of the graph that compute something.

    Args:
        entries: nodes that come first.
        left_out: names of tensors whose nodes are left out.
    """
    taken = {*plan.starts, *(leaf.source for leaf in plan.given.values())}
    body: list[bytes | memoryview] = [view[slice(*span)] for span in graph.title]
    body.append(entries)
    for at in plan.nodes:
        node = graph.nodes[at]
        if not left_out.isdisjoint(node.writes):
            continue
        if taken.isdisjoint(node.writes):
            body.append(view[slice(*node.span)])
        else:
            body.append(_renamed(buffer, node, taken))
    body += [extra.nodes for extra in plan.appended]
    for name in plan.initializers:
        weights = graph.initializers[name]
        raw = _raw_data(buffer, weights) if stay else None
        if weights.external and place:
            body += _placed(buffer, weights.span, place(weights.external))
        elif raw and stay and (reference := stay(*raw)):
            body += _placed(buffer, weights.span, reference)
        else:
            body.append(view[slice(*weights.span)])
    return body


def _listed(buffer: Buffer, graph: Graph, plan: CutPlan, inputs: Iterable[str]) -> list[bytes]:
    """Inputs, and initialisers that the file lists among them, as it has them."""
    kept = {*inputs, *plan.initializers}
    return [_named(buffer, 11, span) for name, span in graph.listed.items() if name in kept]


def _joined(
    view: memoryview,
    graph: Graph,
    body: Sequence[bytes | memoryview],
    tail: Sequence[bytes] = (),
) -> bytes:
    model: list[bytes | memoryview] = [view[slice(*span)] for span in graph.head]
    model.append(header(7, sum(map(len, body))))
    joined = b"".join([*model, *body, *tail])
    for chunk in (*model, *body):
        if isinstance(chunk, memoryview):
            chunk.release()
    return joined


def _exit(name: str, leaf: Leaf) -> bytes:
    """Nodes that make a tensor from its source."""
    return _chain(leaf.source, name, leaf.perms)


def _entry(name: str, leaf: Leaf) -> bytes:
    """Nodes that make the source from a tensor."""
    if name == leaf.source:
        return b""
    turned = [
        None if perm is None else tuple(perm.index(axis) for axis in range(len(perm)))
        for perm in reversed(leaf.perms)
    ]
    return _chain(name, leaf.source, turned)


def _chain(source: str, target: str, perms: Sequence[Perm]) -> bytes:
    if not perms:
        return _identity(source, target)
    steps = [source, *(f"layertap:{target}/{i}" for i in range(1, len(perms))), target]
    nodes = b""
    for perm, before, after in zip(perms, steps, steps[1:], strict=False):
        node = encode(1, before) + encode(2, after) + encode(4, "Transpose")
        if perm is not None:
            axes = b"".join(encode(8, axis) for axis in perm)
            node += encode(5, encode(1, "perm") + axes + encode(20, 7))
        nodes += encode(1, node)
    return nodes


def value_info(name: str, kind: TensorType) -> bytes:
    """The `ValueInfoProto` of a tensor."""
    return encode(1, name) + _type(kind, ())


def _named(buffer: Buffer, number: int, span: Span) -> bytes:
    return encode(number, bytes(buffer[slice(*span)]))


def _renamed(buffer: Buffer, node: Node, taken: AbstractSet[str]) -> bytes:
    """A node that stays for the sake of its other outputs: those that are given get new names."""
    ((_, _, _, start, end),) = fields(buffer, *node.span)
    parts = []
    for number, _, tag, at, stop in fields(buffer, start, end):
        name = text(buffer, at, stop) if number == 2 else ""
        parts.append(encode(2, f"layertap:{name}") if name in taken else bytes(buffer[tag:stop]))
    return encode(1, b"".join(parts))


def _identity(name: str, copy: str) -> bytes:
    return encode(1, encode(1, name) + encode(2, copy) + encode(4, "Identity"))


def _raw_data(buffer: Buffer, weights: Initializer) -> Span | None:
    """Where the data of a constant are, if they stand there as they are and are worth referring to.

    Whole numbers of 64 bits may be a shape, which onnxruntime wants to see when it infers others.
    """
    ((number, _, _, start, end),) = fields(buffer, *weights.span)
    sparse = number != 5
    if sparse or weights.external or weights.type.dtype in ("int64", "string"):
        return None
    raw = find(buffer, start, end, 9)
    return raw if raw and raw[1] - raw[0] >= SMALL else None


def _placed(buffer: Buffer, span: Span, placed: Placed) -> list[bytes]:
    """A `TensorProto` field with its data inside, or with another reference to it."""
    ((_, _, _, start, end),) = fields(buffer, *span)
    kept = [
        bytes(buffer[tag:stop])
        for number, _, tag, _, stop in fields(buffer, start, end)
        if number not in (9, 13, 14)
    ]
    if isinstance(placed, External):
        entries = {"location": placed.location, "offset": str(placed.offset)}
        if placed.length is not None:
            entries["length"] = str(placed.length)
        kept += [encode(13, encode(1, key) + encode(2, text)) for key, text in entries.items()]
        kept.append(encode(14, 1))
    else:
        kept += [header(9, len(placed)), placed]
    return [header(5, sum(map(len, kept))), *kept]


def _inputs(
    buffer: Buffer, graph: Graph, plan: CutPlan, types: Mapping[str, TensorType]
) -> Iterator[bytes]:
    """The given tensors as inputs of the cut."""
    if not plan.starts:
        return
    stated = read_values(buffer, graph)
    telling = _telling(plan.given, stated)
    for source in plan.starts:
        if source in stated:
            yield _named(buffer, 11, stated[source])
        elif source in telling:
            tensor = telling[source]
            kind = read_type(buffer, stated[tensor])
            yield encode(11, encode(1, source) + _type(kind, plan.given[tensor].perms))
        else:
            yield encode(11, encode(1, source) + _type(types.get(source, TensorType()), ()))


def _outputs(buffer: Buffer, graph: Graph, plan: CutPlan) -> Iterator[bytes]:
    """The cut's outputs, with their types where the file states them."""
    stated = read_values(buffer, graph)
    telling = _telling(plan.leaves, stated)
    new = {name: kind for extra in plan.appended for name, (kind, _) in extra.writes.items()}
    for source, name in plan.outputs.items():
        if source in new:
            yield encode(12, encode(1, name) + _type(new[source], ()))
        elif name != source:
            yield encode(12, encode(1, name) + _type(graph.initializers[source].type, ()))
        elif source in stated:
            yield _named(buffer, 12, stated[source])
        elif source in telling:
            tensor = telling[source]
            kind = read_type(buffer, stated[tensor])
            yield encode(12, encode(1, name) + _type(kind, plan.leaves[tensor].perms))
        else:
            yield encode(12, encode(1, name))  # onnxruntime infers it


def _telling(leaves: Mapping[str, Leaf], stated: Mapping[str, Span]) -> dict[str, str]:
    """Of the tensors made from one source one whose type is stated, by source."""
    # Any of them tells; which one must not hang on the order.
    return {leaves[tensor].source: tensor for tensor in sorted(leaves) if tensor in stated}


def _type(kind: TensorType, perms: Sequence[Perm]) -> bytes:
    """The `TypeProto` field of a tensor that becomes `kind` by `perms`; empty when unknown."""
    if kind.dtype not in ELEMENT_TYPES[1:]:
        return b""
    tensor = encode(1, ELEMENT_TYPES.index(kind.dtype))
    dims = kind.dims
    for perm in reversed(perms):
        if dims is None:
            break
        axes = tuple(reversed(range(len(dims)))) if perm is None else perm
        if sorted(axes) != list(range(len(dims))):
            dims = None
            break
        stated = dict(zip(axes, dims, strict=True))
        dims = tuple(stated[axis] for axis in range(len(dims)))
    if dims is not None:
        tensor += encode(2, b"".join(encode(1, _dim(size)) for size in dims))
    return encode(2, encode(1, tensor))


def _dim(size: int | str | None) -> bytes:
    if size is None:
        return b""
    return encode(1, size) if isinstance(size, int) else encode(2, size)
