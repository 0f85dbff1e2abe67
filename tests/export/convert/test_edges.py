"""Operations at the edge of their domain, or with sizes that are only known when they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import layertap
import layertap_export
from layertap_export import ExportError, UnsupportedLayerError

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(0)


def model_of(body: Callable[[Any], Any], shape: Any, dtype: str = "float32") -> Any:
    class Body(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return body(x)

    x = keras.Input(shape, dtype=dtype)
    return keras.Model(x, Body(name="body")(x))


def pooled(kind: str, size: Any, strides: Any) -> Callable[[Any], Any]:
    return lambda x: getattr(keras.layers, kind)(size, strides=strides, padding="same")(x)


def loss(kind: str) -> Callable[[Any], Any]:
    def body(x: Any) -> Any:
        zeros = ops.zeros_like(x)
        if kind == "sparse":
            labels = ops.cast(zeros[:, 0], "int32")
            return ops.sparse_categorical_crossentropy(labels, x, from_logits=True)
        if kind == "categorical":
            labels = ops.one_hot(ops.cast(zeros[:, 0], "int32"), x.shape[-1])
            return ops.categorical_crossentropy(labels, x, from_logits=True)
        return ops.binary_crossentropy(zeros, x, from_logits=True)

    return body


def patches(padding: str) -> Callable[[Any], Any]:
    sizes = [1, 3, 2, 1], [1, 2, 3, 1], [1, 1, 2, 1]
    return lambda x: tf.image.extract_patches(x, *sizes, padding)


NUMBERS = [
    *((loss(kind), (5,), [(3, 5)], 100.0) for kind in ("sparse", "categorical", "binary")),
    (ops.image.rgb_to_hsv, (4, 4, 3), [(2, 4, 4, 3)], 1.0),
    (lambda x: ops.trace(x, axis1=1, axis2=2), (None, None), [(2, 3, 3), (2, 3, 5)], 1.0),
    (lambda x: tf.linalg.set_diag(x, x[:, :3, 0]), (3, 4), [(2, 3, 4)], 1.0),
    (lambda x: tf.linalg.set_diag(x, x[:, 0]), (4, 3), [(2, 4, 3)], 1.0),
    (lambda x: tf.linalg.diag(x, padding_value=7.0), (3,), [(2, 3)], 1.0),
    *((patches(kind), (8, 7, 2), [(2, 8, 7, 2)], 1.0) for kind in ("SAME", "VALID")),
    (patches("SAME"), (None, None, 2), [(2, 8, 7, 2), (1, 5, 9, 2)], 1.0),
]


@pytest.mark.parametrize(("body", "shape", "given", "scale"), NUMBERS)
def test_it_gives_what_keras_gives(
    body: Any, shape: Any, given: Any, scale: float, tmp_path: Path
) -> None:
    """With numbers of both signs, all negative, and zeros."""
    model = model_of(body, shape)
    opened = layertap.open(layertap_export.export(model, tmp_path / "m.onnx").path)
    for size in given:
        x = (RNG.normal(size=size) * scale).astype(np.float32)
        for batch in (x, -np.abs(x), np.zeros_like(x)):
            expected = model.predict(batch, verbose=0)
            assert np.isfinite(expected).all()
            np.testing.assert_allclose(opened.predict(batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["MaxPooling", "AveragePooling"])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(("size", "strides"), [(2, 3), (1, 4), (3, 5), (2, 2), (3, 2)])
def test_pooling_of_any_size(kind: str, axes: int, size: int, strides: int, tmp_path: Path) -> None:
    x = keras.Input((*(None,) * axes, 2))
    model = keras.Model(x, pooled(f"{kind}{axes}D", size, strides)(x))
    opened = layertap.open(layertap_export.export(model, tmp_path / "m.onnx").path)
    for sizes in ((4, 7, 5), (8, 5, 6), (9, 10, 11)):
        batch = RNG.normal(size=(2, *sizes[:axes], 2)).astype(np.float32)
        expected = model.predict(batch, verbose=0)
        np.testing.assert_allclose(opened.predict(batch), expected, rtol=1e-5, atol=1e-6)


CONVOLUTIONS: dict[str, tuple[int, Callable[[int, int], Any]]] = {
    "Conv1D": (1, lambda k, s: keras.layers.Conv1D(3, k, s, "same")),
    "Conv2D": (2, lambda k, s: keras.layers.Conv2D(3, (k, 3), (s, 1), "same")),
    "groups": (2, lambda k, s: keras.layers.Conv2D(4, k, s, "same", groups=2)),
    "Conv3D": (3, lambda k, s: keras.layers.Conv3D(3, k, s, "same")),
    "DepthwiseConv1D": (1, lambda k, s: keras.layers.DepthwiseConv1D(k, s, "same")),
    "DepthwiseConv2D": (2, lambda k, s: keras.layers.DepthwiseConv2D(k, s, "same", 2)),
    "SeparableConv1D": (1, lambda k, s: keras.layers.SeparableConv1D(3, k, s, "same")),
    "SeparableConv2D": (2, lambda k, s: keras.layers.SeparableConv2D(3, k, s, "same")),
    "Conv1DTranspose": (1, lambda k, s: keras.layers.Conv1DTranspose(3, k, s, "same")),
    "Conv2DTranspose": (2, lambda k, s: keras.layers.Conv2DTranspose(3, k, s, "same")),
    "dilated": (2, lambda k, s: keras.layers.Conv2D(3, k + 1, padding="same", dilation_rate=s)),
}
"""A convolution of a kernel and strides, and how many free sizes its input has."""


QUICK = ("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv2D")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow) for x in CONVOLUTIONS],
)
def test_convolution_of_any_size(kind: str, tmp_path: Path) -> None:
    axes, layer = CONVOLUTIONS[kind]
    x = keras.Input((*(None,) * axes, 2))
    windows = [(2, 3), (1, 4), (2, 5)]
    model = keras.Model(x, [layer(size, strides)(x) for size, strides in windows])
    opened = layertap.open(layertap_export.export(model, tmp_path / "m.onnx").path)
    for size in range(1, 12):
        sizes = [size + axis for axis in range(axes)]
        batch = RNG.normal(size=(2, *sizes, 2)).astype(np.float32)
        for ours, theirs in zip(opened.predict(batch).values(), model(batch), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "values"), [("int32", [-3, 0, 12]), ("bool", [1, 0, 1])])
def test_numbers_as_text(dtype: str, values: list[int], tmp_path: Path) -> None:
    model = model_of(tf.strings.as_string, (3,), dtype)
    opened = layertap.open(layertap_export.export(model, tmp_path / "m.onnx").path)
    x = np.array([values], dtype)
    assert opened.predict(x).tolist() == tf.strings.as_string(x).numpy().astype(str).tolist()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (tf.strings.as_string, "ONNX writes other digits of floating-point numbers"),
        (lambda x: tf.scan(lambda a, b: a + b, tf.transpose(x)), "form of loop or condition"),
    ],
)
def test_what_cannot_be_converted_is_named(body: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedLayerError, match=words) as caught:
        layertap_export.export(model_of(body, (3,)), tmp_path / "m.onnx")
    assert "layer 'body'" in str(caught.value)


def test_a_scan_over_a_free_axis_ends(tmp_path: Path) -> None:
    class Scan(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return ops.associative_scan(lambda a, b: a + b, x, axis=1)

        def compute_output_spec(self, x: Any) -> Any:
            return keras.KerasTensor(x.shape, x.dtype)

    x = keras.Input((None,))
    with pytest.raises(
        ExportError, match=r"does not end over an axis of free size\. Fix the sizes"
    ):
        layertap_export.export(keras.Model(x, Scan()(x)), tmp_path / "m.onnx")


def test_a_loop_that_does_not_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layertap_export.keras_model.traceable.MOST_OPERATIONS", 500)

    class Endless(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            while True:
                x = x + 1.0

        def compute_output_spec(self, x: Any) -> Any:
            return keras.KerasTensor(x.shape, x.dtype)

    x = keras.Input((3,))
    with pytest.raises(ExportError, match="makes more than 500 TensorFlow operations: a loop"):
        layertap_export.export(keras.Model(x, Endless()(x)), tmp_path / "m.onnx")
