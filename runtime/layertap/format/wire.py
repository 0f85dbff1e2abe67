"""The protobuf wire format: walking over the fields of a message, and writing new ones.

A buffer is anything that gives integers by index and bytes by slice: `bytes` or an `mmap`. Values
are passed over, not parsed, so that a file's weights are never read. Whatever the bytes are, the
functions here return or raise `WireError`, and every step moves forward.

The format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

TYPE_CHECKING = False  # see _record.py: the table of layers is to be quick
if TYPE_CHECKING:
    import mmap
    from typing import TypeAlias

Buffer: TypeAlias = "bytes | mmap.mmap"

Span: TypeAlias = "tuple[int, int]"
"""Where a message's contents are: start and end in the buffer."""

VARINT, I64, LEN, I32 = 0, 1, 2, 5
"""The wire types that ONNX files use; groups (3 and 4) went out of use before ONNX began."""


class WireError(ValueError):
    """The bytes are not a protobuf message."""


def fields(buffer: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Walk over the fields of the message in `buffer[start:end]`.

    Yields:
        `(number, wire_type, tag_start, value_start, value_end)`: the whole field is
        `buffer[tag_start:value_end]`, a length-delimited value is `buffer[value_start:value_end]`.

    Raises:
        WireError: the bytes are no message, or end in the middle of a field.
    """
    at = start
    while at < end:
        tag = at
        key = buffer[at]
        at += 1
        if key > 127:
            key, at = varint(buffer, tag, end)
        kind = key & 7
        if kind == LEN:
            size = buffer[at] if at < end else 128
            if size < 128:  # as most are
                at += 1
            else:
                size, at = varint(buffer, at, end)
            stop = at + size
        elif kind == VARINT:
            stop = at + 1 if at < end and buffer[at] < 128 else varint(buffer, at, end)[1]
        elif kind == I64:
            stop = at + 8
        elif kind == I32:
            stop = at + 4
        else:
            raise WireError(f"wire type {kind} at byte {tag}")
        if key < 8:
            raise WireError(f"field number 0 at byte {tag}")
        if stop > end:
            raise WireError(f"the field at byte {tag} goes on beyond the end")
        yield key >> 3, kind, tag, at, stop
        at = stop


def varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """Read the varint at `at`: its unsigned value (64 bits) and the position after it."""
    if at < end and buffer[at] < 128:  # as most are
        return buffer[at], at + 1
    value = shift = 0
    for here in range(at, min(end, at + 10)):
        byte = buffer[here]
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, here + 1
        shift += 7
    raise WireError(f"the number at byte {at} does not end")


def integer(buffer: Buffer, at: int, end: int) -> int:
    """The signed value of the int64 or int32 field at `at`."""
    value, _ = varint(buffer, at, end)
    return value - (1 << 64) if value >> 63 else value


def integers(buffer: Buffer, kind: int, at: int, end: int) -> Iterator[int]:
    """The values in one field of a repeated integer, be it packed (`LEN`) or single (`VARINT`)."""
    if kind == VARINT:
        yield integer(buffer, at, end)
    elif kind == LEN:
        while at < end:
            value, at = varint(buffer, at, end)
            yield value - (1 << 64) if value >> 63 else value


def text(buffer: Buffer, start: int, end: int) -> str:
    """The string in `buffer[start:end]`."""
    try:
        return buffer[start:end].decode()
    except UnicodeDecodeError as exc:
        raise WireError(f"the name at byte {start} is not UTF-8") from exc


def find(buffer: Buffer, start: int, end: int, number: int) -> Span | None:
    """Where the last length-delimited field `number` of a message is; `None` if it has none."""
    found = None
    for field, kind, _, at, stop in fields(buffer, start, end):
        if field == number and kind == LEN:
            found = at, stop
    return found


def find_text(buffer: Buffer, start: int, end: int, number: int) -> str:
    """The string in field `number` of a message; empty if it has none."""
    found = find(buffer, start, end, number)
    return text(buffer, *found) if found else ""


def encode_varint(value: int) -> bytes:
    """The bytes of a non-negative integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(number: int, value: int | str | bytes) -> bytes:
    """One field: an integer as a varint, a string or a message's bytes with their length."""
    if isinstance(value, int):
        return encode_varint(number << 3 | VARINT) + encode_varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    data = value.encode() if isinstance(value, str) else value
    return header(number, len(data)) + data


def header(number: int, size: int) -> bytes:
    """The bytes that stand before a length-delimited value of `size` bytes."""
    return encode_varint(number << 3 | LEN) + encode_varint(size)
