"""The chest-X-ray classifier of the first lecture that layertap follows.

`DenseNet121(include_top=False)`, global average pooling, and one sigmoid per finding: 429 layers.
Before Keras 2.3 that network ended in `bn`, with no `relu` after it: 428 layers, and from the same
weights other scores.
"""

from __future__ import annotations

import os
from typing import Any

from layertap.errors import UsageError
from layertap_export.keras_model.loading.weight_files import listed_layers
from layertap_export.keras_model.loading.weights import load_weights

from ._require import require_keras
from ._seeding import seed_weights
from .registry import MODELS

LABELS = MODELS["chest_xray"].labels

# The smallest side that five halvings leave something of.
_SMALLEST_SIDE = 32


def build(
    weights: str | os.PathLike[str] | None = None,
    input_shape: tuple[int | None, int | None, int] = (320, 320, 3),
    seed: int = 0,
    last_relu: bool | None = None,
) -> Any:
    """The Keras model, inputs `(n, height, width, channels)`, outputs `(n, 14)` in `LABELS` order.

    Layers bear the names that Keras gives them in a fresh process, whatever was built before.

    Args:
        weights: a Keras weights file of this architecture, in any layout that `load_weights` reads
            (Keras 2's `pretrained_model.h5` included). None draws weights from `seed`: they carry
            the image through to the output, and mean nothing.
        input_shape: `(height, width, channels)`; None leaves a side free.
        seed: a whole number from 0 up; the same one gives the same weights in any process. Unused
            with `weights`.
        last_relu: whether `relu` follows the last `bn`. By default as in the network that
            `weights` was saved from, if the file lists its layers, and else yes.

    Raises:
        UsageError: an `input_shape` or `seed` that makes no sense.
        WeightsError: the file is missing, unreadable, or holds the weights of another model.
        DependencyError: Keras or TensorFlow is not installed.
    """
    _check_shape(input_shape)
    keras = require_keras()
    image = keras.Input(shape=tuple(input_shape), name="input_layer")
    backbone = keras.applications.DenseNet121(include_top=False, weights=None, input_tensor=image)
    # The only layers that keras.applications leaves to Keras's counter.
    paddings = [layer for layer in backbone.layers if isinstance(layer, keras.layers.ZeroPadding2D)]
    for name, layer in zip(("zero_padding2d", "zero_padding2d_1"), paddings, strict=True):
        layer.name = name
    if last_relu is None:
        last_relu = weights is None or not _ends_in_bn(weights)
    features = backbone.output if last_relu else backbone.get_layer("bn").output
    pooled = keras.layers.GlobalAveragePooling2D(name="global_average_pooling2d")(features)
    scores = keras.layers.Dense(len(LABELS), activation="sigmoid", name="dense")(pooled)
    model = keras.Model(image, scores, name="chest_xray")
    if weights is None:
        seed_weights(model, seed)
    else:
        load_weights(model, weights)
    return model


def _ends_in_bn(weights: str | os.PathLike[str]) -> bool:
    """Whether a weights file lists all layers of a DenseNet121 that has no last `relu`."""
    layers = listed_layers(weights)
    return "bn" in layers and "relu" not in layers


def _check_shape(input_shape: tuple[int | None, int | None, int]) -> None:
    if len(input_shape) == 3:
        *sides, channels = input_shape
        fits = all(side is None or side >= _SMALLEST_SIDE for side in sides)
        if fits and channels is not None and channels >= 1:
            return
    raise UsageError(
        f"input_shape must be (height, width, channels) with sides of at least {_SMALLEST_SIDE}, "
        f"or None for a free side; got {input_shape!r}."
    )
