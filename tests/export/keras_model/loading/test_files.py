"""Files of whole models, of many versions of Keras."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import layertap
import layertap_export
from layertap_export import ModelLoadError, UnsafeModelError, load_model, load_weights

from .conftest import VERSIONS, OldFile, edit_archive, edit_config

Old = Callable[[str, str], OldFile]

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
]


def family(model: Any) -> str:
    return str(type(model).__module__).partition(".")[0]


def same(loaded: Any, expected: Any) -> None:
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in expected.layers]
    for ours, theirs in zip(loaded.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- Keras 3 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.h5", "model.keras", "model"])
@pytest.mark.parametrize("written", ["written.h5", "written.keras"])
def test_the_format_is_recognized_by_content_not_by_suffix(
    name: str, written: str, small: Any, tmp_path: Path
) -> None:
    """TensorFlow before 2.12 wrote HDF5 under any name."""
    small.save(tmp_path / written)
    (tmp_path / written).rename(tmp_path / name)
    loaded = load_model(tmp_path / name)
    assert family(loaded) == "keras"
    same(loaded, small)


def test_unpacked_archives_are_loaded(small: Any, tmp_path: Path) -> None:
    small.save(tmp_path / "model.keras")
    zipfile.ZipFile(tmp_path / "model.keras").extractall(tmp_path / "model")
    same(load_model(tmp_path / "model"), small)


@pytest.mark.parametrize("dtype", ["uint32", "int32"])
def test_files_of_other_backends_are_loaded(dtype: str, keras: Any, tmp_path: Path) -> None:
    """JAX and torch store the state of a Dropout's random generator in these dtypes, and write
    another backend into `.h5` files."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dropout(0.5, seed=3)])
    model.save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "a") as file:
        file.attrs["backend"] = file["model_weights"].attrs["backend"] = "jax"
    same(load_model(tmp_path / "model.h5"), model)
    weights = tmp_path / "model.weights.h5"

    def add_a_state(contents: dict[str, bytes]) -> None:
        weights.write_bytes(contents["model.weights.h5"])
        with h5py.File(weights, "a") as file:
            file["layers/dropout/seed_generator/vars/0"] = np.array([0, 3], dtype)
        contents["model.weights.h5"] = weights.read_bytes()

    model.save(tmp_path / "model.keras")
    edit_archive(tmp_path / "model.keras", add_a_state)
    same(load_model(tmp_path / "model.keras"), model)
    other = keras.models.clone_model(model)
    load_weights(other, weights)
    same(other, model)


# --- Keras 2 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["slashes", "nested", "sequential", "numbers", "gru", "lambda"])
@pytest.mark.usefixtures("tf_keras")
def test_files_of_2017_to_2019_predict_the_same(version: str, name: str, old: Old) -> None:
    """Compared with the predictions of the Keras that wrote them."""
    file = old(version, name)
    if name == "lambda":
        with pytest.raises(UnsafeModelError, match="has a Lambda layer \\('double'\\)"):
            load_model(file.path)
    model = load_model(file.path, unsafe=name == "lambda")
    assert model.input_shape == (None, *file.x.shape[1:])
    np.testing.assert_allclose(np.asarray(model(file.x)), file.y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["slashes", "nested"])
@pytest.mark.usefixtures("tf_keras")
def test_layers_of_old_files_are_exposed(name: str, old: Old, tmp_path: Path) -> None:
    file = old("2.2.4", name)
    report = layertap_export.export(file.path, tmp_path / "old.onnx")
    assert report.card.source.framework == "tf_keras"
    names = [layer.name for layer in report.card.layers]
    if name == "slashes":
        assert names[1:4] == ["conv1/conv", "conv1/bn", "conv1/relu"]
    else:
        assert names[1:4] == ["backbone", "backbone/conv1", "backbone/bn1"]
    predicted = layertap.open(report.path).predict(file.x)
    np.testing.assert_allclose(predicted, file.y, rtol=1e-5, atol=1e-5)


def densenet_of_2018(tf_keras: Any) -> Any:
    """A DenseNet as in keras_applications before 1.0.5: no relu after the last `bn`."""
    layers = tf_keras.layers
    image = tf_keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 7, strides=2, padding="same", use_bias=False, name="conv1/conv")(image)
    x = layers.BatchNormalization(epsilon=1.001e-5, name="conv1/bn")(x)
    x = layers.Activation("relu", name="conv1/relu")(x)
    for block in (1, 2):
        y = layers.BatchNormalization(epsilon=1.001e-5, name=f"conv2_block{block}_0_bn")(x)
        y = layers.Activation("relu", name=f"conv2_block{block}_0_relu")(y)
        y = layers.Conv2D(4, 3, padding="same", name=f"conv2_block{block}_1_conv")(y)
        x = layers.Concatenate(name=f"conv2_block{block}_concat")([x, y])
    x = layers.BatchNormalization(epsilon=1.001e-5, name="bn")(x)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return tf_keras.Model(image, layers.Dense(14, "sigmoid", name="dense_1")(x), name="model_1")


def write_as_2_1(model: Any, path: Path) -> None:
    """The layout and the configuration of Keras 2.1 and 2.2: no dtypes, `Model`, lists of axes."""

    def older(config: Any) -> Any:
        if isinstance(config, list):
            return [older(item) for item in config]
        if not isinstance(config, dict):
            return config
        left_out = ("dtype", "groups", "ragged", "keepdims", "registered_name", "module")
        is_input = config.get("class_name") == "InputLayer"
        return {
            key: older(value)
            for key, value in config.items()
            if key not in left_out and not (is_input and key == "groups")
        }

    config = {"class_name": "Model", "config": older(json.loads(model.to_json())["config"])}
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "InputLayer":
            layer["config"] |= {"dtype": "float32", "sparse": False}
        if layer["class_name"] == "BatchNormalization":
            layer["config"]["axis"] = -1
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = b"2.1.6", b"tensorflow"
        file.attrs["model_config"] = json.dumps(config).encode()
        group = file.create_group("model_weights")
        group.attrs["keras_version"], group.attrs["backend"] = b"2.1.6", b"tensorflow"
        group.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            weights = layer.trainable_weights + layer.non_trainable_weights
            names = [f"{layer.name}/{w.name.rpartition('/')[2]}" for w in weights]
            one = group.create_group(layer.name)
            one.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, weights, strict=True):
                one[name] = weight.numpy()


def test_a_densenet_of_2018_can_be_exported(tf_keras: Any, tmp_path: Path) -> None:
    tf_keras.utils.set_random_seed(0)
    model = densenet_of_2018(tf_keras)
    write_as_2_1(model, tmp_path / "old.h5")
    report = layertap_export.export(tmp_path / "old.h5", tmp_path / "old.onnx")
    assert [layer.name for layer in report.card.layers] == [layer.name for layer in model.layers]
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    predicted = layertap.open(report.path).predict(x)
    np.testing.assert_allclose(predicted, np.asarray(model(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_files_that_keras_3_cannot_load_are_loaded_in_tf_keras(
    name: str, tf_keras: Any, tmp_path: Path
) -> None:
    """Keras 3 can load neither archives of Keras 2 nor its LSTM."""
    layers = tf_keras.layers
    model = tf_keras.Sequential([tf_keras.Input((5, 4)), layers.LSTM(3), layers.Dense(2)])
    model.save(tmp_path / name)
    loaded = load_model(tmp_path / name)
    assert family(loaded) == "tf_keras"
    same(loaded, model)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_layer_that_keras_2_takes_for_its_name_is_named(tf_keras: Any, tmp_path: Path) -> None:
    """tf_keras has SpectralNormalization, and makes the text 'SpectralNormalization' of it."""
    layers = tf_keras.layers
    wrapped = layers.TimeDistributed(layers.Dense(3), name="wrapped")
    model = tf_keras.Sequential(
        [tf_keras.Input((5, 4)), layers.LSTM(4, return_sequences=True), wrapped]
    )
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        config = str(file.attrs["model_config"])
        file.attrs["model_config"] = config.replace("TimeDistributed", "SpectralNormalization")
    with pytest.raises(ModelLoadError, match=r"layer 'wrapped', a SpectralNormalization: "):
        load_model(tmp_path / "m.h5")


def test_keras_3_is_preferred_for_files_of_keras_2(tf_keras: Any, tmp_path: Path) -> None:
    model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    model.save(tmp_path / "model.h5")
    loaded = load_model(tmp_path / "model.h5")
    assert family(loaded) == "keras"
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_hard_sigmoid_of_keras_2_is_loaded_in_tf_keras(tf_keras: Any, tmp_path: Path) -> None:
    """Keras 3 would load it without an error, and compute x / 6 + 0.5 instead of x / 5 + 0.5."""
    layer = tf_keras.layers.Dense(3, "hard_sigmoid")
    model = tf_keras.Sequential([tf_keras.Input((4,)), layer])
    model.save(tmp_path / "model.h5")
    x = np.linspace(-4, 4, 8, dtype=np.float32).reshape(2, 4)
    loaded = load_model(tmp_path / "model.h5")
    np.testing.assert_array_equal(np.asarray(loaded(x)), np.asarray(model(x)))


def test_a_second_batch_axis_that_keras_3_adds_is_an_error(
    old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras 3 reads the input shape of Sequential models from before Keras 2.3 wrong."""
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    file = old("2.2.4", "numbers")
    with pytest.raises(layertap.DependencyError) as caught:
        load_model(file.path)
    assert ": it reads the input shape (None, 4) as (None, None, 4). This needs Keras 2, " in (
        str(caught.value)
    )


def test_missing_tf_keras_is_an_error(
    keras: Any, old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    file = old("2.0.8", "gru")
    with pytest.raises(layertap.DependencyError) as caught:
        load_model(file.path)
    assert str(caught.value) == (
        f"{str(file.path)!r} was written by Keras 2.0.8, and Keras {keras.__version__} cannot load "
        "it: hard_sigmoid is a different function in Keras 3. This needs Keras 2, the package "
        'tf_keras: install it with `pip install ".[tf-keras]"` in a checkout of layertap, or, if '
        "you use tensorflow-cpu, with `pip install --no-deps tf_keras`."
    )


def test_files_of_theano_are_an_error(old: Old, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    shutil.copy(old("2.2.4", "slashes").path, path)
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["backend"] = b"theano"
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{str(path)!r} was written with Theano, which stores convolution kernels flipped. Load it "
        "in Keras 2 on TensorFlow and save it again."
    )


# --- Errors of Keras ----------------------------------------------------------------------------


def test_the_reason_of_keras_is_reported_in_one_line(keras: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(path)
    edit_config(path, lambda layers: layers[1]["config"].update(units=-1, name="wide"))
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"Keras {keras.__version__} cannot load {str(path)!r} because of its layer 'wide', a "
        "Dense: Received an invalid value for `units`, expected a positive integer. Received: "
        "units=-1"
    )
