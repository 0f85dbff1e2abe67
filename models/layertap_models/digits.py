"""A small CNN that classifies handwritten digits, for demonstrations with meaningful predictions.

It trains in seconds on the 8 x 8 images that are part of scikit-learn; nothing is downloaded. Its
20 layers include those that are difficult to export: depthwise and separable convolutions, batch
normalization, a residual connection, a concatenation and dropout.
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
# The split does not depend on the seed of the model, so all models have the same held-out images.
_SPLIT_SEED = 0


class Digits(NamedTuple):
    """The data set, split into training and held-out images."""

    train_images: NDArray[np.uint8]
    """`(1437, 8, 8)`, white ink on black."""
    train_labels: NDArray[np.int64]
    """`(1437,)`, 0 to 9."""
    test_images: NDArray[np.uint8]
    """`(360, 8, 8)`, not used for training."""
    test_labels: NDArray[np.int64]
    """`(360,)`."""


def build(seed: int = 0) -> Any:
    """Build the untrained Keras model: inputs `(n, 8, 8, 1)`, outputs `(n, 10)` as in `LABELS`.

    Args:
        seed: an integer of at least 0, from which the weights are drawn.

    Raises:
        UsageError: `seed` is invalid.
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
    """Build and train the model; its accuracy on the held-out digits is above 95 %.

    Args:
        seed: an integer of at least 0, which determines the initial weights and the order of the
            images.
        epochs: the number of passes over the training images, at least 1.

    Raises:
        UsageError: `seed` or `epochs` is invalid.
        DependencyError: scikit-learn, Keras or TensorFlow is not installed.
    """
    if epochs < 1:
        raise UsageError(f"epochs must be at least 1, got {epochs}.")
    model = build(seed)
    keras = require_keras()
    digits = load()
    inputs = _inputs(digits.train_images)
    # One call of `fit` for all epochs, in an order drawn here: Keras's shuffling uses global state.
    rng = generator(seed)
    order = np.concatenate([rng.permutation(len(inputs)) for _ in range(epochs)])
    rate = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=len(order) // _BATCH)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(
        inputs[order], digits.train_labels[order], batch_size=_BATCH, shuffle=False, verbose=0
    )
    return model


def accuracy(model: Any) -> float:
    """The accuracy of a model on the held-out digits, 0 to 1.

    Raises:
        DependencyError: scikit-learn is not installed.
    """
    digits = load()
    scores = model.predict(_inputs(digits.test_images), verbose=0)
    return float(np.mean(scores.argmax(axis=1) == digits.test_labels))


def load() -> Digits:
    """Load the data set, always with the same split.

    Raises:
        DependencyError: scikit-learn is not installed.
    """
    datasets = require(
        "sklearn.datasets", to="load the digits", install="`pip install scikit-learn`"
    )
    images, labels = datasets.load_digits(return_X_y=True)
    # The values of the data set are 0 to 16; pixels are 0 to 255.
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int64)
    order = generator(_SPLIT_SEED).permutation(len(pixels))
    test, training = order[:_HELD_OUT], order[_HELD_OUT:]
    return Digits(pixels[training], labels[training], pixels[test], labels[test])


def write_samples(folder: str | os.PathLike[str], count: int, seed: int = 0) -> list[Path]:
    """Write `count` of the held-out digits as PNG images, 64 x 64, 8-bit grey; return their paths.

    A file name starts with the digit in the image: `3_017.png` is held-out image 17, a three.

    Raises:
        UsageError: `count` is not between 1 and 360, or `seed` is invalid.
        OutputError: a file cannot be written.
        DependencyError: scikit-learn is not installed.
    """
    if not 1 <= count <= _HELD_OUT:
        raise UsageError(
            f"count must be between 1 and {_HELD_OUT}, the number of held-out digits, got {count}."
        )
    digits = load()
    indices = generator(seed).permutation(_HELD_OUT)[:count]
    # Enlarged by 8 for people to see, in blocks that the recipe's `box` filter averages again.
    return write_pngs(
        folder,
        (
            (
                f"{digits.test_labels[index]}_{index:03d}",
                digits.test_images[index].repeat(8, axis=0).repeat(8, axis=1),
            )
            for index in indices
        ),
    )


def _inputs(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Preprocess images `(n, 8, 8)` with the recipe in `MODELS`, to shape `(n, 8, 8, 1)`."""
    return Preprocessing.from_dict(MODELS["digits"].preprocessing).batch(list(images))
