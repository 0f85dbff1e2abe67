"""Nodes, their attributes and types as bytes of the ONNX format.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from layertap.format.graph import ELEMENT_TYPES, Node, TensorType
from layertap.format.wire import Buffer, encode, fields, text

from .plan import Leaf, Perm


class Body(bytes):
    """A `GraphProto`, as an attribute."""


Attribute: TypeAlias = "int | Sequence[int] | bytes | Body"
"""An attribute's value: an integer, several, a graph, or a tensor as `int64_tensor` writes it."""

_INT, _TENSOR, _GRAPH, _INTS = 2, 4, 5, 7
"""`AttributeProto.AttributeType`."""


def node_field(
    op_type: str,
    reads: Sequence[str],
    writes: Sequence[str],
    called: str = "",
    /,
    **attributes: Attribute,
) -> bytes:
    """A node of the standard operator set, as a field of the graph.

    Args:
        called: the name of the node, if it has one.
    """
    body = b"".join(encode(1, name) for name in reads)
    body += b"".join(encode(2, name) for name in writes)
    body += (encode(3, called) if called else b"") + encode(4, op_type)
    body += b"".join(encode(5, _attribute(name, value)) for name, value in attributes.items())
    return encode(1, body)


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, int):
        return encode(1, name) + encode(3, value) + encode(20, _INT)
    if isinstance(value, Body):
        return encode(1, name) + encode(6, value) + encode(20, _GRAPH)
    if isinstance(value, bytes):
        return encode(1, name) + encode(5, value) + encode(20, _TENSOR)
    return encode(1, name) + b"".join(encode(8, one) for one in value) + encode(20, _INTS)


def int64_tensor(values: Sequence[int]) -> bytes:
    """A `TensorProto` of one axis."""
    data = b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    return encode(1, len(values)) + encode(2, ELEMENT_TYPES.index("int64")) + encode(9, data)


def scalar_tensor(value: int, dtype: str) -> bytes:
    """A `TensorProto` without axes, of `int32` or `int64`."""
    data = value.to_bytes(4 if dtype == "int32" else 8, "little", signed=True)
    return encode(2, ELEMENT_TYPES.index(dtype)) + encode(9, data)


def ones_field(name: str, kind: TensorType) -> bytes:
    """An initializer of ones of a floating-point type, as a field of the graph.

    A free axis gets the size 1.
    """
    sizes = [size if isinstance(size, int) else 1 for size in kind.dims or ()]
    body = b"".join(encode(1, size) for size in sizes)
    body += encode(2, ELEMENT_TYPES.index(kind.dtype)) + encode(8, name)
    return encode(5, body + encode(9, _ONES[kind.dtype] * math.prod(sizes)))


_ONES = {
    "float32": struct.pack("<f", 1),
    "float64": struct.pack("<d", 1),
    "float16": struct.pack("<e", 1),
    "bfloat16": struct.pack("<f", 1)[2:],
}


def renamed_node(
    buffer: Buffer,
    node: Node,
    reads: Mapping[str, str],
    writes: Mapping[str, str],
    *,
    named: bool = True,
) -> bytes:
    """A node of a file with other names for some of the tensors that it reads or writes.

    What its subgraphs read keeps its name.

    Args:
        buffer: the file.
        reads: new names of inputs, by name.
        writes: new names of outputs, by name.
        named: whether the node keeps its own name, which no two nodes of a graph may share.
    """
    ((_, _, _, start, end),) = fields(buffer, *node.span)
    parts = []
    for number, _, tag, at, stop in fields(buffer, start, end):
        if number == 3 and not named:
            continue
        names = {1: reads, 2: writes}.get(number, {})
        name = names.get(text(buffer, at, stop)) if names else None
        parts.append(bytes(buffer[tag:stop]) if name is None else encode(number, name))
    return encode(1, b"".join(parts))


def exit_nodes(name: str, leaf: Leaf) -> bytes:
    """Nodes that make a tensor from its source."""
    return chain_nodes(leaf.source, name, leaf.perms)


def entry_nodes(name: str, leaf: Leaf) -> bytes:
    """Nodes that make the source from a tensor."""
    if name == leaf.source:
        return b""
    turned = [
        None if perm is None else tuple(perm.index(axis) for axis in range(len(perm)))
        for perm in reversed(leaf.perms)
    ]
    return chain_nodes(name, leaf.source, turned)


def chain_nodes(source: str, target: str, perms: Sequence[Perm]) -> bytes:
    """Transposes from one tensor to another; an Identity where there are none."""
    if not perms:
        return node_field("Identity", [source], [target])
    steps = [source, *(f"layertap:{target}/{i}" for i in range(1, len(perms))), target]
    nodes = b""
    for perm, before, after in zip(perms, steps, steps[1:], strict=False):
        if perm is None:
            nodes += node_field("Transpose", [before], [after])
        else:
            nodes += node_field("Transpose", [before], [after], perm=perm)
    return nodes


def value_info(name: str, kind: TensorType) -> bytes:
    """The `ValueInfoProto` of a tensor."""
    return encode(1, name) + type_field(kind, ())


def type_field(kind: TensorType, perms: Sequence[Perm]) -> bytes:
    """The `TypeProto` field of a tensor that becomes `kind` by `perms`; empty when unknown."""
    if kind.dtype not in ELEMENT_TYPES[1:]:
        return b""
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
    tensor = encode(1, ELEMENT_TYPES.index(kind.dtype))
    if dims is not None:
        shape = b""
        for size in dims:
            number = 2 if isinstance(size, str) else 1
            shape += encode(1, b"" if size is None else encode(number, size))
        tensor += encode(2, shape)
    return encode(2, encode(1, tensor))
