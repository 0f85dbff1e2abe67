"""Heat maps of a trained network: compared with TensorFlow, and with objects of known position.

The network, conv -> relu -> pool -> conv -> relu -> mean -> dense, learns in seconds to distinguish
horizontal from vertical stripes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import layertap
from layertap.cam import METHODS, metrics

pytestmark = pytest.mark.tensorflow

SIZE, PATCH = 32, 12
LABELS = ("horizontal", "vertical")


class Scene(NamedTuple):
    """Images with one object of each class, or without."""

    images: np.ndarray
    """`(n, 32, 32, 3)`."""
    present: np.ndarray
    """`(n, 2)`: whether the class is in the image."""
    masks: np.ndarray
    """`(n, 2, 32, 32)`: the pixels of its object."""


def scenes(count: int, seed: int, *, both: bool = False) -> Scene:
    """Noise with a patch of horizontal stripes in one half, and of vertical stripes in the other;
    with `both` false each patch is missing in half of the images."""
    generator = np.random.default_rng(seed)
    images = generator.normal(0, 0.3, (count, SIZE, SIZE, 3))
    masks = np.zeros((count, 2, SIZE, SIZE), bool)
    present = np.ones((count, 2), bool) if both else generator.random((count, 2)) < 0.5
    ramp = np.where(np.arange(PATCH) % 4 < 2, 1.0, -1.0)
    for image, mask, has_class in zip(images, masks, present, strict=True):
        for k, side in enumerate(generator.permutation(2)):
            if has_class[k]:
                top = generator.integers(0, SIZE - PATCH + 1)
                left = side * SIZE // 2 + generator.integers(0, SIZE // 2 - PATCH + 1)
                stripes = ramp[:, None] if k == 0 else ramp[None]
                image[top : top + PATCH, left : left + PATCH] += stripes[..., None]
                mask[k, top : top + PATCH, left : left + PATCH] = True
    return Scene(images.astype(np.float32), present, masks)


@pytest.fixture(scope="module")
def trained(keras: Any) -> Any:
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Conv2D(8, 5, padding="same", activation="relu", name="early")(image)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="late")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    # Few features for each class, so that evidence against a class has little weight.
    sparse = keras.regularizers.L1(0.03)
    x = layers.Dense(2, "sigmoid", kernel_regularizer=sparse, name="probs")(x)
    model = keras.Model(image, x, name="stripes")
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    training = scenes(600, seed=1)
    model.fit(training.images, training.present.astype(np.float32), epochs=20, verbose=0)
    return model


@pytest.fixture(scope="module")
def model(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> layertap.Model:
    """The exported file with its gradients."""
    import layertap_export

    path = tmp_path_factory.mktemp("stripes") / "stripes.onnx"
    selectors = ["last-conv", "pool", "input"]
    layertap_export.export(trained, path, labels=LABELS, gradients=selectors)
    return layertap.open(path)


# --- Compared with TensorFlow -------------------------------------------------------------------


def by_tape(
    trained: Any, images: np.ndarray, layer: str, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A layer's activations, and the gradient of the weighted logits, for which the layers after it
    are called one by one under a tape.
    """
    import keras
    import tensorflow as tf

    part = keras.Model(trained.input, trained.get_layer(layer).output)
    activations = part(images, training=False)
    names = ["early", "pool", "late", "mean"]
    kernel, bias = trained.get_layer("probs").get_weights()
    with tf.GradientTape() as tape:
        tape.watch(activations)
        x = activations
        for name in names[names.index(layer) + 1 :]:
            x = trained.get_layer(name)(x)
        score = tf.reduce_sum(weights * (x @ kernel + bias))
    return activations.numpy(), tape.gradient(score, activations).numpy()


@pytest.mark.parametrize("layer", ["late", "pool"])
def test_gradients_match_tensorflow(trained: Any, model: layertap.Model, layer: str) -> None:
    images = scenes(4, seed=2).images
    weights = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    activations, slopes = by_tape(trained, images, layer, weights)
    found = model.gradients(images, layer, weights)
    np.testing.assert_allclose(found, slopes, atol=1e-5 * np.abs(slopes).max())
    found = model.activations(images, layer)
    np.testing.assert_allclose(found, activations, atol=1e-5 * np.abs(activations).max())


@pytest.mark.parametrize("layer", ["late", "pool"])
def test_heat_maps_match_the_notebook(trained: Any, model: layertap.Model, layer: str) -> None:
    """The notebook computes `relu(sum of w_k A_k)`, resized and divided by its maximum, with
    TensorFlow."""
    import tensorflow as tf

    images = scenes(3, seed=3).images
    found = model.cam(images, layer, list(LABELS))
    for k in (0, 1):
        activations, slopes = by_tape(trained, images, layer, np.eye(2)[[k] * 3])
        terms = activations * slopes.mean(axis=(1, 2), keepdims=True)
        heat = np.maximum(terms.sum(axis=-1), 0)
        large = tf.image.resize(heat[..., None], (SIZE, SIZE), "bilinear")[..., 0].numpy()
        peaks = large.max(axis=(1, 2), keepdims=True)
        peaks = np.where(peaks > 0, peaks, 1)
        # Terms of both signs nearly cancel in some images: float32 rounds by the terms' size.
        size = np.abs(terms).sum(axis=-1).max(axis=(1, 2), keepdims=True) / peaks
        error = np.abs(found[:, k] - large / peaks)
        assert (error <= 1e-5 * np.maximum(size, 1)).all(), error.max()


def test_integrated_gradients_are_complete(trained: Any, model: layertap.Model) -> None:
    """Their sum is the difference of TensorFlow's logits between the image and the baseline."""
    import keras

    images = scenes(3, seed=7).images
    kernel, bias = trained.get_layer("probs").get_weights()
    features = keras.Model(trained.input, trained.get_layer("mean").output)

    def logits(x: np.ndarray) -> np.ndarray:
        return features.predict(x, verbose=0) @ kernel + bias

    wanted = logits(images) - logits(np.zeros_like(images[:1]))
    found = model.attribute(images, "integrated_gradients", list(LABELS), steps=300)
    assert found.shape == (3, 2, SIZE, SIZE, 3)
    np.testing.assert_allclose(
        found.sum(axis=(2, 3, 4)), wanted, atol=0.01 * np.abs(wanted).max(), rtol=0
    )


def test_masked_images_match_keras(trained: Any, model: layertap.Model) -> None:
    """Every mask applied by hand, and the whole Keras model run on it."""
    import keras

    from layertap.cam.random_masks import RandomMasks

    image = scenes(1, seed=7).images[0]
    kernel, bias = trained.get_layer("probs").get_weights()
    features = keras.Model(trained.input, trained.get_layer("mean").output)

    def logits(x: np.ndarray) -> np.ndarray:
        return np.asarray(features.predict(x, verbose=0) @ kernel + bias)

    boxes = [
        np.s_[at : at + 8, left : left + 8] for at in range(0, 32, 8) for left in range(0, 32, 8)
    ]
    without = np.stack([image] * 16)
    for copy, box in zip(without, boxes, strict=True):
        copy[box] = image.mean(axis=(0, 1))
    drops = logits(image[None]) - logits(without)
    found = model.attribute(
        image[None], "occlusion", list(LABELS), window=8, stride=8, baseline="mean"
    )
    for box, drop in zip(boxes, drops, strict=True):
        wanted = np.broadcast_to(drop[:, None, None, None], (2, 8, 8, 3))
        every = (slice(None), *box)
        np.testing.assert_allclose(found[0][every], wanted, atol=1e-4)
    shapley = model.attribute(image[None], "kernelshap", list(LABELS), window=8, baseline="mean")
    blank = np.broadcast_to(image.mean(axis=(0, 1)), image.shape)
    total = logits(image[None]) - logits(blank[None])
    np.testing.assert_allclose(shapley.sum(axis=(2, 3, 4)), total, atol=1e-3)
    masks = RandomMasks((SIZE, SIZE), (7, 7), 50, 0.5, [2, 0], smooth=True)
    drawn = np.stack([masks[index] for index in range(50)])
    scores = trained.predict(image * drawn[..., None], verbose=0)
    wanted = np.einsum("mk,mhw->khw", scores, drawn) / 25
    options: dict[str, Any] = {"samples": 50, "seed": 2, "normalize": False}
    rise = model.cam(image[None], target=list(LABELS), method="rise", **options)
    np.testing.assert_allclose(rise[0], wanted, atol=1e-4)


def test_masked_tokens_match_keras(keras: Any, tmp_path: Path) -> None:
    """The drop of the logits without each token, which another one replaces."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(20, 8)(tokens)
    x = keras.layers.LSTM(5)(x)
    network = keras.Model(tokens, keras.layers.Dense(3)(x))
    model = exported(network, tmp_path)
    words = np.random.default_rng(0).integers(1, 20, (4, 6)).astype(np.int32)
    whole = network.predict(words, verbose=0)
    found = model.attribute(words, "occlusion", [0, 2], baseline=7)
    shapley = model.attribute(words, "kernelshap", [0, 2], baseline=7)
    for at in range(6):
        other = words.copy()
        other[:, at] = 7
        drop = whole - network.predict(other, verbose=0)
        np.testing.assert_allclose(found[..., at], drop[:, [0, 2]], atol=1e-5)
    drop = whole - network.predict(np.full_like(words, 7), verbose=0)
    np.testing.assert_allclose(shapley.sum(axis=-1), drop[:, [0, 2]], atol=1e-5)


# --- The pointing game --------------------------------------------------------------------------

OF_LAYERS = [name for name, method in METHODS.items() if not method.of_attention]
BY_GRADIENT = [name for name in OF_LAYERS if METHODS[name].takes == "gradients"]
POSITIVE_ONLY = ["gradcam++", "layercam", "gradcamelementwise"]
"""Methods that use only the evidence for a class, not the evidence against it."""


def test_the_network_has_learned(model: layertap.Model) -> None:
    test_set = scenes(100, seed=4)
    correct = (model.predict(test_set.images) > 0.5) == test_set.present
    assert correct.mean() > 0.95


@pytest.mark.parametrize("method", [*BY_GRADIENT, "ablationcam"])
def test_the_heat_is_on_the_object(model: layertap.Model, method: str) -> None:
    """The image has an object of each class. The maximum of a map must be on the object of its
    class, and most of its sum within three pixels of the object, because a map is coarse.
    """
    both = scenes(12, seed=5, both=True)
    maps = model.cam(both.images, "late", list(LABELS), method=method)
    near = dilated(both.masks, 3)
    share = (maps * near).sum(axis=(2, 3)) / maps.sum(axis=(2, 3))
    hottest = maps.reshape(12, 2, -1).argmax(axis=-1)
    hits = np.take_along_axis(both.masks.reshape(12, 2, -1), hottest[..., None], axis=-1)
    assert hits.all()
    assert share.min() > (0.65 if method in POSITIVE_ONLY else 0.9)
    # The overlap of the maps of the two classes.
    common = np.minimum(maps[:, 0], maps[:, 1]).sum(axis=(1, 2)) / maps.sum(axis=(2, 3)).min(axis=1)
    assert common.max() < (0.6 if method in POSITIVE_ONLY else 0.2)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("occlusion", {"window": 8, "stride": 2}),
        ("kernelshap", {"window": 4, "samples": 600}),
        ("rise", {"samples": 600, "cells": 5}),
        ("occlusion", {"layer": "late", "window": 3}),
        ("reciprocam", {"layer": "late"}),
    ],
)
def test_the_heat_of_masks_is_on_the_object(
    model: layertap.Model, method: str, options: dict[str, Any]
) -> None:
    """Without a gradient, on the image or on the layer: the hottest pixel is on the object."""
    both = scenes(6, seed=5, both=True)
    maps = model.cam(both.images, target=list(LABELS), method=method, batch_size=64, **options)
    hottest = maps.reshape(6, 2, -1).argmax(axis=-1)
    near = dilated(both.masks, 2).reshape(6, 2, -1)
    hits = np.take_along_axis(near, hottest[..., None], axis=-1)
    assert hits.mean() > 0.9


def dilated(masks: np.ndarray, pixels: int) -> np.ndarray:
    """Masks that are extended by this number of pixels in every direction."""
    padded = np.pad(masks, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * pixels + 1,) * 2, axis=(2, 3))
    return np.asarray(windows.any(axis=(-1, -2)))


def test_deletion_and_insertion_prefer_the_map_of_the_class(model: layertap.Model) -> None:
    both = scenes(6, seed=6, both=True)
    maps = model.cam(both.images, "late", list(LABELS))
    good = metrics.deletion(model, both.images, maps, list(LABELS), steps=16)
    bad = metrics.deletion(model, both.images, maps[:, ::-1], list(LABELS), steps=16)
    assert (good.auc < bad.auc - 0.2).all()
    good = metrics.insertion(model, both.images, maps, list(LABELS), steps=16, baseline=0.0)
    bad = metrics.insertion(model, both.images, maps[:, ::-1], list(LABELS), steps=16, baseline=0.0)
    assert (good.auc > bad.auc + 0.2).all()


# --- Channels first, and sequences --------------------------------------------------------------


def exported(keras_model: Any, folder: Path, **options: Any) -> layertap.Model:
    import layertap_export

    path = folder / "model.onnx"
    layertap_export.export(keras_model, path, **options)
    return layertap.open(path)


def twin(keras: Any, data_format: str) -> Any:
    """A network with seeded weights that do not depend on the order of axes.

    No map is as wide as it has channels: Keras 3.15 called eagerly then adds a bias along the
    width, if channels come first.
    """
    layers = keras.layers
    axis = 1 if data_format == "channels_first" else -1
    shape = (3, 16, 14) if data_format == "channels_first" else (16, 14, 3)
    options = {"data_format": data_format}
    image = keras.Input(shape, name="image")
    x = layers.Conv2D(6, 3, padding="same", name="conv", **options)(image)
    x = layers.BatchNormalization(axis=axis, name="norm")(x)
    x = layers.Activation("relu", name="relu")(x)
    x = layers.MaxPooling2D(name="pool", **options)(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="late", **options)(x)
    x = layers.Concatenate(axis=axis, name="joined")([x, y])
    x = layers.Permute((2, 3, 1) if axis == 1 else (3, 1, 2), name="turned")(x)
    back = (3, 1, 2) if axis == 1 else (2, 3, 1)
    x = layers.Permute(back, name="back")(x)
    x = layers.GlobalAveragePooling2D(name="mean", **options)(x)
    x = layers.Dense(3, "softmax", name="probs")(x)
    model = keras.Model(image, x, name="twin")
    generator = np.random.default_rng(5)
    model.set_weights([np.abs(generator.normal(size=w.shape)) * 0.3 for w in model.get_weights()])
    kernels = [model.get_layer(name) for name in ("conv", "late", "probs")]
    for layer in kernels:
        kernel, bias = layer.get_weights()
        layer.set_weights([generator.normal(size=kernel.shape) * 0.4, bias])
    return model


@pytest.fixture(scope="module")
def twins(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> list[layertap.Model]:
    """The same network with channels last and with channels first."""
    folders = [tmp_path_factory.mktemp(name) for name in ("last", "first")]
    formats = ("channels_last", "channels_first")
    return [
        exported(twin(keras, name), folder, gradients="all")
        for name, folder in zip(formats, folders, strict=True)
    ]


def test_the_card_states_the_axes(twins: list[layertap.Model]) -> None:
    last, first = ({row.name: row.axes for row in made.layers} for made in twins)
    maps = ("image", "conv", "norm", "relu", "pool", "late", "joined", "back")
    assert last == {**dict.fromkeys(maps, "NHWC"), "turned": "NCHW", "mean": "NC", "probs": "NC"}
    assert first == {**dict.fromkeys(maps, "NCHW"), "turned": "NHWC", "mean": "NC", "probs": "NC"}
    for made, axes in zip(twins, ("NHWC", "NCHW"), strict=True):
        assert [info.axes for info in (*made.inputs, *made.outputs)] == [axes, "NC"]


@pytest.mark.filterwarnings("ignore:target is for methods that explain a class")
@pytest.mark.parametrize("method", OF_LAYERS)
@pytest.mark.parametrize("layer", ["relu", "joined", "turned"])
def test_channels_first_gives_the_same_maps(
    twins: list[layertap.Model], method: str, layer: str
) -> None:
    last, first = twins
    x = np.random.default_rng(1).normal(size=(2, 16, 14, 3)).astype(np.float32)
    wanted = last.cam(x, layer, [0, 2], method=method)
    found = first.cam(x.transpose(0, 3, 1, 2), layer, [0, 2], method=method)
    assert found.shape == (2, 2, 16, 14)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_last_conv_of_channels_first(keras: Any, tmp_path: Path) -> None:
    names = []
    for data_format in ("channels_last", "channels_first"):
        made = exported(twin(keras, data_format), tmp_path, gradients="last-conv")
        assert made.card is not None
        assert made.card.gradients is not None
        names.append(list(made.card.gradients.tensors))
    assert names == [["back"], ["back"]]


def test_an_image_for_channels_first(keras: Any, tmp_path: Path) -> None:
    """The recipe in the card says the order, so that readers of format 1.2 refuse it."""
    recipe = {"size": [16, 14], "scaling": {"mode": "rescale", "scale": 1 / 255}}
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    found = []
    for data_format in ("channels_last", "channels_first"):
        made = exported(twin(keras, data_format), tmp_path, preprocess=recipe)
        assert made.preprocessing is not None
        found.append(made.predict(pixels))
        assert made.preprocessing.channels == ("first" if "first" in data_format else None)
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)


def test_maps_of_an_ecg(keras: Any, tmp_path: Path) -> None:
    """Conv1D over (n, t, c): Grad-CAM by a tape, at the layer that `last-conv` finds."""
    import tensorflow as tf

    layers = keras.layers
    keras.utils.set_random_seed(3)
    beats = keras.Input((40, 2), name="beats")
    x = layers.Conv1D(5, 7, strides=2, padding="same", name="early")(beats)
    x = layers.ReLU(name="relu")(x)
    x = layers.Conv1D(4, 3, padding="same", activation="relu", name="late")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    model = keras.Model(beats, layers.Dense(3, name="scores")(x))
    made = exported(model, tmp_path, gradients="last-conv")
    assert {row.name: row.axes for row in made.layers} == {
        **dict.fromkeys(("beats", "early", "relu", "late"), "NTC"),
        **dict.fromkeys(("mean", "scores"), "NC"),
    }
    data = np.random.default_rng(0).normal(size=(2, 40, 2)).astype(np.float32)
    part = keras.Model(beats, [model.get_layer("late").output, model.output])
    with tf.GradientTape() as tape:
        activations, scores = part(tf.constant(data))
        tape.watch(activations)
        score = tf.reduce_sum(model.get_layer("scores")(model.get_layer("mean")(activations))[:, 1])
    slopes = tape.gradient(score, activations).numpy()
    assert scores.shape == (2, 3)
    heat = (activations.numpy() * slopes.mean(axis=1, keepdims=True)).sum(axis=-1)
    found = made.cam(data, target=[1], resize=False, normalize=False)
    np.testing.assert_allclose(found[:, 0], heat, atol=1e-6)
    assert made.cam(data, target=[1]).shape == (2, 1, 40)
    means = made.activations(data, {"late": "mean"})["late"]
    np.testing.assert_allclose(means, activations.numpy().mean(axis=1), atol=1e-6)


def test_axes_of_text_and_attention(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    tokens = keras.Input((9,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 8, name="embedding")(tokens)
    attention = layers.MultiHeadAttention(2, 4, name="heads")
    y, weights = attention(x, x, return_attention_scores=True)
    x = layers.LayerNormalization(name="norm")(layers.Add(name="sum")([x, y]))
    x = layers.Dense(6, activation="gelu", name="dense")(x)
    x = layers.LSTM(5, return_sequences=True, name="lstm")(x)
    outputs = [layers.GlobalMaxPooling1D(name="max")(x), weights]
    made = exported(keras.Model(tokens, outputs), tmp_path)
    axes = {row.name: row.axes for row in made.layers}
    for name in ("embedding", "sum", "norm", "dense", "heads"):
        assert axes[name] == "NTC", name
    assert axes["lstm"] in ("NTC", None)  # None while it is a loop
    assert axes["tokens"] == "NT"
    assert axes["max"] == "NC"
    assert axes["heads:1"] in ("N???", None)
    assert "C" not in (axes["heads:1"] or "")
