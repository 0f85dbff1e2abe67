"""An index of an ONNX file: its nodes, weights, inputs and outputs by name, and their positions.

The index is built from the protobuf wire format without reading the weights. The field numbers are
those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, which never change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from layertap._record import Record

from .wire import (
    LEN,
    VARINT,
    Buffer,
    Span,
    WireError,
    fields,
    find,
    find_text,
    integer,
    integers,
    merged,
    text,
    varint,
)

Dims: TypeAlias = "tuple[int | str | None, ...]"
"""Sizes of the axes: a number, the name of a free size, or `None` for an unnamed free size."""

ELEMENT_TYPES = (
    "", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool",
    "float16", "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "uint4", "int4",
    "float4_e2m1fn", "float8_e8m0fnu", "uint2", "int2",
    "float6_e2m3fn", "float6_e3m2fn",
)  # fmt: skip
"""numpy (or ml_dtypes) names by `TensorProto.DataType`; empty for an undefined type."""

MAX_DEPTH = 32
"""Deepest nesting of subgraphs: protobuf's own limit of 100 nested messages is reached at 33."""


MAX_RANK = 255
"""Most axes of a tensor: numpy has at most 64, and onnxruntime fails with more."""


class TensorType(NamedTuple):
    """The type and shape that a file states for a tensor."""

    dtype: str = ""
    """numpy name; `sequence`, `map` or `optional` for a value that is not a tensor; empty if the
    file states none."""
    dims: Dims | None = None
    """Sizes of the axes; `None` if the file does not state the rank."""


class Node(NamedTuple):
    """One operation."""

    op_type: str
    domain: str
    name: str
    reads: tuple[str, ...]
    """Tensors that it needs: its inputs, and the outer tensors that its subgraphs use."""
    writes: tuple[str, ...]
    span: Span
    """The whole field, including its tag."""
    perm: tuple[int, ...] | None
    """The attribute `perm` of a Transpose, if it has one."""


class External(NamedTuple):
    """A reference to weights in another file."""

    location: str
    offset: int
    length: int | None


class Initializer(NamedTuple):
    """One constant of the graph, usually weights."""

    name: str
    type: TensorType
    span: Span
    """The whole field, including its tag."""
    external: External | None


class Graph(Record):
    """The index of an ONNX file."""

    ir_version: int
    opsets: Mapping[str, int]
    """Version of each operator set, by domain; the standard domain is the empty string."""
    producer: str
    metadata: Mapping[str, str]
    functions: frozenset[tuple[str, str]]
    """(domain, name) of the functions that the file defines."""
    nodes: tuple[Node, ...]
    initializers: Mapping[str, Initializer]
    inputs: Mapping[str, TensorType]
    """The inputs that must be fed, that is, all without an initializer of the same name."""
    optional: Mapping[str, TensorType]
    """The inputs that have an initializer of the same name, which is the default value; in an index
    also the weights of the scores that gradients are taken of, which are ones by default."""
    outputs: Mapping[str, Span]
    """The graph's outputs; the span is the `ValueInfoProto`."""
    listed: Mapping[str, Span]
    """Everything that the file lists as an input; the span is the `ValueInfoProto`."""
    values: tuple[Span, ...]
    """The `ValueInfoProto` of other tensors, not parsed."""
    locations: tuple[str, ...]
    """The names of other files with weights, as the file states them."""
    head: tuple[Span, ...]
    """Fields of the model that every cut copies: versions, operator sets, functions."""
    title: tuple[Span, ...]
    """The graph's name, a whole field."""


def read_graph(buffer: Buffer) -> Graph:
    """Index the ONNX model in `buffer`.

    Raises:
        WireError: the bytes are not an ONNX model, or are truncated.
    """
    metadata = read_metadata(buffer)
    reader = _Reader(buffer)
    head: list[Span] = []
    opsets: dict[str, int] = {}
    functions: set[tuple[str, str]] = set()
    ir_version, producer = 0, ""
    for number, wire, tag, start, end in fields(buffer, 0, len(buffer)):
        if number == 7 and wire == LEN:
            reader.read(start, end)  # protobuf merges a message that occurs twice
            continue
        if number == 1 and wire == VARINT:
            ir_version = integer(buffer, start, end)
        elif number == 2 and wire == LEN:
            producer = text(buffer, start, end)
        elif number == 8 and wire == LEN:
            domain, version = _opset(buffer, start, end)
            opsets[domain] = version
        elif number == 25 and wire == LEN:
            functions.add(reader.function(start, end))
        if number not in _OMITTED:
            head.append((tag, end))
    return Graph(
        ir_version=ir_version,
        opsets=opsets,
        producer=producer,
        metadata=metadata,
        functions=frozenset(functions),
        nodes=tuple(reader.nodes),
        initializers=reader.initializers,
        inputs={
            name: read_type(buffer, span)
            for name, span in reader.listed.items()
            if name not in reader.initializers
        },
        optional={
            name: read_type(buffer, span)
            for name, span in reader.listed.items()
            # Before IR version 4, every initializer had to be listed as an input, constants too.
            if name in reader.initializers and ir_version >= 4
        },
        outputs=reader.outputs,
        listed=reader.listed,
        values=tuple(reader.values),
        locations=tuple(reader.locations),
        head=tuple(head),
        title=tuple(reader.title),
    )


def read_metadata(buffer: Buffer) -> dict[str, str]:
    """The file's metadata, without reading its graph.

    Raises:
        WireError: the bytes are not an ONNX model, or are truncated.
    """
    metadata: dict[str, str] = {}
    has_graph = False
    for number, wire, _, start, end in fields(buffer, 0, len(buffer)):
        if number == 7 and wire == LEN:
            has_graph = True
        elif number == 14 and wire == LEN:
            key = find_text(buffer, start, end, 1)
            metadata[key] = find_text(buffer, start, end, 2)
    if not has_graph:
        raise WireError("it has no graph")
    return metadata


def read_value_spans(buffer: Buffer) -> dict[str, Span]:
    """What `read_values` gives, without reading the rest of the graph.

    Raises:
        WireError: the bytes are not an ONNX model, or are truncated.
    """
    found: dict[int, dict[str, Span]] = {13: {}, 12: {}, 11: {}}
    for number, wire, _, start, end in fields(buffer, 0, len(buffer)):
        if number == 7 and wire == LEN:
            for inner, inner_wire, _, at, stop in fields(buffer, start, end):
                if inner in found and inner_wire == LEN:
                    found[inner][find_text(buffer, at, stop, 1)] = at, stop
    return {name: span for spans in found.values() for name, span in spans.items()}


_OMITTED = frozenset({6, 14, 20})
"""Fields of the model that are not needed to run it: doc string, metadata, training."""


def read_values(buffer: Buffer, graph: Graph) -> dict[str, Span]:
    """The position of each `ValueInfoProto` in the main graph, by the tensor's name."""
    values = {find_text(buffer, *span, 1): span for span in graph.values}
    return {**values, **graph.outputs, **graph.listed}


def read_types(buffer: Buffer, graph: Graph) -> dict[str, TensorType]:
    """The types that the file states for tensors of the main graph, by name."""
    return {name: read_type(buffer, span) for name, span in read_values(buffer, graph).items()}


def read_type(buffer: Buffer, value: Span) -> TensorType:
    """The type that a `ValueInfoProto` states."""
    type_proto = find(buffer, *value, 2)
    if type_proto is None:
        return TensorType()
    for number, wire, _, start, end in fields(buffer, *type_proto):
        if number in _CONTAINERS:
            return TensorType(_CONTAINERS[number])
        if number in (1, 8) and wire == LEN:
            code, dims = 0, None
            for inner, inner_wire, _, at, stop in fields(buffer, start, end):
                if inner == 1 and inner_wire == VARINT:
                    code = varint(buffer, at, stop)[0]
                elif inner == 2 and inner_wire == LEN:
                    dims = _dims(buffer, at, stop)
            return TensorType(element_type(code), dims)
    return TensorType()


_CONTAINERS = {4: "sequence", 5: "map", 9: "optional"}


def element_type(code: int) -> str:
    """The name of a `TensorProto.DataType`; for an unknown code such as 99, `type 99`."""
    return ELEMENT_TYPES[code] if code < len(ELEMENT_TYPES) else f"type {code}"


def _dims(buffer: Buffer, start: int, end: int) -> Dims:
    dims: list[int | str | None] = []
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number == 1 and wire == LEN:
            size: int | str | None = None
            for inner, inner_wire, _, first, last in fields(buffer, at, stop):
                if inner == 1 and inner_wire == VARINT:
                    value = integer(buffer, first, last)
                    size = value if value >= 0 else None
                elif inner == 2 and inner_wire == LEN:
                    size = text(buffer, first, last) or None
            if len(dims) == MAX_RANK:
                raise WireError(f"a tensor has more than {MAX_RANK} axes")
            dims.append(size)
    return tuple(dims)


def _opset(buffer: Buffer, start: int, end: int) -> tuple[str, int]:
    domain, version = "", 0
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number == 1 and wire == LEN:
            domain = text(buffer, at, stop)
        elif number == 2 and wire == VARINT:
            version = integer(buffer, at, stop)
    return "" if domain == "ai.onnx" else domain, version


class _Reader:
    """Collects the contents of a `GraphProto`."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.nodes: list[Node] = []
        self.initializers: dict[str, Initializer] = {}
        self.listed: dict[str, Span] = {}
        self.outputs: dict[str, Span] = {}
        self.values: list[Span] = []
        self.title: list[Span] = []
        self.locations: dict[str, None] = {}

    def read(self, start: int, end: int) -> None:
        buffer = self.buffer
        for number, wire, tag, at, stop in fields(buffer, start, end):
            if wire != LEN:
                continue
            if number == 1:
                self.nodes.append(self.node(tag, at, stop, 0))
            elif number == 5:
                weights = self.tensor(tag, at, stop)
                self.initializers[weights.name] = weights
            elif number == 11:
                self.listed[find_text(buffer, at, stop, 1)] = at, stop
            elif number == 12:
                self.outputs[find_text(buffer, at, stop, 1)] = at, stop
            elif number == 13:
                self.values.append((at, stop))
            elif number == 15:
                weights = self.sparse_tensor(tag, at, stop)
                self.initializers[weights.name] = weights
            elif number == 2:
                self.title.append((tag, stop))

    def node(self, tag: int, start: int, end: int, depth: int) -> Node:
        buffer = self.buffer
        reads: dict[str, None] = {}
        writes: list[str] = []
        names = ["", "", ""]
        attributes: list[Span] = []
        omits = False
        for number, wire, _, at, stop in fields(buffer, start, end):
            if wire != LEN:
                continue
            if number == 5:
                attributes.append((at, stop))
            elif number == 1:
                if stop > at:  # an omitted input has an empty name
                    reads[text(buffer, at, stop)] = None
            elif number == 2:
                if stop > at:
                    writes.append(text(buffer, at, stop))
                else:
                    omits = True
            elif number == 3:
                names[0] = text(buffer, at, stop)
            elif number == 4:
                names[1] = text(buffer, at, stop)
            elif number == 7:
                names[2] = text(buffer, at, stop)
        name, op_type, domain = names
        if omits and op_type in _COMPLETE:
            raise WireError(f"a node of type {op_type} leaves out one of its outputs")
        perm = None
        for at, stop in attributes:
            order = _perm(buffer, at, stop) if op_type == "Transpose" else None
            if order is not None:
                perm = order
            elif may_nest(buffer, at, stop):
                reads.update(self.attribute(at, stop, depth))
        return Node(
            op_type,
            "" if domain == "ai.onnx" else domain,
            name,
            tuple(reads),
            tuple(writes),
            (tag, end),
            perm,
        )

    def attribute(self, start: int, end: int, depth: int) -> dict[str, None]:
        """The outer tensors that subgraphs in an attribute use. Also collects `locations`."""
        buffer = self.buffer
        captured: dict[str, None] = {}
        tensor: list[Span] = []
        sparse: list[Span] = []
        for number, wire, _, at, stop in fields(buffer, start, end):
            if wire != LEN:
                continue
            if number in (6, 11):
                captured.update(self.captures(at, stop, depth + 1))
            elif number == 5:
                tensor.append((at, stop))
            elif number == 10:
                self.tensor(at, at, stop)
            elif number == 22:
                sparse.append((at, stop))
            elif number == 23:
                self.locate_sparse(buffer, at, stop)
        if tensor:
            self.locate(read_tensor(*merged(buffer, tensor)))
        if sparse:
            self.locate_sparse(*merged(buffer, sparse))
        return captured

    def function(self, start: int, end: int) -> tuple[str, str]:
        """The domain and name of a `FunctionProto`. Also collects `locations`."""
        for number, wire, tag, at, stop in fields(self.buffer, start, end):
            if number == 7 and wire == LEN:
                self.node(tag, at, stop, 0)
            elif number == 11 and wire == LEN:
                self.attribute(at, stop, 0)
        return find_text(self.buffer, start, end, 10), find_text(self.buffer, start, end, 1)

    def captures(self, start: int, end: int, depth: int) -> dict[str, None]:
        """The outer tensors that a subgraph (a body of If, Loop or Scan) uses."""
        if depth > MAX_DEPTH:
            raise WireError(f"subgraphs are nested more than {MAX_DEPTH} deep")
        buffer = self.buffer
        reads: dict[str, None] = {}
        own: set[str] = set()
        for number, wire, tag, at, stop in fields(buffer, start, end):
            if wire != LEN:
                continue
            if number == 1:
                node = self.node(tag, at, stop, depth)
                reads.update(dict.fromkeys(node.reads))
                own.update(node.writes)
            elif number == 5:
                own.add(self.tensor(tag, at, stop).name)
            elif number == 15:
                own.add(self.sparse_tensor(tag, at, stop).name)
            elif number == 11:
                own.add(find_text(buffer, at, stop, 1))
            elif number == 12:
                reads[find_text(buffer, at, stop, 1)] = None
        return {name: None for name in reads if name not in own}

    def tensor(self, tag: int, start: int, end: int) -> Initializer:
        """The `TensorProto` in `buffer[start:end]`, without its data."""
        name, kind, external = read_tensor(self.buffer, start, end)
        self.locate((name, kind, external))
        return Initializer(name, kind, (tag, end), external)

    def sparse_tensor(self, tag: int, start: int, end: int) -> Initializer:
        """The `SparseTensorProto` in `buffer[start:end]`; its values hold its name."""
        name, kind = self.locate_sparse(self.buffer, start, end)
        return Initializer(name, kind, (tag, end), None)

    def locate_sparse(self, buffer: Buffer, start: int, end: int) -> tuple[str, TensorType]:
        """The name and type of a `SparseTensorProto`. Also collects `locations`."""
        parts: dict[int, list[Span]] = {1: [], 2: []}
        dims: list[int] = []
        for number, wire, _, at, stop in fields(buffer, start, end):
            if number in parts and wire == LEN:
                parts[number].append((at, stop))
            elif number == 3:
                _add_sizes(dims, integers(buffer, wire, at, stop))
        values, indices = (read_tensor(*merged(buffer, spans)) for spans in parts.values())
        self.locate(values)
        self.locate(indices)
        return values[0], TensorType(values[1].dtype, tuple(dims))

    def locate(self, tensor: Tensor) -> None:
        """Collect the location of a tensor's data, if they are in another file."""
        external = tensor[2]
        if external is not None:
            self.locations[external.location] = None


Tensor: TypeAlias = "tuple[str, TensorType, External | None]"
"""The name and type of a `TensorProto`, and where its data are, if they are in another file."""


def read_tensor(buffer: Buffer, start: int, end: int) -> Tensor:
    """The `TensorProto` in `buffer[start:end]`, without its data."""
    name, dtype = "", ""
    dims: list[int] = []
    entries: dict[str, str] = {}
    outside = False
    for number, wire, tag, at, stop in fields(buffer, start, end):
        if number == 1:
            _add_sizes(dims, integers(buffer, wire, at, stop))
        elif number == 2 and wire == VARINT:
            dtype = element_type(varint(buffer, at, stop)[0])
        elif number == 8 and wire == LEN:
            name = text(buffer, at, stop)
        elif number == 13 and wire == LEN:
            entries[find_text(buffer, at, stop, 1)] = find_text(buffer, at, stop, 2)
        elif number == 14 and wire == VARINT:
            # protobuf keeps 32 bits of the number, and passes over numbers that mean nothing.
            place = varint(buffer, at, stop)[0]
            if place > 1:
                raise WireError(f"the data location at byte {tag} is {place}, not 0 or 1")
            outside = place == 1
    if math.prod(dims) >> 63:
        raise WireError(f"the tensor at byte {start} has an impossible size")
    return name, TensorType(dtype, tuple(dims)), _external(entries) if outside else None


def _add_sizes(dims: list[int], sizes: Iterable[int]) -> None:
    """Append sizes of axes.

    Raises:
        WireError: there are more axes than any tensor has.
    """
    for size in sizes:
        if len(dims) == MAX_RANK:
            raise WireError(f"a tensor has more than {MAX_RANK} axes")
        dims.append(size)


_COMPLETE = frozenset({"If", "Loop", "Scan", "Split"})
"""Operators whose outputs cannot be left out one by one: onnxruntime ends the process if they are.
"""


def _perm(buffer: Buffer, start: int, end: int) -> tuple[int, ...] | None:
    """The integers of an attribute named `perm`; `None` for another attribute."""
    name = ""
    axes: list[int] = []
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number == 1 and wire == LEN:
            name = text(buffer, at, stop)
        elif number == 8:
            axes.extend(integers(buffer, wire, at, stop))
    return tuple(axes) if name == "perm" else None


def may_nest(buffer: Buffer, start: int, end: int) -> bool:
    """Whether an attribute may contain a graph or a tensor: a quick test for the tags' bytes.

    A tag has one spelling only, see `wire`.
    """
    if end - start > 256:
        return True
    return _NESTING.search(buffer[start:end]) is not None


# The tags of the fields 5, 6, 10, 11, 22 and 23, which are length-delimited.
_NESTING = re.compile(rb"[\x2a\x32\x52\x5a]|[\xb2\xba]\x01")


def _external(entries: Mapping[str, str]) -> External:
    location, length = entries.get("location", ""), entries.get("length")
    try:
        external = External(
            location, int(entries.get("offset") or 0), int(length) if length else None
        )
    except ValueError as exc:
        raise WireError(f"invalid external data: {exc}") from exc
    for number in external[1:]:
        if number is not None and not 0 <= number < 1 << 63:
            raise WireError(f"invalid external data: offset {external.offset}, length {length}")
    return external


def in_order(nodes: tuple[Node, ...], made: Mapping[str, Node]) -> Iterator[Node]:
    """The nodes, each after those that it reads from."""
    done = set[int]()
    for first in nodes:
        pending = [(first, False)]
        while pending:
            node, ready = pending.pop()
            if ready:
                yield node
            elif id(node) not in done:
                done.add(id(node))  # a damaged file may have a circle
                pending.append((node, True))
                pending += [(made[name], False) for name in node.reads if name in made]
