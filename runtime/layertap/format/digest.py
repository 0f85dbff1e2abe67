"""Digests of a model's graph and weights: whether a file is still the one that was verified.

The card states SHA-256 values of the graph, of the weights and of its own labels, preprocessing and
axes. They are taken of the contents,
not of the bytes of the file, so that a file that another program has read and written again, with
other metadata or with its weights moved to a second file, is still the same model. What is left
out has no effect on the results: names and doc strings of nodes, stated shapes, metadata, and the
order in which nodes and weights are stored.

Reading all weights of a large file takes seconds. Therefore `layertap.open` compares a checksum of
the bytes of the nodes, which takes microseconds, and only where that differs the digest of the
graph. `info`, `check`, `verify`, `cut` and `gradients` compare everything.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from layertap.errors import LayertapWarning, ModelFileError

from .card import Card, Digest, MadeFrom
from .graph import MAX_DEPTH, External, Graph, read_graph
from .source import BytesSource, FileSource
from .wire import (
    LEN,
    VARINT,
    Buffer,
    WireError,
    content,
    fields,
    find_text,
    integer,
    integers,
    varint,
)

CHUNK = 1 << 24
"""Bytes of weights that are hashed at once."""


def digest_of(source: FileSource | BytesSource, card: Card | None = None) -> Digest:
    """The digest of a file's contents. All weights are read.

    Args:
        source: the file.
        card: its card, or the one that it will get; its digest is left out for `None`.

    Raises:
        ModelFileError: not an ONNX model, or weights in another file cannot be read.
    """
    with source.read() as buffer:
        try:
            graph = read_graph(buffer)
            return Digest(
                nodes=nodes_checksum(buffer, graph),
                graph=_graph_digest(buffer, graph),
                weights=_weights_digest(source, buffer, graph),
                card=None if card is None else _card_digest(card),
            )
        except WireError as exc:
            raise ModelFileError(
                f"{source.name} is damaged ({exc}). Copy or export it again."
            ) from exc


def inherited(card: Card, step: str, source: FileSource | BytesSource) -> Card:
    """A file's card as the start of the card of a file that is made from it.

    It says what the new file is made from, and has no digest yet. If the old file was changed after
    it was verified, the measured errors are not passed on.

    Args:
        card: the old file's card.
        step: what makes the new file: `cut`, `gradients`, `finish` or `quantize`.
        source: the old file. All its weights are read.

    Raises:
        ModelFileError: see `digest_of`.
    """
    from dataclasses import replace  # takes as long as Python takes to start

    found = digest_of(source, card)
    file = source.path.name if source.path else None
    made = MadeFrom(step=step, graph=found.graph, weights=found.weights, file=file)
    parts = changed_parts(card.digest, found) if card.digest else ()
    if {"graph", "weights"}.intersection(parts):
        note = f"in the file that this one was made from, {change_text(parts)}"
        warnings.warn(
            f"{source.name}: {change_text(parts)}. The new file's card does not repeat the errors "
            "that were measured before that.",
            LayertapWarning,
            stacklevel=2,
        )
        notes = (*(card.notes or ()), note)
        return replace(card, verification=None, notes=notes, digest=None, made_from=made)
    return replace(card, digest=None, made_from=made)


def changed_parts(stated: Digest, found: Digest) -> tuple[str, ...]:
    """Which parts of a model differ from what its card states: `graph`, `weights`, `card`."""
    return tuple(
        part for part in _PARTS if getattr(stated, part) not in (None, getattr(found, part))
    )


_PARTS = {
    "graph": "the graph",
    "weights": "the weights",
    "card": "the labels, the preprocessing or the axes in the card",
}
"""What a digest covers, in words."""


def _card_digest(card: Card) -> str:
    """SHA-256 of what a card says about inputs and results, as JSON with sorted keys."""
    data = json.loads(card.to_json())
    kept = {key: data.get(key) for key in ("labels", "preprocessing")}
    if data.get("finished"):  # other files have the digest that they had before there was this key
        kept["finished"] = data["finished"]
    for where in ("inputs", "outputs", "layers"):
        kept[where] = [{key: row.get(key) for key in _DESCRIBING} for row in data[where]]
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return _sha256(text.encode())


_DESCRIBING = ("name", "tensor", "shape", "dtype", "axes")
"""Keys of a layer, an input or an output."""


def graph_changed(buffer: Buffer, graph: Graph, stated: Digest) -> bool:
    """Whether the graph is not the one that the card states. The weights are not read.

    Raises:
        WireError: the bytes are not an ONNX model.
    """
    if nodes_checksum(buffer, graph) == stated.nodes:
        return False
    return _graph_digest(buffer, graph) != stated.graph


def change_text(parts: Iterable[str]) -> str:
    """A sentence without its full stop about the changed parts."""
    found = [*parts]
    if found == ["graph"]:
        return "the graph is not the one that was verified"
    return f"{' and '.join(_PARTS[part] for part in found)} are not those that were verified"


def nodes_checksum(buffer: Buffer, graph: Graph) -> str:
    """The CRC-32 of the bytes of all nodes, in hexadecimal."""
    checksum = 0
    spans = iter(node.span for node in graph.nodes)
    start, end = next(spans, (0, 0))
    for at, stop in spans:
        if at != end:  # usually, nodes follow one another without a gap
            checksum = zlib.crc32(buffer[start:end], checksum)
            start = at
        end = stop
    return f"{zlib.crc32(buffer[start:end], checksum):08x}"


# --- The graph ----------------------------------------------------------------------------------


def _graph_digest(buffer: Buffer, graph: Graph) -> str:
    """SHA-256 of all that affects the results, except the values of the weights."""
    parts = [_node(buffer, *content(buffer, node.span), 0) for node in graph.nodes]
    for name, one in graph.initializers.items():
        parts.append(_joined("weights", name, one.type.dtype, *one.type.dims or ()))
    parts += [_joined("input", name, kind.dtype) for name, kind in graph.inputs.items()]
    parts += [_joined("optional", name, kind.dtype) for name, kind in graph.optional.items()]
    parts += [_joined("output", name) for name in graph.outputs]
    parts += [_joined("opset", domain, version) for domain, version in graph.opsets.items()]
    for number, wire, _, at, stop in fields(buffer, 0, len(buffer)):
        if number == _FUNCTION and wire == LEN:
            parts.append(_function(buffer, at, stop))
    return _sha256(_joined(*sorted(parts)))


_FUNCTION = 25
"""The field of `ModelProto` with a function."""


def _node(buffer: Buffer, start: int, end: int, depth: int) -> bytes:
    """A `NodeProto` without its name and doc string, its attributes in the order of their names."""
    reads, writes, attributes = [], [], []
    op_type = domain = ""
    for number, wire, _, at, stop in fields(buffer, start, end):
        if wire != LEN:
            continue
        if number == 1:
            reads.append(buffer[at:stop])
        elif number == 2:
            writes.append(buffer[at:stop])
        elif number == 4:
            op_type = buffer[at:stop].decode(errors="replace")
        elif number == 5:
            attributes.append(_attribute(buffer, at, stop, depth))
        elif number == 7:
            domain = buffer[at:stop].decode(errors="replace")
    domain = "" if domain == "ai.onnx" else domain
    return _joined(
        "node", domain, op_type, _joined(*reads), _joined(*writes), _joined(*sorted(attributes))
    )


_Read = Callable[[Buffer, int, int, int], bytes]


def _attribute(buffer: Buffer, start: int, end: int, depth: int) -> bytes:
    """An `AttributeProto`; a value that is 0, which may be stated or left out, is left out."""
    found: dict[int, list[bytes]] = {}
    name = find_text(buffer, start, end, 1)
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number in (1, 13):  # the name, and the doc string
            continue
        if number in _MESSAGES and wire == LEN:
            value = [_MESSAGES[number](buffer, at, stop, depth)]
        elif number == 8:
            value = [str(item).encode() for item in integers(buffer, wire, at, stop)]
        elif number == 7:  # floats, packed or single
            value = [buffer[i : i + 4] for i in range(at, stop, 4)]
        elif wire == VARINT:
            stated = integer(buffer, at, stop)
            value = [str(stated).encode()] if stated else []
        else:
            value = [buffer[at:stop]] if wire == LEN or any(buffer[at:stop]) else []
        if value:
            found.setdefault(number, []).extend(value)
    return _joined(name, *(_joined(number, *found[number]) for number in sorted(found)))


def _subgraph(buffer: Buffer, start: int, end: int, depth: int) -> bytes:
    """A `GraphProto` in an attribute, with the values of its weights."""
    if depth >= MAX_DEPTH:
        raise WireError(f"subgraphs are nested more than {MAX_DEPTH} deep")
    nodes, weights, ends = [], [], []
    for number, wire, _, at, stop in fields(buffer, start, end):
        if wire != LEN:
            continue
        if number == 1:
            nodes.append(_node(buffer, at, stop, depth + 1))
        elif number == 5:
            weights.append(_tensor(buffer, at, stop, depth))
        elif number == 15:
            weights.append(_sparse(buffer, at, stop, depth))
        elif number in (11, 12):  # inputs and outputs, whose order matters
            ends.append(_joined(number, find_text(buffer, at, stop, 1)))
    return _joined(_joined(*sorted(nodes)), _joined(*sorted(weights)), _joined(*ends))


def _function(buffer: Buffer, start: int, end: int) -> bytes:
    """A `FunctionProto`."""
    parts = []
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number == 8 or wire != LEN:  # the doc string
            continue
        value = _node(buffer, at, stop, 0) if number == 7 else buffer[at:stop]
        parts.append(_joined(number, value))
    return _joined("function", *sorted(parts))


def _tensor(buffer: Buffer, start: int, end: int, depth: int = 0) -> bytes:
    """A `TensorProto` in an attribute or a subgraph, with its values."""
    return _joined(*_facts(buffer, start, end), b"".join(_values(buffer, start, end)))


def _sparse(buffer: Buffer, start: int, end: int, depth: int = 0) -> bytes:
    """A `SparseTensorProto`."""
    parts = []
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number in (1, 2) and wire == LEN:
            parts.append(_joined(number, _tensor(buffer, at, stop)))
        elif number == 3:
            parts += [_joined(3, size) for size in integers(buffer, wire, at, stop)]
    return _joined("sparse", *parts)


def _type(buffer: Buffer, start: int, end: int, depth: int) -> bytes:
    return buffer[start:end]


_MESSAGES: dict[int, _Read] = {
    5: _tensor, 6: _subgraph, 10: _tensor, 11: _subgraph,
    14: _type, 15: _type, 22: _sparse, 23: _sparse,
}  # fmt: skip
"""How to read the messages in an attribute, by their field numbers."""


# --- Weights ------------------------------------------------------------------------------------


def _weights_digest(source: FileSource | BytesSource, buffer: Buffer, graph: Graph) -> str:
    """SHA-256 of the values of all initialisers, in the order of their names."""
    import hashlib

    weights = None
    if graph.locations:
        from .external import find_weights  # needs pathlib

        weights = find_weights(source, graph.locations)
    digest = hashlib.sha256()
    for name, one in sorted(graph.initializers.items()):
        start, end = content(buffer, one.span)
        digest.update(_joined(name, one.type.dtype, *one.type.dims or ()))
        if one.external and weights is not None:
            values = _stored(weights, one.external)
        elif _is_sparse(buffer, start, end):
            values = iter([_sparse(buffer, start, end)])
        else:
            values = _values(buffer, start, end)
        size = 0
        for part in values:
            digest.update(part)
            size += len(part)
            _release(buffer)
        digest.update(size.to_bytes(8, "little"))
    return digest.hexdigest()


def _release(buffer: Buffer) -> None:
    """Take the pages of a mapped file out of this process's memory, in which they count."""
    import mmap

    if isinstance(buffer, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        buffer.madvise(mmap.MADV_DONTNEED)


def _is_sparse(buffer: Buffer, start: int, end: int) -> bool:
    """Whether the message is a `SparseTensorProto`: its first field is a message, where that of a
    `TensorProto` is a size, packed or not, and its second a message, not an integer."""
    return any(number == 2 and wire == LEN for number, wire, _, _, _ in fields(buffer, start, end))


def _stored(weights: Any, external: External) -> Iterator[bytes]:
    """The bytes of weights in another file, in parts."""
    size = weights.size(external)
    for at in range(0, size, CHUNK):
        length = min(CHUNK, size - at)
        yield weights.load(External(external.location, external.offset + at, length))


def _values(buffer: Buffer, start: int, end: int) -> Iterator[bytes]:
    """The values of a `TensorProto` as the bytes of its `raw_data`, in whichever field they are."""
    code = 0
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number == 2 and wire == VARINT:
            code = varint(buffer, at, stop)[0]
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number in (4, 9, 10) or (number == 6 and wire == LEN):
            if number == 6:  # strings, which differ in length
                yield (stop - at).to_bytes(8, "little")
            for first in range(at, stop, CHUNK):
                yield buffer[first : min(first + CHUNK, stop)]
        elif number in (5, 7, 11) and wire in (VARINT, LEN):
            width = _WIDTHS.get(code, 8 if number != 5 else 4)
            mask = (1 << 8 * width) - 1
            yield b"".join(
                (item & mask).to_bytes(width, "little") for item in integers(buffer, wire, at, stop)
            )
        elif number == 13 and wire == LEN:  # a part of an attribute that is in another file
            yield buffer[at:stop]


_WIDTHS = {
    2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 12: 4, 13: 8, 16: 2,
    17: 1, 18: 1, 19: 1, 20: 1, 21: 1, 22: 1, 23: 1, 24: 1, 25: 1, 26: 1,
}  # fmt: skip
"""Bytes of one item of `int32_data`, `int64_data` or `uint64_data`, by `TensorProto.DataType`."""


def _facts(buffer: Buffer, start: int, end: int) -> Iterator[str | int]:
    """Name, dtype and sizes of a `TensorProto`."""
    yield find_text(buffer, start, end, 8)
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number == 2 and wire == VARINT:
            yield f"type {varint(buffer, at, stop)[0]}"
    for number, wire, _, at, stop in fields(buffer, start, end):
        if number == 1:
            yield from integers(buffer, wire, at, stop)


# --- Helpers ------------------------------------------------------------------------------------


def _joined(*parts: str | int | bytes | None) -> bytes:
    """The parts as bytes, each preceded by its length, so that different parts never look alike."""
    encoded = (
        part if isinstance(part, bytes) else str(part).encode(errors="surrogatepass")
        for part in parts
    )
    return b"".join(b"%d:%s" % (len(part), part) for part in encoded)


def _sha256(data: bytes) -> str:
    import hashlib  # takes a millisecond, which reading a card does not need

    return hashlib.sha256(data).hexdigest()
