"""The protobuf wire format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from layertap.format import wire


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**63, 2**64 - 1])
def test_varint_survives_a_round_trip(value: int) -> None:
    data = wire.encode_varint(value)
    assert wire.varint(data, 0, len(data)) == (value, len(data))


@pytest.mark.parametrize("value", [0, 5, -1, -(2**63), 2**63 - 1])
def test_integers_are_signed(value: int) -> None:
    data = TensorProto(dims=[value]).SerializeToString()
    ((number, wire_type, _, start, end),) = wire.fields(data, 0, len(data))
    assert (number, wire.integer(data, start, end)) == (1, value)
    assert list(wire.integers(data, wire_type, start, end)) == [value]


def test_fields_equal_those_that_protobuf_wrote() -> None:
    tensor = TensorProto(
        name="weights", dims=[2], data_type=1, raw_data=b"12345678", doc_string="d"
    )
    data = tensor.SerializeToString()
    found = {
        number: data[start:end]
        for number, wire_type, _, start, end in wire.fields(data, 0, len(data))
        if wire_type == wire.LEN
    }
    assert found == {8: b"weights", 9: b"12345678", 12: b"d"}
    assert b"".join(data[tag:end] for _, _, tag, _, end in wire.fields(data, 0, len(data))) == data


def test_packed_and_single_integers_are_read() -> None:
    data = b"".join(map(wire.encode_varint, [3, 300, 2**64 - 2]))
    assert list(wire.integers(data, wire.LEN, 0, len(data))) == [3, 300, -2]


def test_protobuf_reads_encoded_fields() -> None:
    data = wire.encode(1, -4) + wire.encode(2, 7) + wire.encode(8, "ä") + wire.encode(9, b"\x00")
    assert TensorProto.FromString(data) == TensorProto(
        dims=[-4], data_type=7, name="ä", raw_data=b"\x00"
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0a", "the varint at byte 1 has no end"),
        (b"\x0a\x05ab", "the field at byte 0 extends beyond the end"),
        (b"\x0d\x00", "the field at byte 0 extends beyond the end"),
        (b"\x09\x00", "the field at byte 0 extends beyond the end"),
        (b"\x08" + b"\xff" * 11, "the varint at byte 1 has no end"),
        (b"\x08\x80", "the varint at byte 1 has no end"),
        (b"\xff" * 12, "the varint at byte 0 has no end"),
        (b"\x0b", "invalid wire type 3 at byte 0"),
        (b"\x0f", "invalid wire type 7 at byte 0"),
        (b"\x02\x00", "invalid field number 0 at byte 0"),
    ],
)
def test_invalid_message_is_a_wire_error(data: bytes, words: str) -> None:
    with pytest.raises(wire.WireError) as caught:
        list(wire.fields(data, 0, len(data)))
    assert str(caught.value) == words


def test_name_that_is_not_utf8_is_a_wire_error() -> None:
    with pytest.raises(wire.WireError, match=r"^the name at byte 0 is not UTF-8$"):
        wire.text(b"\xff\xfe", 0, 2)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_fields_or_a_wire_error(data: bytes) -> None:
    """The iteration terminates, and without an error it covers all bytes in order."""
    at = 0
    try:
        for _, _, tag, start, end in wire.fields(data, 0, len(data)):
            assert at == tag < start <= end
            at = end
    except wire.WireError:
        return
    assert at == len(data)
