"""Gradients of a model whose weights take more than the 2 GB that one ONNX file can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
import layertap_export

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

ROWS, WIDTH = 270_000, 2048
"""Sizes of the embedding: 2.2 GB in float32."""


@pytest.fixture(scope="module")
def model(keras: Any) -> Any:
    entry = keras.Input((6,), dtype="int32", name="words")
    x = keras.layers.Embedding(ROWS, WIDTH, embeddings_initializer="zeros", name="table")(entry)
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    keras.utils.set_random_seed(0)
    x = keras.layers.Dense(WIDTH, activation="tanh", name="hidden")(x)
    model = keras.Model(entry, keras.layers.Dense(4, "softmax", name="scores")(x), name="large")
    seeded = np.random.default_rng(0).normal(size=(1000, WIDTH)).astype(np.float32)
    model.get_layer("table").embeddings.assign(np.resize(seeded, (ROWS, WIDTH)))
    return model


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.onnx"
    with pytest.warns(layertap.LayertapWarning, match=f"of {ROWS:,} rows of 'table'"):
        report = layertap_export.export(model, path, gradients="mean")
    assert report.size_bytes > 2**31
    assert report.verification.layers[-1].name == "grad/mean"
    return path


def expected(model: Any, x: np.ndarray) -> np.ndarray:
    """The gradient of each sample's first logit at `mean`."""
    hidden, scores = model.get_layer("hidden"), model.get_layer("scores")
    mean = model.get_layer("table").embeddings.numpy()[x].mean(1)
    y = np.tanh(mean @ hidden.kernel.numpy() + hidden.bias.numpy())
    return ((1 - y**2) * scores.kernel.numpy()[:, 0]) @ hidden.kernel.numpy().T


X = np.random.default_rng(1).integers(0, ROWS, (2, 6)).astype(np.int32)


def close(found: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max())


def test_an_export_with_gradients(model: Any, file: Path) -> None:
    close(layertap.open(file).gradients(X, "mean", 0), expected(model, X))
    with pytest.warns(layertap.LayertapWarning, match=f"of {ROWS:,} rows of 'table'"):
        assert layertap_export.verify(file, model)


def test_gradients_for_a_file_that_is_there(model: Any, file: Path, tmp_path: Path) -> None:
    report = layertap_export.add_gradients(file, tmp_path / "more.onnx", ["mean", "hidden"])
    assert report.compared.keys() == {"mean", "hidden"}
    assert report.size_bytes > 2**31
    close(layertap.open(report.path).gradients(X, "mean", 0), expected(model, X))
