"""A file on disk, and parts of it, run from its very bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from generators import tiny
from layertap_export.verification import written_file
from layertap_export.verification.written_file import WrittenFile

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

W = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(2, 40)).astype(np.float32)


def model() -> onnx.ModelProto:
    """`(x w) + b` with the shape of a Reshape, as large as a weight, between the two."""
    shape = np.ones(200, np.int64)
    nodes = [
        tiny.node("MatMul", "x w", "p"),
        tiny.node("Reshape", "ones shape", "one", allowzero=0),
        tiny.node("Flatten", "one", "flat"),
        tiny.node("Add", "p flat", "y"),
    ]
    weights = [
        numpy_helper.from_array(W, "w"),
        numpy_helper.from_array(np.ones(1, np.float32), "ones"),
        numpy_helper.from_array(shape[:8], "shape"),
    ]
    return tiny.model(nodes, [tiny.value("x", ["n", 40])], [tiny.value("y", ["n", 50])], weights)


@pytest.fixture(params=["inside", "in place", "external"])
def file(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> WrittenFile:
    path = tmp_path / "m.onnx"
    if request.param == "external":
        onnx.save(model(), path, save_as_external_data=True, location="m.data", size_threshold=1024)
    else:
        onnx.save(model(), path)
    if request.param == "in place":
        monkeypatch.setattr(written_file, "MAPPED_BYTES", 0)
    found = WrittenFile(path)
    assert (found.folder is None) == (request.param == "inside")
    return found


def test_the_whole_file(file: WrittenFile) -> None:
    (found,) = file.session().run(["y"], {"x": X})
    np.testing.assert_allclose(found, X @ W + 1, rtol=1e-5, atol=1e-5)


def test_a_part_of_the_file(file: WrittenFile) -> None:
    part = file.part(["y"], {"p": (TensorProto.FLOAT, 2)})
    assert [value.name for value in part.get_inputs()] == ["p"]
    (found,) = part.run(["y"], {"p": X[:, :1] @ W[:1]})
    np.testing.assert_allclose(found, X[:, :1] @ W[:1] + 1, rtol=1e-5, atol=1e-5)
    (found,) = file.part(["p"], {"x": (TensorProto.FLOAT, 2)}).run(["p"], {"x": X})
    np.testing.assert_allclose(found, X @ W, rtol=1e-5, atol=1e-5)


def test_the_value_of_a_weight(file: WrittenFile) -> None:
    item = next(item for item in file.model.graph.initializer if item.name == "w")
    assert (item.data_location == TensorProto.EXTERNAL) == (file.folder is not None)
    np.testing.assert_array_equal(numpy_helper.to_array(file.loaded(item)), W)


def test_all_but_the_weights_is_as_in_the_file(file: WrittenFile) -> None:
    plain = onnx.load(file.path)
    light = onnx.ModelProto()
    light.CopyFrom(file.model)
    for index, item in enumerate(light.graph.initializer):
        item.CopyFrom(file.loaded(file.model.graph.initializer[index]))
    for item in (*light.graph.initializer, *plain.graph.initializer):
        item.ClearField("data_location")
    assert light == plain
