"""References to data in other files, in every place and encoding, against protobuf itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import layertap
from generators import odd_encodings, tiny
from layertap._engine import engine, session
from layertap.errors import ModelFileError
from layertap.format.graph import External, read_graph
from layertap.format.references import without_references
from layertap.format.wire import WireError, encode, encode_varint

SECRET = np.arange(4, dtype=np.float32) + 1234.5


def outside(location: str, name: str = "", *, entries: bool = True) -> TensorProto:
    """Four numbers of another file."""
    tensor = TensorProto(name=name, data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, "offset": "0", "length": "16"}.items():
        if entries:
            tensor.external_data.add(key=key, value=text)
    return tensor


def sparse(location: str) -> onnx.SparseTensorProto:
    indices = helper.make_tensor("", TensorProto.INT64, [4], range(4))
    return onnx.SparseTensorProto(values=outside(location), indices=indices, dims=[4])


def constant(value: TensorProto, name: str = "c") -> onnx.NodeProto:
    return tiny.node("Constant", "", name, value=value)


def branch(location: str) -> onnx.GraphProto:
    return helper.make_graph([constant(outside(location), "b")], "b", [], [tiny.value("b", [4])])


def made(nodes: list[onnx.NodeProto], weights: list[TensorProto] | None = None) -> onnx.ModelProto:
    """x + c -> y, where the nodes or the weights make c."""
    return tiny.model(
        [*nodes, tiny.node("Add", "x c", "y")],
        [tiny.value("x", [4])],
        [tiny.value("y", [4])],
        weights or [],
    )


def in_function(location: str) -> onnx.ModelProto:
    model = made([tiny.node("Own", "", "c", domain="own")])
    opsets = [helper.make_opsetid("", 17)]
    body = [constant(outside(location), "b")]
    model.functions.append(helper.make_function("own", "Own", [], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def in_default_of_a_function(location: str) -> onnx.ModelProto:
    model = in_function(location)
    body = model.functions[0].node[0]
    del body.attribute[:]
    body.attribute.add(name="value", ref_attr_name="v", type=onnx.AttributeProto.TENSOR)
    model.functions[0].attribute_proto.append(helper.make_attribute("v", outside(location)))
    return model


def in_branch(location: str) -> onnx.ModelProto:
    flag = helper.make_tensor("", TensorProto.BOOL, [], [True])
    body = branch(location)
    return made(
        [constant(flag, "f"), tiny.node("If", "f", "c", then_branch=body, else_branch=body)]
    )


def in_weights_of_a_branch(location: str) -> onnx.ModelProto:
    flag = helper.make_tensor("", TensorProto.BOOL, [], [True])
    body = helper.make_graph(
        [tiny.node("Identity", "w", "b")], "b", [], [tiny.value("b", [4])],
        [outside(location, "w")],
    )  # fmt: skip
    return made(
        [constant(flag, "f"), tiny.node("If", "f", "c", then_branch=body, else_branch=body)]
    )


def in_lists(location: str) -> onnx.ModelProto:
    """No operator has such attributes; protobuf reads them all the same."""
    node = tiny.node("Neg", "x", "c")
    node.attribute.add(name="t", type=onnx.AttributeProto.TENSORS).tensors.append(outside(location))
    node.attribute.add(name="g", type=onnx.AttributeProto.GRAPHS).graphs.append(branch(location))
    several = node.attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSORS)
    several.sparse_tensors.append(sparse(location))
    return made([node])


def in_sparse_constant(location: str) -> onnx.ModelProto:
    return made([tiny.node("Constant", "", "c", sparse_value=sparse(location))])


def in_sparse_weights(location: str) -> onnx.ModelProto:
    model = made([])
    item = sparse(location)
    item.values.name = "c"
    model.graph.sparse_initializer.append(item)
    return model


PLACES: dict[str, Callable[[str], onnx.ModelProto]] = {
    "weights": lambda location: made([], [outside(location, "c")]),
    "constant": lambda location: made([constant(outside(location))]),
    "function": in_function,
    "default of a function": in_default_of_a_function,
    "branch": in_branch,
    "weights of a branch": in_weights_of_a_branch,
    "lists": in_lists,
    "sparse constant": in_sparse_constant,
    "sparse weights": in_sparse_weights,
}
every_place = pytest.mark.parametrize("place", PLACES)


# --- Against protobuf ---------------------------------------------------------------------------


def judge(data: bytes) -> str:
    """Compare what layertap finds in a model with what protobuf reads, and say how it went."""
    try:
        truth = onnx.ModelProto.FromString(data)
    except DecodeError:
        truth = None  # onnxruntime refuses it as well
    expected: set[str] = set()
    if truth is not None:
        truth.ClearField("training_info")  # which is never passed on
        expected.update(odd_encodings.references(truth))
    read: list[str] = []

    def load(external: External) -> bytes:
        read.append(external.location)
        return SECRET.tobytes()

    try:
        found = read_graph(data).locations
        assert expected <= set(found)
        written = without_references(data, (), load)
    except WireError:
        return "refused"
    if truth is None:
        return "broken"
    assert set(read) <= {*found, *expected}
    result = onnx.ModelProto.FromString(written)
    assert list(odd_encodings.references(result)) == []
    assert without_references(written) == written
    if not expected:
        return "none"
    for text in expected:
        assert text in read
    return "found"


@every_place
def test_references_are_found_in_every_place(place: str) -> None:
    data = PLACES[place]("other.data").SerializeToString()
    assert list(odd_encodings.references(onnx.ModelProto.FromString(data)))
    assert judge(data) == "found"


@pytest.mark.parametrize("share", [0.003, 0.03, 0.3])
@given(place=st.sampled_from(sorted(PLACES)), seed=st.integers(0, 1 << 32))
@settings(max_examples=120, deadline=None)
def test_odd_encodings_are_refused_or_read_as_protobuf_reads_them(
    place: str, seed: int, share: float
) -> None:
    model = PLACES[place]("other.data")
    judge(odd_encodings.oddly(model, random.Random(seed), share))


@given(
    place=st.sampled_from(sorted(PLACES)),
    changes=st.lists(
        st.tuples(st.floats(0, 0.999), st.integers(0, 2), st.binary(min_size=1, max_size=3)),
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=300, deadline=None)
def test_changed_bytes_are_refused_or_read_as_protobuf_reads_them(
    place: str, changes: list[tuple[float, int, bytes]]
) -> None:
    data = bytearray(PLACES[place]("other.data").SerializeToString())
    for where, kind, new in changes:
        at = int(where * len(data))
        data[at : at + (0, 1, len(new))[kind]] = new
    judge(bytes(data))


def test_the_ways_past_the_first_check_are_closed() -> None:
    """Each was read as no reference, and followed by onnxruntime 1.21 to 1.23."""
    plain = outside("other.data", "c")
    plain.ClearField("data_location")
    body = plain.SerializeToString()
    graph = made([]).graph.SerializeToString()
    model = made([])
    model.ClearField("graph")
    head = model.SerializeToString()

    def whole(tensor: bytes) -> bytes:
        return head + encode(7, graph + encode(5, tensor))

    large = encode_varint(14 << 3) + encode_varint((1 << 32) + 1)
    long_tag = bytes([0xF0, 0x80, 0x80, 0x80, 0x10, 1])
    kept = encode(14, 1) + encode(14, 7)  # protobuf passes over the 7
    for tail in (large, long_tag, kept):
        data = whole(body + tail)
        with pytest.raises(WireError):
            read_graph(data)
        with pytest.raises(WireError):
            without_references(data)
    # An attribute's tensor in two halves.
    halves = encode(1, "value") + encode(5, body) + encode(5, encode(14, 1)) + encode(20, 4)
    node = encode(2, "c") + encode(4, "Constant") + encode(5, halves)
    data = head + encode(7, encode(1, node) + graph)
    assert list(odd_encodings.references(onnx.ModelProto.FromString(data))) == ["other.data"]
    assert judge(data) == "found"


def test_a_model_that_begins_like_one_in_onnxruntimes_own_format() -> None:
    model = made([constant(helper.make_tensor("", 1, [4], SECRET))])
    data = encode(2, b"ab" + b"ORTM" + bytes(30)) + model.SerializeToString()
    assert data[4:8] == b"ORTM"
    with pytest.raises(ModelFileError, match="own format"):
        layertap.open(data).activations(np.zeros(4, np.float32), "y")


# --- Through layertap ---------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    """Every model that is given to onnxruntime."""
    found: list[onnx.ModelProto] = []
    plain = engine.Engine.start

    def start(self: engine.Engine, model: bytes, *args: Any, **named: Any) -> session.Session:
        found.append(onnx.ModelProto.FromString(model))
        return plain(self, model, *args, **named)

    monkeypatch.setattr(engine.Engine, "start", start)
    return found


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin", "sub/../../secret.bin", "{}/secret.bin", "link.bin", "linked/secret.bin",
        "..\\secret.bin", "*/_ORT_MEM_ADDR_/*", "*",
    ],
)  # fmt: skip
@every_place
def test_files_elsewhere_are_not_read(
    place: str, location: str, tmp_path: Path, started: list[onnx.ModelProto]
) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(SECRET.tobytes())
    (folder / "link.bin").symlink_to("../secret.bin")
    (folder / "linked").symlink_to("..")
    (folder / "*").mkdir()
    (folder / "*" / "_ORT_MEM_ADDR_").mkdir()
    (folder / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(SECRET.tobytes())
    path = folder / "m.onnx"
    path.write_bytes(PLACES[place](location.format(tmp_path)).SerializeToString())
    with pytest.raises(ModelFileError, match="keeps weights in"):
        layertap.open(path).activations(np.zeros(4, np.float32), "y")
    with pytest.raises(ModelFileError, match="keeps weights in"):
        layertap.open(path).cut(tmp_path / "part.onnx", end="y")
    assert not (tmp_path / "part.onnx").exists()
    assert started == []


@pytest.mark.parametrize("mapped", [True, False])
@every_place
def test_files_beside_the_model_are_read_by_layertap(
    place: str, mapped: bool, tmp_path: Path, started: list[onnx.ModelProto]
) -> None:
    """onnxruntime gets references to weights of the main graph only."""
    (tmp_path / "own.bin").write_bytes(SECRET.tobytes())
    path = tmp_path / "m.onnx"
    path.write_bytes(PLACES[place]("own.bin").SerializeToString())
    x = np.ones(4, np.float32)
    expected = -x if place == "lists" else SECRET
    model = layertap.open(path, copy_weights=not mapped)
    try:
        np.testing.assert_array_equal(model.activations(x, "y"), x + expected)
    except ModelFileError:
        assert place == "lists"  # onnxruntime does not know such attributes of Neg
    references = [name for model in started for name in odd_encodings.references(model)]
    assert references == (["own.bin"] if mapped and place == "weights" else [])
    (tmp_path / "other").mkdir()
    model.cut(tmp_path / "other" / "part.onnx", end="y")
    part = onnx.load(tmp_path / "other" / "part.onnx", load_external_data=False)
    assert list(odd_encodings.references(part)) == []


@pytest.mark.parametrize(
    ("offset", "length"),
    [("-1", "16"), ("0", "-1"), ("9" * 30, "16"), ("0", str(1 << 62)), ("8", "16")],
)
@pytest.mark.parametrize("copied", [True, False])
@every_place
def test_absurd_offsets_and_lengths(
    place: str, offset: str, length: str, copied: bool, tmp_path: Path
) -> None:
    (tmp_path / "own.bin").write_bytes(SECRET.tobytes())
    model = PLACES[place]("own.bin")
    for tensor in tensors(model):
        for entry in tensor.external_data:
            entry.value = {"offset": offset, "length": length}.get(entry.key, entry.value)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError):
        layertap.open(path, copy_weights=copied).activations(np.ones(4, np.float32), "y")


def tensors(message: Any) -> Iterator[TensorProto]:
    """All tensors with data in other files."""
    if isinstance(message, TensorProto):
        if message.external_data:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if hasattr(value, "ListFields") else value:
                yield from tensors(item)
