"""Small Keras models for the tests of the exporter."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def keras() -> Any:
    """Keras on TensorFlow, or a skip where the export extra is not installed."""
    if find_spec("tf2onnx") is None:
        pytest.skip("needs the export extra")
    import layertap_export

    _ = layertap_export.export  # imports TensorFlow with the settings of the exporter
    import keras

    return keras


@pytest.fixture(scope="session")
def small(keras: Any) -> Any:
    """A Functional CNN with a residual, seeded; 7 x 9 images of 3 channels."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((7, 9, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="conv")(image)
    y = layers.BatchNormalization(name="bn")(x)
    y = layers.ReLU(name="relu")(y)
    y = layers.Add(name="add")([x, y])
    y = layers.Dropout(0.5, name="drop")(y)
    y = layers.MaxPooling2D(name="pool")(y)
    y = layers.GlobalAveragePooling2D(name="gap")(y)
    model = keras.Model(image, layers.Dense(3, "softmax", name="dense")(y), name="small")
    for name in ("conv", "bn", "dense"):  # neither biases nor statistics shall be the identity
        layer = model.get_layer(name)
        layer.set_weights([w + 0.1 * (i + 1) for i, w in enumerate(layer.get_weights())])
    return model


@pytest.fixture(scope="session")
def small_file(small: Any, made_once: MadeOnce) -> Path:
    """`small`, exported. Tests must not write to it."""
    import layertap_export

    folder = made_once("small", lambda folder: layertap_export.export(small, folder / "small.onnx"))
    return folder / "small.onnx"


@pytest.fixture(scope="session")
def layers_file(keras: Any, made_once: MadeOnce) -> Callable[[str], Path]:
    """Return the exported file with the quick layers of a kind. Tests must not write to it."""
    import layertap_export
    from generators.layer_table import side_by_side

    def file(kind: str) -> Path:
        def fill(folder: Path) -> None:
            layertap_export.export(side_by_side(keras, kind), folder / "layers.onnx", unsafe=True)

        return made_once(f"layers, {kind}", fill) / "layers.onnx"

    return file
