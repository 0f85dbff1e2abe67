"""The chest X-ray model from export to heat map, compared with Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import layertap

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def keras_model() -> Any:
    pytest.importorskip("tensorflow")
    from layertap_models import chest_xray

    return chest_xray.build()


@pytest.fixture(scope="module")
def tapped(chest_file: Path) -> layertap.Model:
    return layertap.open(chest_file)


def keras_input(image: Path) -> Any:
    """The input as in the notebook: load at 320 x 320, subtract the mean, divide by the standard
    deviation."""
    import keras

    from layertap_models import MODELS

    scaling: Any = MODELS["chest_xray"].preprocessing["scaling"]
    pixels = keras.utils.img_to_array(keras.utils.load_img(image, target_size=(320, 320)))
    standardized = (pixels.astype(np.float64) - scaling["mean"]) / scaling["std"]
    return standardized.astype(np.float32)[np.newaxis]


def scaled_error(actual: Any, expected: Any) -> float:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def test_the_layer_table_matches_keras(tapped: layertap.Model, keras_model: Any) -> None:
    assert [layer.name for layer in tapped.layers] == [layer.name for layer in keras_model.layers]
    assert [layer.type for layer in tapped.layers] == [
        type(layer).__name__ for layer in keras_model.layers
    ]
    shapes = [x.output.shape for x in keras_model.layers]
    assert [layer.shape for layer in tapped.layers] == shapes
    assert [layer.parameters for layer in tapped.layers] == [
        layer.count_params() for layer in keras_model.layers
    ]
    assert tapped.layers[424].name == "conv5_block16_concat"


@pytest.fixture(scope="module")
def images(chest_folder: Path) -> list[Path]:
    return sorted((chest_folder / "images").glob("*.png"))[:2]


@pytest.fixture(scope="module")
def x(images: list[Path]) -> Any:
    return np.concatenate([keras_input(image) for image in images])


@pytest.fixture(scope="module")
def expected(keras_model: Any, x: Any) -> dict[str, Any]:
    """What each layer gives in Keras, for two images."""
    import keras

    function = keras.Model(keras_model.input, [layer.output for layer in keras_model.layers])
    names = [layer.name for layer in keras_model.layers]
    return dict(zip(names, map(np.asarray, function(x, training=False)), strict=True))


@pytest.mark.parametrize(
    "name", ["conv1_relu", "pool3_conv", "conv5_block16_concat", "bn", "dense"]
)
def test_one_layer_of_an_image_file_matches_keras(
    name: str, tapped: layertap.Model, images: list[Path], expected: dict[str, Any]
) -> None:
    assert scaled_error(tapped.activations(images[0], name), expected[name][:1]) < 1e-5


def test_all_layers_at_once_and_the_prediction_match_keras(
    tapped: layertap.Model, images: list[Path], expected: dict[str, Any]
) -> None:
    actual = tapped.activations(images)
    assert list(actual) == list(expected)
    errors = {name: scaled_error(actual[name], expected[name]) for name in expected}
    assert max(errors.values()) < 1e-5, max(errors, key=lambda name: errors[name])
    assert scaled_error(tapped.predict(images), expected["dense"]) < 1e-5


def test_gradients_and_heat_maps_of_a_class_per_image_match_tensorflow(
    tapped: layertap.Model, keras_model: Any, images: list[Path], x: Any
) -> None:
    import keras
    import tensorflow as tf

    name = "conv5_block16_concat"
    classes = np.eye(14, dtype=np.float32)[[1, 13]]
    last = keras_model.layers[-1]
    function = keras.Model(keras_model.input, [keras_model.get_layer(name).output, last.input])
    kernel, bias = last.get_weights()
    with tf.GradientTape() as tape:
        activation, features = function(x, training=False)
        score = tf.reduce_sum(classes * (features @ kernel + bias))
    expected = tape.gradient(score, activation).numpy()
    assert scaled_error(tapped.gradients(images, name, classes), expected) < 1e-4

    heat = np.maximum((activation.numpy() * expected.mean((1, 2), keepdims=True)).sum(-1), 0)
    found = tapped.cam(images, name, [1, 13], resize=False)
    for sample in (0, 1):
        peak = heat[sample].max()
        assert peak > 0
        np.testing.assert_allclose(found[sample, sample], heat[sample] / peak, atol=1e-4)


def test_gradients_add_less_than_a_thousandth_to_the_file(chest_file: Path) -> None:
    """Both passes share the weights."""
    import onnx

    from layertap_export.gradients.reading import strip

    model, card = onnx.load(chest_file), layertap.open(chest_file).card
    assert card is not None
    size = model.ByteSize()
    strip(model, card)
    assert 1 < size / model.ByteSize() < 1.001


@pytest.mark.slow  # test_finish.py compares small networks
def test_a_finished_file_matches_keras_on_pictures_of_another_size(
    chest_file: Path, keras_model: Any, tapped: layertap.Model, images: list[Path], tmp_path: Path
) -> None:
    """The picture goes in as it is; what Keras's image loading makes of it happens in the file."""
    from layertap_export import finish

    app = tmp_path / "app.onnx"
    layer = "conv5_block16_concat"
    report = finish(chest_file, app, heat_map=layer, top=3, layers={"bn": "mean"})
    assert report.added_bytes < 50_000
    session = onnxruntime.InferenceSession(app, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for number, image in enumerate(images):
        with Image.open(image) as opened:
            picture = np.asarray(opened.convert("RGB").resize((477 + number, 390)))
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture).save(path)
        values = session.run(names, {"image": picture, "target": np.array([2])})
        found = dict(zip(names, values, strict=True))
        expected = keras_model.predict(keras_input(path), verbose=0)
        assert scaled_error(found["dense"], expected) < 1e-5
        np.testing.assert_array_equal(found["top_classes"][0], np.argsort(-expected[0])[:3])
        heat = tapped.cam(path, layer, 2, resize=picture.shape[:2])
        np.testing.assert_allclose(found["heat_map"], heat, atol=1e-5)
