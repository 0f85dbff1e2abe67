"""Nodes, attributes and types as bytes of the ONNX format."""

from __future__ import annotations

from collections.abc import Sequence

from layertap.format.graph import (
    ELEMENT_TYPES,
    TensorType,
)
from layertap.format.wire import encode

from .plan import Leaf, Perm


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
    if not perms:
        return identity_node(source, target)
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
    return encode(1, name) + type_field(kind, ())


def identity_node(name: str, copy: str) -> bytes:
    return encode(1, encode(1, name) + encode(2, copy) + encode(4, "Identity"))


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
