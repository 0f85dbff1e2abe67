"""The protobuf wire format: iterating over the fields of a message, and encoding fields.

A buffer is an object with integers by index and bytes by slice: `bytes` or an `mmap`. Values are
skipped, not parsed, so a file's weights are never read. For any bytes, the functions here return
or raise `WireError`, and they always terminate.

protobuf reads some bytes that no writer of it makes, such as a tag of more bytes than it needs, and
its versions differ in what they make of them. These are errors here: what is accepted means the
same to every reader.

The format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import TypeAlias

Buffer: TypeAlias = "bytes | mmap.mmap"

Span: TypeAlias = "tuple[int, int]"
"""The position of a message's contents: start and end in the buffer."""

VARINT, I64, LEN, I32 = 0, 1, 2, 5
"""The wire types that ONNX files use. Groups (3 and 4) were deprecated before ONNX existed."""


class WireError(ValueError):
    """The bytes are not a protobuf message."""


def fields(buffer: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Iterate over the fields of the message in `buffer[start:end]`.

    Yields:
        `(number, wire_type, tag_start, value_start, value_end)`: the whole field is
        `buffer[tag_start:value_end]`, a length-delimited value is `buffer[value_start:value_end]`.

    Raises:
        WireError: the bytes are not a message, or end in the middle of a field.
    """
    at = start
    while at < end:
        tag = at
        key = buffer[at]
        at += 1
        if key > 127:
            key, at = _long_tag(buffer, tag, end)
        wire = key & 7
        if wire == LEN:
            size = buffer[at] if at < end else 128
            if size < 128:  # the common case
                at += 1
            else:
                size, at = varint(buffer, at, end)
            stop = at + size
        elif wire == VARINT:
            stop = at + 1 if at < end and buffer[at] < 128 else varint(buffer, at, end)[1]
        elif wire == I64:
            stop = at + 8
        elif wire == I32:
            stop = at + 4
        else:
            raise WireError(f"invalid wire type {wire} at byte {tag}")
        if key < 8:
            raise WireError(f"invalid field number 0 at byte {tag}")
        if stop > end:
            raise WireError(f"the field at byte {tag} extends beyond the end")
        yield key >> 3, wire, tag, at, stop
        at = stop


def _long_tag(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """The tag of several bytes at `at`, and the position after it."""
    key, stop = varint(buffer, at, end)
    if buffer[stop - 1] == 0 or stop - at > 5 or key >> 32:
        raise WireError(f"the tag at byte {at} is longer than a tag can be")
    return key, stop


def varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """Read the varint at `at`: its unsigned value (64 bits) and the position after it."""
    if at < end and buffer[at] < 128:  # the common case
        return buffer[at], at + 1
    value = shift = 0
    for position in range(at, min(end, at + 10)):
        byte = buffer[position]
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + 1
        shift += 7
    raise WireError(f"the varint at byte {at} has no end")


def integer(buffer: Buffer, at: int, end: int) -> int:
    """The signed value of the int64 or int32 field at `at`."""
    value, _ = varint(buffer, at, end)
    return value - (1 << 64) if value >> 63 else value


def integers(buffer: Buffer, wire: int, at: int, end: int) -> Iterator[int]:
    """The values in one field of a repeated integer, either packed (`LEN`) or single (`VARINT`)."""
    if wire == VARINT:
        yield integer(buffer, at, end)
    elif wire == LEN:
        while at < end:
            value, at = varint(buffer, at, end)
            yield value - (1 << 64) if value >> 63 else value


def text(buffer: Buffer, start: int, end: int) -> str:
    """The string in `buffer[start:end]`."""
    try:
        return buffer[start:end].decode()
    except UnicodeDecodeError as exc:
        raise WireError(f"the name at byte {start} is not UTF-8") from exc


def content(buffer: Buffer, span: Span) -> Span:
    """The contents of a whole field, which is given with its tag."""
    _, _, _, start, end = next(fields(buffer, *span))
    return start, end


def find(buffer: Buffer, start: int, end: int, number: int) -> Span | None:
    """The position of the last length-delimited field `number` of a message; `None` if absent."""
    found = None
    for field, wire, _, at, stop in fields(buffer, start, end):
        if field == number and wire == LEN:
            found = at, stop
    return found


def merged(buffer: Buffer, spans: Sequence[Span]) -> tuple[Buffer, int, int]:
    """The message that occurs at `spans`, as a buffer with its start and end.

    protobuf merges a message that occurs more than once, although it is not repeated: the same
    message results from their bytes one after another. Without spans it is the empty message.
    """
    if len(spans) == 1:
        return buffer, *spans[0]
    data = b"".join(buffer[start:end] for start, end in spans)
    return data, 0, len(data)


def find_text(buffer: Buffer, start: int, end: int, number: int) -> str:
    """The string in field `number` of a message; empty if absent."""
    found = find(buffer, start, end, number)
    return text(buffer, *found) if found else ""


def encode_varint(value: int) -> bytes:
    """The varint of a non-negative integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(number: int, value: int | str | bytes) -> bytes:
    """One field: an integer as a varint, or a string or message as its length and its bytes."""
    if isinstance(value, int):
        return encode_varint(number << 3 | VARINT) + encode_varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    data = value.encode() if isinstance(value, str) else value
    return header(number, len(data)) + data


def header(number: int, size: int) -> bytes:
    """The tag and length that precede a length-delimited value of `size` bytes."""
    return encode_varint(number << 3 | LEN) + encode_varint(size)
