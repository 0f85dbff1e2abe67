"""The written file, byte by byte, and the data file next to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import layertap
import layertap_export
from generators import tiny
from layertap.cli import main
from layertap.format.card import KEY, Card
from layertap.format.data_file import DataFile
from layertap_export.graph.weights import Initializers
from layertap_export.writing import Writer, append_card, validate

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

W = np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(2, 200)).astype(np.float32)


def graph() -> tuple[onnx.ModelProto, Initializers]:
    """`x w.T + b`, with `w` outside the graph."""
    initializers = Initializers()
    model = tiny.model(
        [tiny.node("MatMul", "x w", "p"), tiny.node("Add", "p b", "y")],
        [tiny.value("x", ["n", 200])],
        [tiny.value("y", ["n", 300])],
        [initializers.make(W.T, "w"), tiny.weights("b", 300)],
    )
    model.graph.doc_string = "behind the weights"
    return model, initializers


def card(note: str) -> Card:
    return tiny.card([], {"x": (None, 200)}, {"y": (None, 300)}, extra={"note": note})


def written(path: Path, data: DataFile | None = None) -> None:
    """Write the graph to a file, without a card."""
    Writer(*graph(), data or DataFile(path)).write(path)


def run(path: Path) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": X})[0]


def test_the_bytes_are_those_that_onnx_would_write(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    written(path)
    loaded = onnx.load(path)
    assert path.read_bytes() == loaded.SerializeToString(deterministic=True)
    assert loaded.graph.doc_string == "behind the weights"
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(loaded.graph.initializer[0]), W.T)
    bias = onnx.numpy_helper.to_array(tiny.weights("b", 300))
    np.testing.assert_allclose(run(path), X @ W.T + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(os.name == "nt", reason="a mapped file could not be renamed there")
def test_the_weights_take_no_memory_once_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model, initializers = graph()
    stub = model.graph.initializer[0]
    writer = Writer(model, initializers, DataFile(path))
    assert np.shares_memory(initializers.value(stub), W)
    writer.write(path)
    first, value = path.read_bytes(), initializers.value(stub)
    assert not value.flags.owndata
    assert not np.shares_memory(value, W)
    np.testing.assert_array_equal(value, W.T)
    os.replace(path, tmp_path / "renamed.onnx")
    np.testing.assert_array_equal(value, W.T)
    del value
    os.replace(tmp_path / "renamed.onnx", path)
    model.graph.doc_string = "written again"
    writer.write(path)
    assert path.read_bytes() != first
    loaded = onnx.load(path)
    assert path.read_bytes() == loaded.SerializeToString(deterministic=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(loaded.graph.initializer[0]), W.T)
    np.testing.assert_array_equal(initializers.value(stub), W.T)


def test_a_card_is_appended_and_changes_no_byte_before_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    written(path)
    before = path.read_bytes()
    append_card(path, card("a note"))
    after = path.read_bytes()
    assert after.startswith(before)
    loaded = onnx.load(path)
    assert after == loaded.SerializeToString(deterministic=True)
    assert [(x.key, x.value) for x in loaded.metadata_props] == [(KEY, card("a note").to_json())]


def test_too_many_weights_go_to_a_data_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    written(path)
    expected = run(path)
    monkeypatch.setattr("layertap_export.writing.INLINE_BYTES", W.nbytes)
    data = DataFile(path)
    written(path, data)
    np.testing.assert_array_equal(run(path), expected)
    onnx.checker.check_model(path, full_check=True)
    loaded = onnx.load(path, load_external_data=False)
    assert path.read_bytes() == loaded.SerializeToString(deterministic=True)
    (w, b) = loaded.graph.initializer
    assert {entry.key: entry.value for entry in w.external_data} == {
        "location": data.location,
        "offset": "0",
        "length": str(W.nbytes),
    }
    assert b.raw_data == b""  # 1200 bytes
    assert data.size == W.nbytes + (-W.nbytes) % 4096 + 1200


@pytest.mark.parametrize("dims", [(300, 200), (7, 7)])
def test_a_graph_is_checked_without_its_weights(dims: tuple[int, int]) -> None:
    """Shapes that do not go together are found all the same."""
    model, _ = graph()
    item = model.graph.initializer[0]
    del item.dims[:]
    item.dims.extend(dims)
    with pytest.raises(layertap_export.ExportError) as caught:
        validate(model)
    assert str(caught.value).startswith("the converted model is not valid ONNX: ")
    model, _ = graph()
    validate(model)


# --- The export as a whole ----------------------------------------------------------------------


@pytest.fixture
def model(keras: Any) -> Any:
    keras.utils.set_random_seed(0)
    x = keras.Input((40,), name="x")
    random = {"bias_initializer": "normal"}  # zeros would not be added
    y = keras.layers.Dense(50, "relu", name="hidden", **random)(x)
    return keras.Model(x, keras.layers.Dense(30, name="scores", **random)(y), name="wide")


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no file could hold more than 8 kB."""
    monkeypatch.setattr("layertap_export.writing.INLINE_BYTES", 8192)
    monkeypatch.setattr("layertap._engine.part_file.INLINE_BYTES", 5000)


@pytest.mark.usefixtures("low")
def test_a_model_beyond_what_one_file_holds(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, part = tmp_path / "wide.onnx", tmp_path / "part.onnx"
    report = layertap_export.export(model, path)
    (data,) = tmp_path.glob("wide-*.data")
    assert report.size_bytes == path.stat().st_size + data.stat().st_size
    loaded = onnx.load(path, load_external_data=False).graph.initializer
    inside = {tuple(item.dims): len(item.raw_data) for item in loaded}
    assert inside == {(40, 50): 0, (50,): 200, (50, 30): 0, (30,): 120}
    x = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    opened = layertap.open(path)
    np.testing.assert_allclose(opened.predict(x), model.predict(x, verbose=0), rtol=1e-4, atol=1e-6)
    model.save(tmp_path / "wide.keras")
    for command in (
        ["verify", path, tmp_path / "wide.keras"],
        ["check", path],
        ["info", path],
        ["layers", path],
        ["cut", path, "--to", "hidden", "-o", part],
        ["check", part],
    ):
        assert main([str(word) for word in command]) == 0, capsys.readouterr().err
    assert len(list(tmp_path.glob("part-*.data"))) == 1
    hidden = layertap.open(part).predict(x)
    np.testing.assert_array_equal(hidden, opened.activations(x, "hidden"))
