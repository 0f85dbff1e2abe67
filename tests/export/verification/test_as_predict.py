"""The reference is the model as `model.predict` runs it, not as it runs eagerly."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
import layertap_export
from layertap._engine.session import plain_session

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 20, 24, 3), np.uint8)


def resized(keras: Any) -> Any:
    """Eagerly, Keras rounds to uint8 after the resizing; in a TensorFlow function it does not."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    entry = keras.Input((20, 24, 3), dtype="uint8", name="image")
    x = layers.Resizing(9, 7, name="resized")(entry)
    x = layers.Rescaling(1 / 255, name="rescaled")(x)
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    return keras.Model(entry, layers.Dense(2, name="dense")(layers.Flatten()(x)))


def test_pixels_through_a_resizing(keras: Any, tmp_path: Path) -> None:
    model = resized(keras)
    report = layertap_export.export(model, tmp_path / "m.onnx", gradients=["conv", "rescaled"])
    assert report.verification.worst.scaled < 1e-5
    (found,) = plain_session(report.path).run(["dense"], {"image": pixels(3)})
    np.testing.assert_allclose(found, model.predict(pixels(3), verbose=0), rtol=1e-5, atol=1e-6)
    x = layertap.open(report.path).activations(pixels(2), "resized")
    inner = keras.Model(model.input, model.get_layer("resized").output)
    np.testing.assert_allclose(x, inner.predict(pixels(2), verbose=0), rtol=1e-5)
    assert np.abs(x - np.round(x)).max() > 0.1


def test_a_layer_that_asks_whether_it_runs_eagerly(keras: Any, tmp_path: Path) -> None:
    """Its gradients are those of the TensorFlow function too, by central differences."""
    import tensorflow as tf

    @keras.saving.register_keras_serializable("test")
    class Asks(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return -x if tf.executing_eagerly() else 2 * x

    entry = keras.Input((5,), name="x")
    x = Asks(name="asks")(keras.layers.Dense(4, name="first")(entry))
    model = keras.Model(entry, keras.layers.Dense(2, name="dense")(x))
    report = layertap_export.export(model, tmp_path / "m.onnx", gradients="first")
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    (found,) = plain_session(report.path).run(["dense"], {"x": x})
    np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    (gradient,) = plain_session(report.path).run(["grad/first"], {"x": x})
    kernel = model.get_layer("dense").kernel.numpy()
    np.testing.assert_allclose(gradient, np.tile(2 * kernel.sum(1), (3, 1)), rtol=1e-5)


def test_loops_are_not_run_step_by_step(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of an eager call takes milliseconds, and TimeDistributed has many."""
    import tensorflow as tf

    rnn = import_module("keras.src.backend.tensorflow.rnn")  # the package has a function so called
    eager: list[bool] = []

    def counted(original: Any) -> Any:
        def loop(*args: Any, **kwargs: Any) -> Any:
            eager.append(tf.executing_eagerly())
            return original(*args, **kwargs)

        return loop

    monkeypatch.setattr(rnn.tf, "while_loop", counted(tf.while_loop))
    entry = keras.Input((6, 30, 3))
    x = keras.layers.TimeDistributed(keras.layers.GRU(4))(entry)
    model = keras.Model(entry, keras.layers.LSTM(2)(x))
    eager.clear()
    report = layertap_export.export(model, tmp_path / "x.onnx")
    assert eager
    assert not any(eager)
    x = np.random.default_rng(0).normal(size=(2, 6, 30, 3)).astype(np.float32)
    found = layertap.open(report.path).predict(x)
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-5)
