"""Why a file cannot be loaded, and what is loaded although it was not."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import layertap
import layertap_export
from layertap_export import ModelLoadError, load_model

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
]

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def reason(path: Path, **options: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_model(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("depth", [0, 1])
def test_an_unknown_layer_of_keras_2_is_named(
    tf_keras: Any, tmp_path: Path, suffix: str, depth: int
) -> None:
    class Mine(tf_keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2.0

    x = tf_keras.Input((4,))
    y = tf_keras.layers.Dense(3)(x)
    model = tf_keras.Model(x, tf_keras.layers.Dense(2)(Mine()(y)))
    if depth:
        x = tf_keras.Input((4,))
        model = tf_keras.Model(x, model(x))
    path = tmp_path / f"m.{suffix}"
    model.save(path, save_format="keras" if suffix == "keras" else "h5")
    assert f"uses 'Mine', which tf_keras {tf_keras.__version__} does not know" in reason(path)
    loaded = load_model(path, custom_objects=[Mine])
    np.testing.assert_allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.parametrize("case", ["model", "layer", "file"])
def test_a_metric_of_keras_2_is_nothing_in_inference(
    tf_keras: Any, tmp_path: Path, case: str
) -> None:
    class Measured(tf_keras.layers.Layer):
        def call(self, x: Any) -> Any:
            self.add_metric(tf_keras.backend.mean(x), name="mean")
            return x * 2.0

    x = tf_keras.Input((4,))
    y = tf_keras.layers.Dense(3)(x)
    model = tf_keras.Model(x, Measured()(y) if case == "layer" else y)
    if case != "layer":
        model.add_metric(tf_keras.backend.mean(y), name="mean", aggregation="mean")
    source: Any = model
    if case == "file":
        source = tmp_path / "m.h5"
        model.save(source)
    report = layertap_export.export(source, tmp_path / "m.onnx")
    found = layertap.open(report.path).predict(X)
    np.testing.assert_allclose(found, model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


def test_the_state_of_a_metric_may_be_missing(tf_keras: Any, tmp_path: Path) -> None:
    """TensorFlow 2.12 to 2.14 kept it under another name."""
    h5py = pytest.importorskip("h5py")
    x = tf_keras.Input((4,))
    y = tf_keras.layers.Dense(3)(x)
    model = tf_keras.Model(x, y)
    model.add_metric(tf_keras.backend.mean(y), name="mean", aggregation="mean")
    model.save(tmp_path / "m.keras", save_format="keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = tmp_path / "weights.h5"
    weights.write_bytes(members["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        found: list[str] = []
        file.visit(found.append)
        states = [name for name in found if "metric" in name and name.endswith("/vars/0")]
        assert states
        for name in states:
            variables = file[name].parent
            for key in list(variables):
                del variables[key]
    members["model.weights.h5"] = weights.read_bytes()
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    loaded = load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.parametrize("cls", ["GRU", "LSTM", "SimpleRNN"])
def test_a_stateful_layer_of_keras_2_starts_from_its_states(
    tf_keras: Any, tmp_path: Path, cls: str
) -> None:
    x = tf_keras.Input((4, 3), batch_size=2)
    model = tf_keras.Model(x, getattr(tf_keras.layers, cls)(5, stateful=True)(x))
    batch = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    report = layertap_export.export(model, tmp_path / "m.onnx")
    expected = model.predict(batch, verbose=0)
    found = layertap.open(report.path)
    for _ in range(2):  # a file keeps no states
        np.testing.assert_allclose(found.predict(batch), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(model.predict(batch, verbose=0) - expected).max() > 1e-3


def attention(x: Any) -> Any:
    return keras.layers.Attention()([x, x])


def sliced(x: Any) -> Any:
    return x[:, 1:]


def stacked(x: Any) -> Any:
    return keras.ops.stack([x, x])


@pytest.mark.parametrize("body", [attention, sliced, stacked])
def test_what_keras_3_writes_to_h5_and_cannot_read(body: Any, tmp_path: Path) -> None:
    x = keras.Input((4, 3))
    model = keras.Model(x, keras.layers.Dense(2)(body(x)))
    model.save(tmp_path / "m.h5")
    said = reason(tmp_path / "m.h5")
    assert f"although Keras {keras.__version__} wrote it" in said
    assert said.endswith("save it as a .keras file.")
    assert "--custom-objects" not in said
    model.save(tmp_path / "m.keras")
    load_model(tmp_path / "m.keras")


SCALE = 3.0


def with_lambda(path: Path) -> Path:
    x = keras.Input((4,))
    keras.Model(x, keras.layers.Lambda(lambda t: t * SCALE)(x)).save(path)
    return path


def test_a_lambda_that_uses_a_global_name(tmp_path: Path) -> None:
    path = with_lambda(tmp_path / "m.keras")
    assert reason(path, unsafe=True) == (
        f"{str(path)!r} has a Lambda layer whose code uses 'SCALE', which the file does not "
        "contain. Say where it is: --custom-objects package.module:SCALE (custom_objects="
        "{'SCALE': ...} in Python)."
    )
    reference = f"{__name__}:SCALE"
    sys.modules.setdefault(__name__, sys.modules[test_a_lambda_that_uses_a_global_name.__module__])
    for given in ({"SCALE": 5.0}, [reference]):
        loaded = load_model(path, unsafe=True, custom_objects=given)
        factor = 5.0 if isinstance(given, dict) else 3.0
        np.testing.assert_allclose(loaded.predict(X, verbose=0), X * factor, rtol=1e-6)


def test_a_lambda_of_another_python(tmp_path: Path) -> None:
    path = with_lambda(tmp_path / "m.keras")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "Lambda":
            layer["config"]["function"]["config"]["code"] = "4wEAAAA="
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    said = reason(path, unsafe=True)
    assert "whose code another version of Python compiled: this is Python" in said
