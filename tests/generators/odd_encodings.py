"""Protobuf messages in encodings that no writer makes: protobuf reads most of them all the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

_VARINTS = {
    FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM,
}  # fmt: skip


def references(message: Message) -> Iterator[str]:
    """The locations of all data in other files, as protobuf reads a message."""
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            yield {entry.key: entry.value for entry in message.external_data}.get("location", "")
        return
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in value if _is_repeated(value) else [value]:
                yield from references(item)


def _is_repeated(value: Any) -> bool:
    return not isinstance(value, Message)


def oddly(message: Message, chance: random.Random, share: float = 0.1) -> bytes:
    """The message, in an encoding in which a share of everything is odd."""
    parts = []
    for field, value in message.ListFields():
        many = field.type == FieldDescriptor.TYPE_MESSAGE and _is_repeated(value)
        many = (
            many or isinstance(value, (list, tuple)) or type(value).__name__.startswith("Repeated")
        )
        items = value if many else [value]
        parts += [_field(field, item, many, chance, share) for item in items]
    if chance.random() < share:
        parts.insert(chance.randrange(len(parts) + 1), _tag(900, 0, chance, share) + b"\x05")
    return b"".join(parts)


def _field(
    field: FieldDescriptor, item: Any, many: bool, chance: random.Random, share: float
) -> bytes:
    number = field.number
    if field.type in _VARINTS:
        value = int(item) & (1 << 64) - 1
        if chance.random() < share:
            value += chance.choice([1 << 32, 1 << 33, 1 << 64, 1 << 69])
        written = _tag(number, 0, chance, share) + _varint(value, chance, share)
        if field.type == FieldDescriptor.TYPE_ENUM and chance.random() < share:
            # protobuf passes over a number that means nothing, and keeps the one before.
            written += _tag(number, 0, chance, share) + _varint(77, chance, share)
        return written
    if field.type == FieldDescriptor.TYPE_FLOAT:
        import struct

        return _tag(number, 5, chance, share) + struct.pack("<f", item)
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return _long(number, item.encode() if isinstance(item, str) else item, chance, share)
    assert field.type == FieldDescriptor.TYPE_MESSAGE, field.name
    if many or chance.random() >= share:
        return _long(number, oddly(item, chance, share), chance, share)
    first, second = type(item)(), type(item)()  # which protobuf merges
    for inner, _ in item.ListFields():
        part = type(item)()
        part.CopyFrom(item)
        for other, _ in item.ListFields():
            if other.name != inner.name:
                part.ClearField(other.name)
        chance.choice([first, second]).MergeFrom(part)
    halves = [oddly(half, chance, share) for half in (first, second)]
    return b"".join(_long(number, half, chance, share) for half in halves)


def _long(number: int, data: bytes, chance: random.Random, share: float) -> bytes:
    return _tag(number, 2, chance, share) + _varint(len(data), chance, share) + data


def _tag(number: int, wire: int, chance: random.Random, share: float) -> bytes:
    key = number << 3 | wire
    if chance.random() < share / 4:
        key += 1 << 32  # beyond what a tag may have
    return _varint(key, chance, share / 4)


def _varint(value: int, chance: random.Random, share: float) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    if chance.random() < share:
        for _ in range(chance.randrange(1, 9)):
            if len(out) < 10:
                out[-1] |= 128
                out.append(0)
    return bytes(out)
