"""Grad-CAM for a region of a segmentation: a U-Net of 256 x 256 with four levels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import layertap

from . import models
from .gradients import grad_cam
from .timing import PAUSE, Row, alternate, compare, timed

ROUNDS = 25
SIZE, LEVELS, FILTERS, CLASSES = 256, 4, 16, 4
LAYER = "bottleneck"
CLASS, REGION = 1, (96, 64, 160, 176)
"""Top, left, bottom, right."""


def measure() -> list[Row]:
    """Time repeated calls, with the model, the function and the sessions prepared."""
    import layertap_export

    keras_model = _unet()
    image = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "unet.onnx")
        layertap_export.export(keras_model, file, layers=[LAYER], gradients=LAYER)
        model = layertap.open(file)
        explain = _tensorflow(keras_model, image)
        cases: dict[str, Callable[[], Any]] = {
            "ours": lambda: model.cam(image, LAYER, CLASS, at=REGION)[0, 0],
            "tape": lambda: explain().numpy(),
        }
        models.check_equal("Grad-CAM of a region", cases["ours"](), cases["tape"]())
        seconds = alternate({name: timed(call, PAUSE) for name, call in cases.items()}, ROUNDS, 3)
    what = f"Grad-CAM for a region, U-Net {SIZE} x {SIZE}"
    return compare(what, seconds, {"tape": ("tf.function, GradientTape", 0.8)})


def _unet() -> Any:
    """Two convolutions at each level, poolings, transposed convolutions, and skips."""
    import keras

    keras.utils.set_random_seed(0)

    def block(x: Any, filters: int, name: str | None = None) -> Any:
        for last in (False, True):
            x = keras.layers.Conv2D(
                filters, 3, padding="same", activation="relu", name=name if last else None
            )(x)
        return x

    entry = x = keras.Input((SIZE, SIZE, 3))
    skips = []
    for level in range(LEVELS):
        x = block(x, FILTERS << level)
        skips.append(x)
        x = keras.layers.MaxPooling2D()(x)
    x = block(x, FILTERS << LEVELS, LAYER)
    for level in reversed(range(LEVELS)):
        x = keras.layers.Conv2DTranspose(FILTERS << level, 2, strides=2)(x)
        x = block(keras.layers.Concatenate()([skips[level], x]), FILTERS << level)
    scores = keras.layers.Conv2D(CLASSES, 1, name="scores")(x)
    return keras.Model(entry, keras.layers.Softmax()(scores))


def _tensorflow(model: Any, image: Any) -> Callable[[], Any]:
    """A compiled function that computes the heat map `(h, w)` in Keras in the usual way."""
    import keras
    import tensorflow as tf

    outputs = [model.get_layer(name).output for name in (LAYER, "scores")]
    part = keras.Model(model.input, outputs)
    given = tf.constant(image)
    top, left, bottom, right = REGION

    @tf.function
    def explain(images: Any) -> Any:
        with tf.GradientTape() as tape:
            activation, scores = part(images, training=False)
            score = tf.reduce_sum(scores[:, top:bottom, left:right, CLASS])
        gradient = tape.gradient(score, activation)
        return grad_cam(activation, gradient, images.shape[1:3])

    return lambda: explain(given)
