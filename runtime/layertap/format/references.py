"""The references of a model to data in other files, found as protobuf reads the model.

onnxruntime before 1.24 reads any file that a model refers to, wherever it is. So the bytes that
onnxruntime gets are searched, as the last step, for references of every kind: those of weights, and
those of tensors in attributes, in subgraphs and in functions. Only references to files that
`external` has checked stay; the data of the others are read by layertap and put inside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from layertap.errors import ModelFileError

from .graph import MAX_DEPTH, External, may_nest, read_tensor
from .wire import LEN, Buffer, Span, WireError, fields, header, merged

RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 9, 13, 14
"""Field numbers in TensorProto."""

_PARTS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "main graph", 20: "training", 25: "function"},
    "main graph": {1: "node", 5: "weights", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""The fields of each message of onnx.proto through which a tensor is reached."""

_MERGED: Mapping[str, Collection[int]] = {"attribute": (5, 22), "sparse": (1, 2)}
"""Those that are not repeated, so that protobuf merges several. For graphs, which only have parts
that are repeated, that makes no difference here."""

Change: TypeAlias = Callable[[Buffer, int, int, bool], "bytes | None"]
"""From a tensor, and whether it is a weight of the main graph, to its new bytes; `None` keeps it.
"""


def without_references(
    model: bytes,
    kept: Collection[External] = (),
    load: Callable[[External], bytes] | None = None,
) -> bytes:
    """The model with the data of its tensors inside.

    Args:
        model: a whole model.
        kept: references that weights of the main graph may have.
        load: reads the data of another reference.

    Raises:
        WireError: the bytes are not an ONNX model.
        ModelFileError: data cannot be read, or there is no `load`.
    """
    if model[4:8] == b"ORTM":  # onnxruntime would read it as a model in its own format
        raise WireError("it begins as a model in onnxruntime's own format does")
    if b"location" not in model:  # the key that every reference has
        return model

    def inside(buffer: Buffer, start: int, end: int, is_weight: bool) -> bytes | None:
        external = read_tensor(buffer, start, end)[2]
        if external is None or (is_weight and external in kept):
            return None
        if load is None:
            raise ModelFileError(
                f"the model refers to data in another file, {external.location!r}, where no "
                "reference is expected. Save it with all data inside."
            )
        return with_data(buffer, start, end, load(external))

    changed = _rewritten(model, (0, len(model)), "model", inside)
    # Once more, over what was written: nothing is left to an error in the step before.
    return model if changed is None else without_references(changed, kept)


def with_data(buffer: Buffer, start: int, end: int, data: bytes) -> bytes:
    """A `TensorProto` with `data` inside instead of a reference."""
    return b"".join([*stripped(buffer, start, end), header(RAW_DATA, len(data)), data])


def stripped(buffer: Buffer, start: int, end: int) -> list[bytes]:
    """The fields of a `TensorProto` without its raw data and its reference."""
    return [
        bytes(buffer[tag:stop])
        for number, _, tag, _, stop in fields(buffer, start, end)
        if number not in (RAW_DATA, EXTERNAL_DATA, DATA_LOCATION)
    ]


def _rewritten(
    buffer: Buffer, span: Span, kind: str, change: Change, depth: int = 0
) -> bytes | None:
    """A message with its tensors changed; `None` if none is."""
    start, end = span
    if depth > MAX_DEPTH:
        raise WireError(f"subgraphs are nested more than {MAX_DEPTH} deep")
    if kind == "attribute" and not may_nest(buffer, start, end):
        return None
    parts, together = _PARTS[kind], _MERGED.get(kind, ())
    found: dict[int, list[list[Span]]] = {number: [] for number in parts}
    for number, wire, tag, at, stop in fields(buffer, start, end):
        if wire != LEN or number not in parts:
            continue
        if number in together and found[number]:
            found[number][0] += [(tag, stop), (at, stop)]
        else:
            found[number].append([(tag, stop), (at, stop)])
    edits: list[tuple[Span, bytes]] = []
    for number, messages in found.items():
        for spans in messages:
            whole, contents = spans[::2], merged(buffer, spans[1::2])
            part = parts[number]
            if part in ("tensor", "weights"):
                new = change(*contents, part == "weights")
            else:
                new = _rewritten(contents[0], contents[1:], part, change, depth + (part == "graph"))
            if new is not None:
                edits += [(whole[0], header(number, len(new)) + new)]
                edits += [(rest, b"") for rest in whole[1:]]
    if not edits:
        return None
    pieces, at = [], start
    for (first, last), new in sorted(edits):
        pieces += [buffer[at:first], new]
        at = last
    return b"".join([*pieces, buffer[at:end]])
