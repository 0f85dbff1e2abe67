"""A small CNN that reads handwritten digits, so that predictions in a demonstration mean something.

It trains in seconds on the 8 x 8 images that come inside scikit-learn; nothing is downloaded. Its
20 layers have what makes an exporter sweat: depthwise and separable convolutions, batch
normalisations, a residual sum, a concatenation, dropout.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap.errors import UsageError
from layertap.images.preprocessing import Preprocessing

from ._require import require, require_keras
from ._samples import write_pngs
from ._seeding import generator, seed_weights
from .registry import MODELS

LABELS = MODELS["digits"].labels

_BATCH = 64
_HELD_OUT = 360
# The split is the same for every seed: what is held out from one model is held out from all.
_SPLIT_SEED = 0


class Digits(NamedTuple):
    """The data set, split."""

    train_images: NDArray[np.uint8]
    """`(1437, 8, 8)`, white ink on black."""
    train_labels: NDArray[np.int64]
    """`(1437,)`, 0 to 9."""
    test_images: NDArray[np.uint8]
    """`(360, 8, 8)`, never trained on."""
    test_labels: NDArray[np.int64]
    """`(360,)`."""


def build(seed: int = 0) -> Any:
    """The untrained Keras model, inputs `(n, 8, 8, 1)`, outputs `(n, 10)` in `LABELS` order.

    Args:
        seed: a whole number from 0 up; it alone decides the weights.

    Raises:
        UsageError: a `seed` that makes no sense.
        DependencyError: Keras or TensorFlow is not installed.
    """
    keras = require_keras()
    layers = keras.layers
    image = keras.Input(shape=(8, 8, 1), name="image")

    x = layers.Conv2D(32, 3, padding="same", use_bias=False, name="stem_conv")(image)
    x = layers.BatchNormalization(momentum=0.9, name="stem_bn")(x)
    stem = layers.Activation("relu", name="stem_relu")(x)

    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="res_depthwise")(stem)
    x = layers.Conv2D(32, 1, use_bias=False, name="res_pointwise")(x)
    x = layers.BatchNormalization(momentum=0.9, name="res_bn")(x)
    x = layers.Add(name="res_add")([stem, x])
    x = layers.Activation("relu", name="res_relu")(x)
    pooled = layers.MaxPooling2D(2, name="pool")(x)

    narrow = layers.Conv2D(32, 1, activation="relu", name="narrow_conv")(pooled)
    wide = layers.SeparableConv2D(64, 3, padding="same", name="wide_separable")(pooled)
    wide = layers.Activation("relu", name="wide_relu")(wide)
    x = layers.Concatenate(name="concat")([narrow, wide])
    x = layers.Conv2D(96, 3, padding="same", use_bias=False, name="last_conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name="last_bn")(x)
    x = layers.Activation("relu", name="last_relu")(x)

    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dropout(0.2, seed=seed, name="dropout")(x)
    scores = layers.Dense(len(LABELS), activation="softmax", name="digit")(x)
    model = keras.Model(image, scores, name="digits")
    seed_weights(model, seed)
    return model


def train(seed: int = 0, epochs: int = 10) -> Any:
    """A trained model: right on more than 95 in 100 digits that it has not seen.

    Args:
        seed: a whole number from 0 up; it decides the weights, and the order of the images.
        epochs: how often each image is seen, at least 1.

    Raises:
        UsageError: a `seed` or `epochs` that makes no sense.
        DependencyError: scikit-learn, Keras or TensorFlow is not installed.
    """
    if epochs < 1:
        raise UsageError(f"epochs must be at least 1, not {epochs}.")
    model = build(seed)
    keras = require_keras()
    digits = load()
    inputs = _inputs(digits.train_images)
    # One pass over all epochs in an order of our own: Keras's shuffling draws from global state.
    rng = generator(seed)
    order = np.concatenate([rng.permutation(len(inputs)) for _ in range(epochs)])
    rate = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=len(order) // _BATCH)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(
        inputs[order], digits.train_labels[order], batch_size=_BATCH, shuffle=False, verbose=0
    )
    return model


def accuracy(model: Any) -> float:
    """The share of the held-out digits that a model built here reads rightly, 0 to 1.

    Raises:
        DependencyError: scikit-learn is not installed.
    """
    digits = load()
    scores = model.predict(_inputs(digits.test_images), verbose=0)
    return float(np.mean(scores.argmax(axis=1) == digits.test_labels))


def load() -> Digits:
    """The data set, split in the same way every time.

    Raises:
        DependencyError: scikit-learn is not installed.
    """
    datasets = require("sklearn.datasets", to="load the digits", install="scikit-learn")
    images, labels = datasets.load_digits(return_X_y=True)
    # Ink is counted from 0 to 16; as pixels, 0 to 255.
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int64)
    order = generator(_SPLIT_SEED).permutation(len(pixels))
    test, training = order[:_HELD_OUT], order[_HELD_OUT:]
    return Digits(pixels[training], labels[training], pixels[test], labels[test])


def write_samples(folder: str | os.PathLike[str], count: int, seed: int = 0) -> list[Path]:
    """Write `count` of the held-out digits as PNG images, 64 x 64, 8-bit grey; return their paths.

    A file's name begins with the digit it shows: `3_017.png` is held-out image 17, a three.

    Raises:
        UsageError: `count` is not 1 to 360, or `seed` makes no sense.
        OutputError: a file cannot be written.
        DependencyError: scikit-learn is not installed.
    """
    if not 1 <= count <= _HELD_OUT:
        raise UsageError(f"count must be 1 to {_HELD_OUT}, the digits held out, not {count}.")
    digits = load()
    chosen = generator(seed).permutation(_HELD_OUT)[:count]
    # Eight times as large, in blocks, to be seen by people; the recipe's `box` filter undoes it.
    return write_pngs(
        folder,
        (
            (
                f"{digits.test_labels[index]}_{index:03d}",
                digits.test_images[index].repeat(8, axis=0).repeat(8, axis=1),
            )
            for index in chosen
        ),
    )


def _inputs(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images `(n, 8, 8)` as the model reads them, `(n, 8, 8, 1)`: by the recipe in `MODELS`."""
    return Preprocessing.from_dict(MODELS["digits"].preprocessing).batch(list(images))
