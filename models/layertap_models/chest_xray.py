"""A chest X-ray classifier: DenseNet121 with 14 outputs.

`DenseNet121(include_top=False)`, global average pooling, and one sigmoid per finding: 429 layers.
Before Keras 2.3, this network ended in `bn`, without a `relu` after it: 428 layers, and other
scores for the same weights.
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

# The network halves the sides of the image five times.
_MIN_SIDE = 32


def build(
    weights: str | os.PathLike[str] | None = None,
    input_shape: tuple[int | None, int | None, int] = (320, 320, 3),
    seed: int = 0,
    last_relu: bool | None = None,
) -> Any:
    """Build the Keras model: inputs `(n, height, width, channels)`, outputs `(n, 14)`.

    The outputs are in the order of `LABELS`. The names of the layers are those that Keras assigns
    in a new process; they do not depend on models that were built before.

    Args:
        weights: a Keras weights file of this architecture, in any layout that `load_weights` reads,
            including Keras 2's `pretrained_model.h5`. None draws random weights from `seed`, whose
            outputs depend on the image but have no meaning.
        input_shape: `(height, width, channels)`; None makes a side free.
        seed: an integer of at least 0. Equal seeds give equal weights. Not used with `weights`.
        last_relu: whether `relu` follows the last `bn`. By default, this is read from the list of
            layers in the `weights` file; without such a list, it is True.

    Raises:
        UsageError: `input_shape` or `seed` is invalid.
        WeightsError: the file is missing, unreadable, or contains the weights of another model.
        DependencyError: Keras or TensorFlow is not installed.
    """
    _check_shape(input_shape)
    keras = require_keras()
    image = keras.Input(shape=tuple(input_shape), name="input_layer")
    backbone = keras.applications.DenseNet121(include_top=False, weights=None, input_tensor=image)
    # The only layers that keras.applications does not name: their names contain a global counter.
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
    """Whether a weights file lists the layers of a DenseNet121 without a last `relu`."""
    layers = listed_layers(weights)
    return "bn" in layers and "relu" not in layers


def _check_shape(input_shape: tuple[int | None, int | None, int]) -> None:
    if len(input_shape) == 3:
        *sides, channels = input_shape
        fits = all(side is None or side >= _MIN_SIDE for side in sides)
        if fits and channels is not None and channels >= 1:
            return
    raise UsageError(
        f"input_shape must be (height, width, channels) with sides of at least {_MIN_SIDE}, "
        f"or None for a free side; got {input_shape!r}."
    )
