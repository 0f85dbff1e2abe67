"""An index of an ONNX file: its nodes, weights, inputs and outputs by name, and where they stand.

All of it is read off the wire format; weights are passed over. Field numbers are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, which never change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
    text,
    varint,
)

Dims: TypeAlias = "tuple[int | str | None, ...]"
"""Sizes of the axes: a number, the name of a free size, or `None` for a nameless free size."""

ELEMENT_TYPES = (
    "", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool",
    "float16", "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16",
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "uint4", "int4",
    "float4_e2m1fn", "float8_e8m0fnu", "uint2", "int2",
    "float6_e2m3fn", "float6_e3m2fn",
)  # fmt: skip
"""numpy (or ml_dtypes) names by `TensorProto.DataType`; empty where the file states none."""

MAX_DEPTH = 32
"""Subgraphs in subgraphs: protobuf's own limit of 100 nested messages comes at 33."""


class TensorType(NamedTuple):
    """What a file states about a tensor."""

    dtype: str = ""
    """numpy name; `sequence`, `map` or `optional` for what is no tensor; empty when unstated."""
    dims: Dims | None = None
    """Sizes of the axes; `None` when even their number is unstated."""


class Node(NamedTuple):
    """One operation."""

    op_type: str
    domain: str
    name: str
    reads: tuple[str, ...]
    """Tensors that it needs: its inputs, and what its subgraphs capture from outside."""
    writes: tuple[str, ...]
    span: Span
    """The whole field, tag included."""
    perm: tuple[int, ...] | None
    """`perm` of a Transpose that has one."""


class External(NamedTuple):
    """Weights that are kept in another file."""

    location: str
    offset: int
    length: int | None


class Initializer(NamedTuple):
    """One constant of the graph: weights, in the main."""

    name: str
    type: TensorType
    span: Span
    """The whole field, tag included."""
    external: External | None


class Graph(Record):
    """What is where in an ONNX file."""

    ir_version: int
    opsets: Mapping[str, int]
    """Version of each operator set, by domain; the standard one is the empty string."""
    producer: str
    metadata: Mapping[str, str]
    functions: frozenset[tuple[str, str]]
    """(domain, name) of the functions that the file brings along."""
    nodes: tuple[Node, ...]
    initializers: Mapping[str, Initializer]
    inputs: Mapping[str, TensorType]
    """What must be fed: initialisers that the file also lists as inputs are not among them."""
    optional: Mapping[str, TensorType]
    """Those, which may be fed; what the file states is then only what is taken if they are not."""
    outputs: Mapping[str, Span]
    """The graph's outputs; the span is their `ValueInfoProto`."""
    listed: Mapping[str, Span]
    """Everything that the file lists as an input; the span is the `ValueInfoProto`."""
    values: tuple[Span, ...]
    """The `ValueInfoProto`s of further tensors, unread."""
    locations: tuple[str, ...]
    """The other files that hold weights, as the file names them."""
    head: tuple[Span, ...]
    """Fields of the model that every cut carries on: versions, operator sets, functions."""
    title: tuple[Span, ...]
    """The graph's name, a whole field."""


def read_graph(buffer: Buffer) -> Graph:
    """Index the ONNX model in `buffer`.

    Raises:
        WireError: the bytes are no ONNX model, or it is cut off.
    """
    reader = _Reader(buffer)
    head: list[Span] = []
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    functions: set[tuple[str, str]] = set()
    ir_version, producer, graphs = 0, "", 0
    for number, kind, tag, start, end in fields(buffer, 0, len(buffer)):
        if number == 7 and kind == LEN:
            graphs += 1
            reader.read(start, end)  # protobuf merges a message that stands there twice
            continue
        if number == 1 and kind == VARINT:
            ir_version = integer(buffer, start, end)
        elif number == 2 and kind == LEN:
            producer = text(buffer, start, end)
        elif number == 8 and kind == LEN:
            domain, version = _opset(buffer, start, end)
            opsets[domain] = version
        elif number == 14 and kind == LEN:
            key = find_text(buffer, start, end, 1)
            metadata[key] = find_text(buffer, start, end, 2)
        elif number == 25 and kind == LEN:
            function = find_text(buffer, start, end, 10), find_text(buffer, start, end, 1)
            functions.add(function)
        if number not in _LEFT_OUT:
            head.append((tag, end))
    if not graphs:
        raise WireError("there is no graph in it")
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
            # Before version 4 every initialiser had to be listed, and is a constant all the same.
            if name in reader.initializers and ir_version >= 4
        },
        outputs=reader.outputs,
        listed=reader.listed,
        values=tuple(reader.values),
        locations=tuple(reader.locations),
        head=tuple(head),
        title=tuple(reader.title),
    )


_LEFT_OUT = frozenset({6, 14, 20})
"""Fields of the model that say nothing about running it: doc string, metadata, training."""


def read_values(buffer: Buffer, graph: Graph) -> dict[str, Span]:
    """Where the `ValueInfoProto` of each tensor is whose type the file states; not inner graphs."""
    values = {find_text(buffer, *span, 1): span for span in graph.values}
    return {**values, **graph.outputs, **graph.listed}


def read_types(buffer: Buffer, graph: Graph) -> dict[str, TensorType]:
    """What the file states about its tensors, by name."""
    return {name: read_type(buffer, span) for name, span in read_values(buffer, graph).items()}


def read_type(buffer: Buffer, value: Span) -> TensorType:
    """The type that a `ValueInfoProto` states."""
    kind = find(buffer, *value, 2)
    if kind is None:
        return TensorType()
    for number, wire, _, start, end in fields(buffer, *kind):
        if number in _CONTAINERS:
            return TensorType(_CONTAINERS[number])
        if number in (1, 8) and wire == LEN:
            code, dims = 0, None
            for part, wire_, _, at, stop in fields(buffer, start, end):
                if part == 1 and wire_ == VARINT:
                    code = varint(buffer, at, stop)[0]
                elif part == 2 and wire_ == LEN:
                    dims = _dims(buffer, at, stop)
            return TensorType(element_type(code), dims)
    return TensorType()


_CONTAINERS = {4: "sequence", 5: "map", 9: "optional"}


def element_type(code: int) -> str:
    """The name of a `TensorProto.DataType`; one that is newer than this list reads `type 99`."""
    return ELEMENT_TYPES[code] if code < len(ELEMENT_TYPES) else f"type {code}"


def _dims(buffer: Buffer, start: int, end: int) -> Dims:
    dims: list[int | str | None] = []
    for number, kind, _, at, stop in fields(buffer, start, end):
        if number == 1 and kind == LEN:
            size: int | str | None = None
            for part, wire, _, first, last in fields(buffer, at, stop):
                if part == 1 and wire == VARINT:
                    value = integer(buffer, first, last)
                    size = value if value >= 0 else None
                elif part == 2 and wire == LEN:
                    size = text(buffer, first, last) or None
            dims.append(size)
    return tuple(dims)


def _opset(buffer: Buffer, start: int, end: int) -> tuple[str, int]:
    domain, version = "", 0
    for number, kind, _, at, stop in fields(buffer, start, end):
        if number == 1 and kind == LEN:
            domain = text(buffer, at, stop)
        elif number == 2 and kind == VARINT:
            version = integer(buffer, at, stop)
    return "" if domain == "ai.onnx" else domain, version


class _Reader:
    """Collects what stands in a `GraphProto`."""

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
        for number, kind, tag, at, stop in fields(buffer, start, end):
            if kind != LEN:
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
        for number, kind, _, at, stop in fields(buffer, start, end):
            if kind != LEN:
                continue
            if number == 5:
                attributes.append((at, stop))
            elif number == 1:
                if stop > at:  # an input left out has an empty name
                    reads[text(buffer, at, stop)] = None
            elif number == 2:
                if stop > at:
                    writes.append(text(buffer, at, stop))
            elif number == 3:
                names[0] = text(buffer, at, stop)
            elif number == 4:
                names[1] = text(buffer, at, stop)
            elif number == 7:
                names[2] = text(buffer, at, stop)
        name, op_type, domain = names
        perm = None
        for at, stop in attributes:
            order = _perm(buffer, at, stop) if op_type == "Transpose" else None
            if order is not None:
                perm = order
            elif _may_nest(buffer, at, stop):
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
        """What the subgraphs of an attribute capture; notes where its tensors keep their data."""
        captured: dict[str, None] = {}
        for number, kind, tag, at, stop in fields(self.buffer, start, end):
            if kind != LEN:
                continue
            if number in (6, 11):
                captured.update(self.captures(at, stop, depth + 1))
            elif number in (5, 10):
                self.tensor(tag, at, stop)
            elif number in (22, 23):
                self.sparse_tensor(tag, at, stop)
        return captured

    def captures(self, start: int, end: int, depth: int) -> dict[str, None]:
        """The names that an inner graph (a body of If, Loop or Scan) takes from outside."""
        if depth > MAX_DEPTH:
            raise WireError(f"graphs within graphs, more than {MAX_DEPTH} deep")
        buffer = self.buffer
        reads: dict[str, None] = {}
        own: set[str] = set()
        for number, kind, tag, at, stop in fields(buffer, start, end):
            if kind != LEN:
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
        """The `TensorProto` in `buffer[start:end]`, its data passed over."""
        buffer = self.buffer
        name, dtype = "", ""
        dims: list[int] = []
        entries: dict[str, str] = {}
        outside = False
        for number, kind, _, at, stop in fields(buffer, start, end):
            if number == 1 and kind == VARINT:
                dims.append(integer(buffer, at, stop))
            elif number == 1:
                dims.extend(integers(buffer, kind, at, stop))
            elif number == 2 and kind == VARINT:
                dtype = element_type(varint(buffer, at, stop)[0])
            elif number == 8 and kind == LEN:
                name = text(buffer, at, stop)
            elif number == 13 and kind == LEN:
                entries[find_text(buffer, at, stop, 1)] = find_text(buffer, at, stop, 2)
            elif number == 14 and kind == VARINT:
                outside = varint(buffer, at, stop)[0] == 1
        external = _external(entries) if outside else None
        if external:
            self.locations[external.location] = None
        return Initializer(name, TensorType(dtype, tuple(dims)), (tag, end), external)

    def sparse_tensor(self, tag: int, start: int, end: int) -> Initializer:
        """The `SparseTensorProto` in `buffer[start:end]`: it is named after its values."""
        values = find(self.buffer, start, end, 1)
        tensor = self.tensor(tag, *(values or (start, start)))
        indices = find(self.buffer, start, end, 2)
        if indices:
            self.tensor(tag, *indices)
        dims = tuple(_integers(self.buffer, start, end, 3))
        return Initializer(tensor.name, TensorType(tensor.type.dtype, dims), (tag, end), None)


def _perm(buffer: Buffer, start: int, end: int) -> tuple[int, ...] | None:
    """The integers of an attribute that is called so."""
    name = ""
    axes: list[int] = []
    for number, kind, _, at, stop in fields(buffer, start, end):
        if number == 1 and kind == LEN:
            name = text(buffer, at, stop)
        elif number == 8:
            axes.extend(integers(buffer, kind, at, stop))
    return tuple(axes) if name == "perm" else None


def _integers(buffer: Buffer, start: int, end: int, wanted: int) -> Iterator[int]:
    for number, kind, _, at, stop in fields(buffer, start, end):
        if number == wanted:
            yield from integers(buffer, kind, at, stop)


def _may_nest(buffer: Buffer, start: int, end: int) -> bool:
    """Whether an attribute can hold a graph or a tensor; most are short, and a look tells."""
    if end - start > 256:
        return True
    return _NESTING.search(buffer[start:end]) is not None


# The tags of fields 5, 6, 10 and 11, and of 22 and 23, whose values have a length.
_NESTING = re.compile(rb"[\x2a\x32\x52\x5a]|[\xb2\xba]\x01")


def _external(entries: Mapping[str, str]) -> External:
    try:
        length = entries.get("length")
        return External(
            entries.get("location", ""),
            int(entries.get("offset", 0)),
            int(length) if length else None,
        )
    except ValueError as exc:
        raise WireError(f"external data with {exc}") from exc
