"""Receptive fields and Jacobians of an exported network, against `tf.GradientTape`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def network(keras: Any) -> Any:
    """A regression model whose weights are all positive, so that nothing cancels."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((21, 17, 2), name="image")
    x = layers.Conv2D(3, 3, strides=2, padding="same", activation="relu", name="conv")(image)
    x = layers.Conv2D(3, 3, dilation_rate=2, padding="same", name="dilated")(x)
    y = layers.BatchNormalization(name="bn")(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    x = layers.Add(name="add")([x, y])
    x = layers.ZeroPadding2D(((2, 0), (1, 0)), name="padded")(x)
    x = layers.AveragePooling2D(2, name="pool")(x)
    y = layers.UpSampling2D(2, name="nearest")(x)
    y = layers.UpSampling2D(2, interpolation="bilinear", name="linear")(y)
    z = layers.Conv2DTranspose(2, 3, strides=2, padding="same", name="transposed")(x)
    z = layers.Cropping2D(((1, 0), (0, 2)), name="cropped")(z)
    means = [layers.GlobalAveragePooling2D()(one) for one in (y, z)]
    x = layers.Dense(4, "tanh", name="dense")(layers.Concatenate()(means))
    model = keras.Model(image, layers.Dense(3, name="values")(x), name="regression")
    generator = np.random.default_rng(0)
    model.set_weights([generator.random(w.shape) / 4 + 0.01 for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def file(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import layertap_export

    path = tmp_path_factory.mktemp("fields") / "model.onnx"
    layertap_export.export(network, path, gradients=["image", "pool"])
    return path


def test_the_box_is_where_the_gradient_is_not_0(keras: Any, network: Any, file: Path) -> None:
    import tensorflow as tf

    model = layertap.open(file)
    names = ("conv", "add", "padded", "pool", "nearest", "linear", "transposed", "cropped")
    outputs = [network.get_layer(name).output for name in names]
    part = keras.Model(network.inputs, outputs)
    x = tf.constant(np.random.default_rng(1).random((1, 21, 17, 2)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        values = part(x)
        probes = {}
        for name, value in zip(names, values, strict=True):
            _, h, w, _ = value.shape
            for at in ((0, 0), (h - 1, w - 1), (h // 2, w // 3)):
                probes[name, at] = tf.reduce_sum(value[0, at[0], at[1]])
    for (name, at), probe in probes.items():
        slope = tape.gradient(probe, x)
        hits = np.zeros((0, 2), int) if slope is None else np.argwhere(slope[0].numpy().any(-1))
        box = tuple((int(one.min()), int(one.max()) + 1) for one in hits.T) if len(hits) else None
        assert model.receptive_field(name, at).box == box, (name, at)
    found = model.receptive_field("pool")
    assert (found.size, found.stride) == ((17, 17), (4, 4))


def test_jacobians_are_those_of_the_tape(keras: Any, network: Any, file: Path) -> None:
    import tensorflow as tf

    x = np.random.default_rng(2).normal(size=(3, 21, 17, 2)).astype(np.float32)
    given = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given)
        scores = network(given)
    expected = tape.batch_jacobian(scores, given).numpy()
    model = layertap.open(file)
    found = model.jacobian(x)
    assert found.shape == (3, 3, 21, 17, 2)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    inner = model.jacobian(x, "pool")
    assert inner.shape == (3, 3, *network.get_layer("pool").output.shape[1:])
    with tf.GradientTape() as tape:
        tape.watch(given)
        pooled = keras.Model(network.inputs, network.get_layer("pool").output)(given)
    through = tape.batch_jacobian(pooled, given).numpy()
    chained = np.einsum("nrabc,nabcxyz->nrxyz", inner, through)
    assert np.abs(chained - expected).max() < 1e-5 * np.abs(expected).max()
