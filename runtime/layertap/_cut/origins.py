"""Leaves out what exporters say about the machine of a model's author.

PyTorch's exporters write the stack trace of every node, with the paths of source files: the newer
one into the metadata of nodes, the older one, if it is asked to, into their documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from layertap.format.graph import MAX_DEPTH
from layertap.format.wire import LEN, Buffer, WireError, fields, find_text, header


class _Message(NamedTuple):
    """Numbers of fields in onnx.proto: what is left out of a message, and where others are."""

    documentation: int
    metadata: int
    parts: Mapping[int, str]


_MESSAGES = {
    "node": _Message(6, 9, {5: "attribute"}),
    "attribute": _Message(13, 0, {6: "graph", 11: "graph"}),
    "graph": _Message(10, 16, {1: "node"}),
    "value": _Message(3, 4, {}),
    "function": _Message(8, 14, {7: "node", 11: "attribute"}),
}


def is_of_exporter(key: str) -> bool:
    """Whether an entry of metadata is one of those with which PyTorch's exporter describes how it
    came to a node or a graph."""
    return key.startswith(("pkg.torch.", "pkg.onnxscript.")) or key == "namespace"


def without_origins(
    buffer: Buffer, start: int, end: int, kind: str, depth: int = 0
) -> bytes | None:
    """A message of `buffer[start:end]` without documentation and metadata of exporters.

    Args:
        kind: `node`, `function` or `value` (an input or output).

    Returns:
        Its new bytes; `None` if there is nothing to leave out.
    """
    if depth > MAX_DEPTH * 2:
        raise WireError(f"subgraphs are nested more than {MAX_DEPTH} deep")
    message = _MESSAGES[kind]
    pieces: list[bytes] = []
    kept = start
    for number, wire, tag, at, stop in fields(buffer, start, end):
        if wire != LEN:
            continue
        new: bytes | None
        if number == message.documentation:
            new = b""
        elif number == message.metadata:
            if not is_of_exporter(find_text(buffer, at, stop, 1)):
                continue
            new = b""
        elif number in message.parts:
            inner = without_origins(buffer, at, stop, message.parts[number], depth + 1)
            if inner is None:
                continue
            new = header(number, len(inner)) + inner
        else:
            continue
        pieces += [bytes(buffer[kept:tag]), new]
        kept = stop
    if not pieces:
        return None
    return b"".join([*pieces, bytes(buffer[kept:end])])


def field_without_origins(buffer: Buffer, start: int, end: int, kind: str) -> bytes | None:
    """As `without_origins`, for a whole field with its tag."""
    ((number, _, _, at, stop),) = fields(buffer, start, end)
    new = without_origins(buffer, at, stop, kind)
    return None if new is None else header(number, len(new)) + new
