"""The cut: a smaller model that computes some tensors and nothing else.

onnxruntime runs every node of a graph, also those that lead to no requested tensor, and cannot
fuse over a tensor that is an output. So the cut keeps only what is on the way to the request, and
a Transpose or Identity at its end is peeled off: its source becomes the output, and numpy gives
the axes' order as a view.

What is kept is copied byte for byte; nothing but names and edges is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ._graph import ELEMENT_TYPES, External, Graph, TensorType, read_type, read_values
from ._wire import Buffer, Span, encode, fields, header

Perm: TypeAlias = "tuple[int, ...] | None"
"""A Transpose's order of axes; `None` reverses them."""

Placed: TypeAlias = "External | bytes"
"""Where weights of another file are to be found: in a file, or here they are."""


class Leaf(NamedTuple):
    """How a requested tensor is made from a tensor that is computed."""

    source: str
    perms: tuple[Perm, ...]
    """The Transposes to apply, first to last; none at all for the source itself."""


@dataclass(frozen=True, slots=True)
class CutPlan:
    """What a request takes of a graph."""

    leaves: Mapping[str, Leaf]
    """By requested tensor, in the order asked."""
    outputs: Mapping[str, str]
    """The cut's outputs: names in the cut by source. Fed inputs are not among the sources."""
    nodes: tuple[int, ...]
    """Positions of the nodes that stay."""
    initializers: tuple[str, ...]
    inputs: tuple[str, ...]
    """Inputs that the cut reads."""
    fed: tuple[str, ...]
    """Inputs that are themselves asked for: fetching one gives what was fed."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Every input that must be given."""
        return tuple(dict.fromkeys((*self.inputs, *self.fed)))


def plan(graph: Graph, tensors: Iterable[str]) -> CutPlan:
    """Decide what stays of `graph` for `tensors`.

    The same sources give the same plan, and so the same cut, in whatever order they are asked.

    Raises:
        KeyError: the graph has no such tensor.
    """
    makers = {name: at for at, node in enumerate(graph.nodes) for name in node.writes}
    known = makers.keys() | graph.inputs.keys() | graph.initializers.keys()
    leaves = {name: _peel(graph, makers, known, name) for name in tensors}
    sources = sorted({leaf.source for leaf in leaves.values()})
    fed = tuple(name for name in sources if name in graph.inputs)
    constants = [name for name in sources if name in graph.initializers]

    nodes: set[int] = set()
    inputs: set[str] = set()
    weights: set[str] = set(constants)
    open_ends = [name for name in sources if name not in graph.inputs]
    while open_ends:
        name = open_ends.pop()
        if name in graph.inputs:
            inputs.add(name)
        elif name in graph.initializers:
            weights.add(name)
        elif name in makers and makers[name] not in nodes:
            nodes.add(makers[name])
            open_ends.extend(graph.nodes[makers[name]].reads)

    return CutPlan(
        leaves=leaves,
        outputs={
            name: _copy_name(name, known) if name in constants else name
            for name in sources
            if name not in graph.inputs
        },
        nodes=tuple(sorted(nodes)),
        initializers=tuple(name for name in graph.initializers if name in weights),
        inputs=tuple(name for name in graph.inputs if name in inputs),
        fed=fed,
    )


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
) -> bytes:
    """The bytes of the model that `plan` describes.

    Args:
        buffer: the file that `graph` is the index of.
        place: says, for weights that are kept in another file, where they are from now on; without
            it they stay where the file says.
    """
    # Memory views, so that weights are copied once: when the chunks are joined.
    with memoryview(buffer) as view:
        body: list[bytes | memoryview] = [view[slice(*span)] for span in graph.title]
        body += [view[slice(*graph.nodes[at].span)] for at in plan.nodes]
        body += [_identity(name, copy) for name, copy in plan.outputs.items() if name != copy]
        for name in plan.initializers:
            weights = graph.initializers[name]
            if weights.external and place:
                body += _placed(buffer, weights.span, place(weights.external))
            else:
                body.append(view[slice(*weights.span)])
        kept = {*plan.inputs, *plan.initializers}
        body += [_named(buffer, 11, span) for name, span in graph.listed.items() if name in kept]
        body += _outputs(buffer, graph, plan)
        model: list[bytes | memoryview] = [view[slice(*span)] for span in graph.head]
        model.append(header(7, sum(map(len, body))))
        joined = b"".join([*model, *body])
        for chunk in (*model, *body):
            if isinstance(chunk, memoryview):
                chunk.release()
    return joined


def _named(buffer: Buffer, number: int, span: Span) -> bytes:
    return encode(number, bytes(buffer[slice(*span)]))


def _identity(name: str, copy: str) -> bytes:
    return encode(1, encode(1, name) + encode(2, copy) + encode(4, "Identity"))


def _placed(buffer: Buffer, span: Span, placed: Placed) -> list[bytes]:
    """A `TensorProto` field with its data inside, or with another reference to it."""
    ((_, _, _, start, end),) = fields(buffer, *span)
    kept = [
        bytes(buffer[tag:stop])
        for number, _, tag, _, stop in fields(buffer, start, end)
        if number not in (13, 14)
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


def _outputs(buffer: Buffer, graph: Graph, plan: CutPlan) -> Iterator[bytes]:
    """The cut's outputs, with their types where the file states them."""
    stated = read_values(buffer, graph)
    # Of the tensors made from one source any tells its type; which one must not hang on the order.
    telling = {
        plan.leaves[tensor].source: tensor for tensor in sorted(plan.leaves) if tensor in stated
    }
    for source, name in plan.outputs.items():
        if name != source:
            yield encode(12, encode(1, name) + _type(graph.initializers[source].type, ()))
        elif source in stated:
            yield _named(buffer, 12, stated[source])
        elif source in telling:
            tensor = telling[source]
            kind = read_type(buffer, stated[tensor])
            yield encode(12, encode(1, name) + _type(kind, plan.leaves[tensor].perms))
        else:
            yield encode(12, encode(1, name))  # onnxruntime infers it


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
