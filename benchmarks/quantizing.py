"""Quantised files, compared with the files in float32: size, error on other images, and time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import layertap
from layertap.comparing.measures import difference

from . import models
from .timing import PAUSE, Row, alternate, compare, timed

ROUNDS = 30
IMAGES = 64
"""How many images are given; for int8, half of them calibrate."""
BUDGET = 0.02
MOST = {"float16": (0.51, 2e-3), "int8": (0.35, BUDGET)}
"""The largest size and the largest error of the outputs, as shares of the original's."""


def measure() -> list[Row]:
    """Quantise the chest model to float16, and two trained networks to int8 within a budget."""
    import layertap_export
    from layertap_models import digits, phantom

    rows: list[Row] = []
    data = digits.load()
    with tempfile.TemporaryDirectory() as folder:
        chest = models.files().onnx
        fresh = phantom.write_samples(Path(folder, "images"), 8)
        recipe = layertap.Preprocessing.from_dict(models.RECIPE)
        rows += _rows("chest", chest, "float16", (), recipe.batch(fresh), folder)
        for name, size in (("digits", 8), ("residual", 32)):
            model = digits.train() if name == "digits" else _residual(data, size)
            file = Path(folder, f"{name}.onnx")
            layertap_export.export(model, file)
            given, others = (_inputs(x, size) for x in (data.train_images, data.test_images))
            rows += _rows(name, file, "int8", given[:IMAGES], others, folder)
    return rows


def _rows(
    name: str, file: Path, to: str, given: Any, fresh: NDArray[Any], folder: str
) -> Iterator[Row]:
    """The rows of one network; `fresh` are images that `quantize` has not seen."""
    import layertap_export

    path = Path(folder, f"{name}-{to}.onnx")
    budget = BUDGET if to == "int8" else None
    report = layertap_export.quantize(file, path, to=to, calibrate=given, budget=budget)
    small, whole = layertap.open(path), layertap.open(file)
    error = difference(small.predict(fresh), whole.predict(fresh)).scaled
    most_size, most_error = MOST[to]
    what = f"{name} in {to}"
    yield Row(
        what=f"{what}: size", peer="float32", unit="x", ours=(report.ratio,), theirs=(1.0,),
        most=most_size,
    )  # fmt: skip
    yield Row(
        what=f"{what}: error of the outputs on {len(fresh)} other images", peer="their scale",
        unit="x", ours=(error,), theirs=(1.0,), most=most_error,
    )  # fmt: skip
    one = fresh[:1]
    cases = {"ours": lambda: small.predict(one), "float32": lambda: whole.predict(one)}
    taken = alternate({key: timed(call, PAUSE) for key, call in cases.items()}, ROUNDS, 3)
    yield from compare(f"{what}: predict, one image", taken, {"float32": ("float32", None)})


def _inputs(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Digits of 8 x 8 pixels, enlarged, as `(n, size, size, 1)` from 0 to 1."""
    large = images.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    return (large[..., None] / np.float32(255)).astype(np.float32)


def _residual(data: Any, size: int) -> Any:
    """A residual network of three stages, trained on the digits in a few seconds."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((size, size, 1))
    x = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu")(image)
    for width in (32, 64, 96):
        y = layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
        y = layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization(momentum=0.9)(y)
        way = layers.Conv2D(width, 1, strides=2, padding="same")(x)
        x = layers.ReLU()(layers.Add()([way, y]))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(10, "softmax")(x))
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    model.fit(
        _inputs(data.train_images, size), data.train_labels, batch_size=64, epochs=4, verbose=0
    )
    return model
