"""The chest-X-ray DenseNet121: its layers, its seeded weights, and its weights from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from layertap.errors import UsageError
from layertap.images.preprocessing import Preprocessing
from layertap_models import MODELS, phantom
from layertap_models.chest_xray import LABELS, build

pytestmark = [
    pytest.mark.tensorflow,
    # Keras, when it saves, reads variables in a way that numpy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SHAPE = (64, 64, 3)


@pytest.fixture(scope="module")
def model() -> Any:
    keras.layers.ZeroPadding2D()  # moves Keras's counters: names must not depend on them
    keras.layers.Dense(3)
    keras.Input((4,))
    return build(input_shape=SHAPE)


@pytest.fixture(scope="module")
def batch() -> Any:
    return np.random.default_rng(0).standard_normal((2, *SHAPE), dtype=np.float32)


def names_of_keras() -> list[str]:
    """The 429 layers, as the paper builds them and Keras names them in a fresh process."""
    names = ["input_layer", "zero_padding2d", "conv1_conv", "conv1_bn", "conv1_relu"]
    names += ["zero_padding2d_1", "pool1"]
    for stage, blocks in zip((2, 3, 4, 5), (6, 12, 24, 16), strict=True):
        for block in range(1, blocks + 1):
            steps = ["0_bn", "0_relu", "1_conv", "1_bn", "1_relu", "2_conv", "concat"]
            names += [f"conv{stage}_block{block}_{step}" for step in steps]
        if stage < 5:
            names += [f"pool{stage}_{step}" for step in ("bn", "relu", "conv", "pool")]
    return [*names, "bn", "relu", "global_average_pooling2d", "dense"]


def test_layers_are_those_of_densenet121(model: Any) -> None:
    assert [layer.name for layer in model.layers] == names_of_keras()
    assert len(model.layers) == 429
    assert model.layers[424].name == "conv5_block16_concat"
    assert model.name == "chest_xray"
    assert len(LABELS) == 14


def test_input_and_output_have_the_expected_shapes(model: Any) -> None:
    assert model.input_shape == (None, 64, 64, 3)
    assert model.output_shape == (None, 14)
    assert model.get_layer("conv5_block16_concat").output.shape == (None, 2, 2, 1024)
    assert model.layers[-1].activation.__name__ == "sigmoid"


def test_sides_can_be_free() -> None:
    free = build(input_shape=(None, None, 1))
    assert free.input_shape == (None, None, None, 1)
    assert free.get_layer("zero_padding2d_1") is free.layers[5]


@pytest.mark.slow
def test_the_renamed_model_can_be_saved_and_loaded(model: Any, batch: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "chest.keras")
    loaded = keras.models.load_model(tmp_path / "chest.keras")
    assert [layer.name for layer in loaded.layers] == names_of_keras()
    assert np.array_equal(loaded(batch), model(batch))


# The seeded weights.


def weights_of(model: Any) -> list[bytes]:
    return [array.tobytes() for array in model.get_weights()]


def test_weights_only_depend_on_the_seed(model: Any) -> None:
    keras.utils.set_random_seed(3)
    assert weights_of(build(input_shape=SHAPE, seed=0)) == weights_of(model)


@pytest.mark.slow
def test_another_seed_gives_other_weights(model: Any) -> None:
    other = build(input_shape=SHAPE, seed=1)
    same = [a == b for a, b in zip(weights_of(model), weights_of(other), strict=True)]
    assert not any(same)


def test_batch_statistics_are_not_the_identity(model: Any) -> None:
    normalisations = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(normalisations) == 121
    for layer in normalisations:
        gamma, beta, mean, variance = layer.get_weights()
        assert gamma.std() > 0.15
        assert beta.std() > 0.05
        assert mean.std() > 0.1
        assert variance.std() > 0.15
        assert variance.min() >= 0.5


def test_outputs_depend_on_the_image(tmp_path: Path) -> None:
    """Activations stay in range, channels are not constant, and scores differ between images."""
    model = build()
    taps = [f"conv{n}_block{m}_concat" for n, m in ((2, 6), (3, 12), (4, 24), (5, 16))]
    tapped = keras.Model(model.input, [model.get_layer(tap).output for tap in taps] + model.outputs)
    recipe = Preprocessing.from_dict(MODELS["chest_xray"].preprocessing)
    *activations, scores = tapped(recipe.batch(phantom.write_samples(tmp_path, 3)))
    for activation in map(np.asarray, activations):
        assert 0.3 < activation.std() < 2
        assert np.abs(activation).max() < 20
        dead = (activation.max(axis=(0, 1, 2)) == activation.min(axis=(0, 1, 2))).mean()
        assert dead < 0.02
    scores = np.asarray(scores)
    assert scores.shape == (3, 14)
    assert 0.01 < scores.min() < scores.max() < 0.99
    assert scores[0].std() > 0.1
    assert np.ptp(scores, axis=0).max() > 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"input_shape": (320, 31, 3)},
            "input_shape must be (height, width, channels) with sides of at least 32, or None for "
            "a free side; got (320, 31, 3).",
        ),
        (
            {"input_shape": (320, 320)},
            "input_shape must be (height, width, channels) with sides of at least 32, or None for "
            "a free side; got (320, 320).",
        ),
        (
            {"input_shape": (320, 320, None)},
            "input_shape must be (height, width, channels) with sides of at least 32, or None for "
            "a free side; got (320, 320, None).",
        ),
        (
            {"seed": -1, "input_shape": (32, 32, 3)},
            "seed must be an integer of at least 0, got -1.",
        ),
    ],
)
def test_invalid_option_is_a_usage_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(**options)
    assert str(caught.value) == message


# Weights from a file.

_KERAS2_NAMES = {
    "input_layer": "input_1",
    "zero_padding2d": "zero_padding2d_1",
    "conv1_conv": "conv1/conv",
    "conv1_bn": "conv1/bn",
    "conv1_relu": "conv1/relu",
    "zero_padding2d_1": "zero_padding2d_2",
    "global_average_pooling2d": "global_average_pooling2d_1",
    "dense": "dense_1",
}


def write_as_keras2(model: Any, path: Path, *, group: str = "/") -> int:
    """Write weights in the layout of Keras 2.1 to 2.2 on TensorFlow; return the number of layers.

    These versions named layers like `conv1/conv`, counted from 1, wrote byte strings, and had no
    `relu` after the last `bn`. `group` is `model_weights` in the file of a whole model.
    """
    with h5py.File(path, "w") as file:
        root = file.require_group(group)
        layers = [layer for layer in model.layers if layer.name != "relu"]
        names = [_KERAS2_NAMES.get(layer.name, layer.name) for layer in layers]
        root.attrs["layer_names"] = [name.encode() for name in names]
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = b"2.2.4"
        for layer, name in zip(layers, names, strict=True):
            datasets = root.create_group(name)
            weight_names = [f"{name}/{variable.name}:0" for variable in layer.weights]
            datasets.attrs["weight_names"] = [weight.encode() for weight in weight_names]
            for weight_name, value in zip(weight_names, layer.get_weights(), strict=True):
                datasets[weight_name] = value
        return len(layers)


def slow(value: str) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize("group", [slow("/"), "model_weights"])
def test_keras2_weights_file_is_loaded(model: Any, batch: Any, tmp_path: Path, group: str) -> None:
    """A `pretrained_model.h5` of Keras 2 gives the network of that version, with 428 layers."""
    path = tmp_path / "pretrained_model.h5"
    assert write_as_keras2(model, path, group=group) == 428
    loaded = build(weights=path, input_shape=SHAPE, seed=1)
    assert weights_of(loaded) == weights_of(model)
    assert [layer.name for layer in loaded.layers] == [
        layer.name for layer in model.layers if layer.name != "relu"
    ]
    bn = keras.Model(model.input, model.get_layer("bn").output)(batch)
    scores = model.get_layer("dense")(keras.ops.mean(bn, axis=(1, 2)))
    np.testing.assert_allclose(loaded(batch), scores, rtol=1e-5)
    assert not np.allclose(loaded(batch), model(batch), rtol=1e-2)


def test_last_relu_can_be_chosen(model: Any, batch: Any, tmp_path: Path) -> None:
    """Weights of Keras 2 can be loaded into the network of Keras 3."""
    path = tmp_path / "pretrained_model.h5"
    write_as_keras2(model, path)
    loaded = build(weights=path, input_shape=SHAPE, last_relu=True)
    assert np.array_equal(loaded(batch), model(batch))
    assert len(build(input_shape=SHAPE, last_relu=False).layers) == 428


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chest.weights.h5", "chest.keras", "chest.h5"])
def test_keras3_weights_file_is_loaded(model: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (model.save_weights if name.endswith(".weights.h5") else model.save)(path)
    assert weights_of(build(str(path), SHAPE, seed=1)) == weights_of(model)


@pytest.fixture(scope="module")
def nested() -> Any:
    """The same network as a nested model, with an optimizer."""
    layers = [
        keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(32, 32, 3)),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(14, activation="sigmoid", name="findings"),
    ]
    model = keras.Sequential(layers)
    model.compile("adam", "binary_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("name", ["nested.weights.h5", slow("nested.keras"), slow("nested.h5")])
def test_weights_of_a_nested_model_are_loaded(nested: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (nested.save_weights if name.endswith(".weights.h5") else nested.save)(path)
    loaded = build(path, (32, 32, 3))
    backbone, *_, head = nested.layers
    expected = [(layer.name, weights_of(layer)) for layer in backbone.layers if layer.weights]
    expected.append(("dense", weights_of(head)))
    assert len(expected) == 242
    assert [(layer.name, weights_of(layer)) for layer in loaded.layers if layer.weights] == expected
