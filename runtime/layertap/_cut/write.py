"""The bytes of a cut: kept nodes are copied, and new ones are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from layertap.format.graph import (
    External,
    Graph,
    Initializer,
    TensorType,
    read_type,
    read_values,
)
from layertap.format.limits import REFERENCE_BYTES
from layertap.format.references import DATA_LOCATION, EXTERNAL_DATA, RAW_DATA, stripped
from layertap.format.wire import Buffer, Span, encode, fields, find, header

from .means import NOTHING, Spared
from .nodes import entry_nodes, exit_nodes, node_field, ones_field, renamed_node, type_field
from .origins import field_without_origins, is_of_exporter, without_origins
from .plan import CutPlan, Leaf

Located: TypeAlias = "External | bytes"
"""Weights of an external file: a reference to a file, or the bytes themselves."""


def write_cut(
    buffer: Buffer,
    graph: Graph,
    plan: CutPlan,
    locate: Callable[[External], Located] | None = None,
    dtypes: Mapping[str, str] | None = None,
    stay: Callable[[int, int], External | None] | None = None,
    spared: Spared = NOTHING,
) -> bytes:
    """The bytes of the model that `plan` describes.

    Args:
        buffer: the file that `graph` is the index of.
        locate: for weights in an external file, gives their new location; without it they stay
            where they are.
        dtypes: of given tensors, by source, used if the file does not state them.
        stay: gives a reference to weights within `buffer`, from their first and last byte, if it
            can; without it they are copied.
        spared: what is left out.
    """
    # Memory views, so that weights are copied only once, when the chunks are joined.
    with memoryview(buffer) as view:
        body = _computing(view, buffer, graph, plan, locate, stay, spared=spared)
        body += [
            node_field("Identity", [name], [copy])
            for name, copy in plan.outputs.items()
            if name != copy
        ]
        body += _listed(buffer, graph, plan, plan.inputs)
        body += _inputs(buffer, graph, plan, dtypes or {})
        body += _outputs(buffer, graph, plan)
        return _joined(view, graph, body)


def write_cut_file(
    buffer: Buffer,
    graph: Graph,
    plan: CutPlan,
    locate: Callable[[External], Located],
    types: Mapping[str, bytes],
    metadata: Mapping[str, str],
    defaults: Mapping[str, TensorType | None],
) -> bytes:
    """The bytes of a model file with the tensors themselves, unpeeled, as inputs and outputs.

    Args:
        types: the `ValueInfoProto` of each given and each requested tensor.
        metadata: the metadata of the file.
        defaults: by name of an optional input, the type of the ones that are its new default, or
            `None` for no default.
    """
    weights = tuple(name for name in plan.initializers if name not in defaults)
    made = [ones_field(name, kind) for name, kind in defaults.items() if kind]
    plan = plan._replace(initializers=weights)
    entries = b"".join(entry_nodes(name, leaf) for name, leaf in plan.given.items())
    sources = {leaf.source for leaf in plan.given.values()}
    left_out = plan.given.keys() - sources
    known = {name for at in plan.nodes for name in graph.nodes[at].writes}
    known |= plan.given.keys() | sources | graph.inputs.keys()
    exits = b"".join(
        exit_nodes(name, leaf) for name, leaf in plan.leaves.items() if name not in known
    )
    with memoryview(buffer) as view:
        body = _computing(
            view, buffer, graph, plan, locate, None, entries, left_out, with_origins=False
        )
        body += [exits, *made]
        for field in _listed(buffer, graph, plan, plan.needs):
            body.append(field_without_origins(field, 0, len(field), "value") or field)
        own = {name: without_origins(kind, 0, len(kind), "value") for name, kind in types.items()}
        stated = {name: types[name] if new is None else new for name, new in own.items()}
        body += [encode(11, stated[name]) for name in plan.given if name not in graph.inputs]
        body += [encode(12, stated[name]) for name in plan.leaves]
        tail = [
            encode(14, encode(1, key) + encode(2, text))
            for key, text in metadata.items()
            if not is_of_exporter(key)
        ]
        return _joined(view, graph, body, tail, _functions(buffer, graph))


def _computing(
    view: memoryview,
    buffer: Buffer,
    graph: Graph,
    plan: CutPlan,
    locate: Callable[[External], Located] | None,
    stay: Callable[[int, int], External | None] | None,
    entries: bytes = b"",
    left_out: AbstractSet[str] = frozenset(),
    spared: Spared = NOTHING,
    *,
    with_origins: bool = True,
) -> list[bytes | memoryview]:
    """The title, nodes and initializers of the cut, as fields of the graph.

    Args:
        entries: nodes that come first.
        left_out: names of tensors whose nodes are left out.
        spared: what else is left out.
        with_origins: whether nodes keep what their exporter says about where they came from.
    """
    taken = {*plan.starts, *(leaf.source for leaf in plan.given.values())}
    renamed = {name: f"layertap:{name}" for name in taken}
    body: list[bytes | memoryview] = [view[slice(*span)] for span in graph.title]
    body.append(entries)
    for at in plan.nodes:
        node = graph.nodes[at]
        if at in spared.nodes or not left_out.isdisjoint(node.writes):
            continue
        reads = spared.reads.get(at, {})
        if reads or not taken.isdisjoint(node.writes):
            # It is kept for its other outputs; the given ones get new names.
            changed: bytes | None = renamed_node(buffer, node, reads, renamed)
            if changed and not with_origins:
                changed = field_without_origins(changed, 0, len(changed), "node") or changed
        elif with_origins:
            changed = None
        else:
            changed = field_without_origins(buffer, *node.span, "node")
        body.append(view[slice(*node.span)] if changed is None else changed)
    body += [extra.nodes for extra in plan.appended]
    for name in plan.initializers:
        if name in spared.initializers:
            continue
        weights = graph.initializers[name]
        raw = _raw_data(buffer, weights) if stay else None
        if weights.external and locate:
            body += _located(buffer, weights.span, locate(weights.external))
        elif raw and stay and (reference := stay(*raw)):
            body += _located(buffer, weights.span, reference)
        else:
            body.append(view[slice(*weights.span)])
    return body


def _listed(buffer: Buffer, graph: Graph, plan: CutPlan, inputs: Iterable[str]) -> list[bytes]:
    """The entries of inputs, and of initializers that are listed as inputs, copied."""
    kept = {*inputs, *plan.initializers, *plan.optional}
    return [_named(buffer, 11, span) for name, span in graph.listed.items() if name in kept]


def _joined(
    view: memoryview,
    graph: Graph,
    body: Sequence[bytes | memoryview],
    tail: Sequence[bytes] = (),
    changed: Mapping[Span, bytes] | None = None,
) -> bytes:
    changed = changed or {}
    model: list[bytes | memoryview] = [
        changed.get(span) or view[slice(*span)] for span in graph.head
    ]
    model.append(header(7, sum(map(len, body))))
    joined = b"".join([*model, *body, *tail])
    for chunk in (*model, *body):
        if isinstance(chunk, memoryview):
            chunk.release()
    return joined


def _functions(buffer: Buffer, graph: Graph) -> dict[Span, bytes]:
    """The functions of the model that change without what their exporter says, by their span."""
    found = {}
    for span in graph.head:
        ((number, _, _, _, _),) = fields(buffer, *span)
        new = field_without_origins(buffer, *span, "function") if number == 25 else None
        if new is not None:
            found[span] = new
    return found


def _named(buffer: Buffer, number: int, span: Span) -> bytes:
    return encode(number, bytes(buffer[slice(*span)]))


def _raw_data(buffer: Buffer, weights: Initializer) -> Span | None:
    """The span of a constant's raw data, if it has such data and enough of it to be referenced.

    int64 data may be a shape, which onnxruntime must be able to read for shape inference.
    """
    ((number, _, _, start, end),) = fields(buffer, *weights.span)
    sparse = number != 5
    if sparse or weights.external or weights.type.dtype in ("int64", "string"):
        return None
    raw = find(buffer, start, end, RAW_DATA)
    return raw if raw and raw[1] - raw[0] >= REFERENCE_BYTES else None


def _located(buffer: Buffer, span: Span, located: Located) -> list[bytes]:
    """A `TensorProto` field with its data inside, or with a new reference to it."""
    ((_, _, _, start, end),) = fields(buffer, *span)
    kept = stripped(buffer, start, end)
    if isinstance(located, External):
        entries = {"location": located.location, "offset": str(located.offset)}
        if located.length is not None:
            entries["length"] = str(located.length)
        kept += [
            encode(EXTERNAL_DATA, encode(1, key) + encode(2, text)) for key, text in entries.items()
        ]
        kept.append(encode(DATA_LOCATION, 1))
    else:
        kept += [header(RAW_DATA, len(located)), located]
    return [header(5, sum(map(len, kept))), *kept]


def _inputs(
    buffer: Buffer, graph: Graph, plan: CutPlan, dtypes: Mapping[str, str]
) -> Iterator[bytes]:
    """The given tensors, as inputs of the cut."""
    if not plan.starts:
        return
    stated = read_values(buffer, graph)
    typed = _stated_leaves(plan.given, stated)
    for source in plan.starts:
        if source in stated:
            yield _named(buffer, 11, stated[source])
        elif source in typed:
            tensor = typed[source]
            kind = read_type(buffer, stated[tensor])
            yield encode(11, encode(1, source) + type_field(kind, plan.given[tensor].perms))
        else:
            yield encode(11, encode(1, source) + type_field(TensorType(dtypes.get(source, "")), ()))


def _outputs(buffer: Buffer, graph: Graph, plan: CutPlan) -> Iterator[bytes]:
    """The cut's outputs, with their types if the file states them."""
    stated = read_values(buffer, graph)
    typed = _stated_leaves(plan.leaves, stated)
    new = {name: kind for extra in plan.appended for name, (kind, _) in extra.writes.items()}
    for source, name in plan.outputs.items():
        if source in new:
            yield encode(12, encode(1, name) + type_field(new[source], ()))
        elif name != source:
            yield encode(12, encode(1, name) + type_field(graph.initializers[source].type, ()))
        elif source in stated:
            yield _named(buffer, 12, stated[source])
        elif source in typed:
            tensor = typed[source]
            kind = read_type(buffer, stated[tensor])
            yield encode(12, encode(1, name) + type_field(kind, plan.leaves[tensor].perms))
        else:
            yield encode(12, encode(1, name))  # onnxruntime infers it


def _stated_leaves(leaves: Mapping[str, Leaf], stated: Mapping[str, Span]) -> dict[str, str]:
    """For each source, a tensor made from it with a stated type."""
    # Any of them will do, but the choice must not depend on the order.
    return {leaves[tensor].source: tensor for tensor in sorted(leaves) if tensor in stated}
