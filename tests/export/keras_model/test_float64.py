"""Keras in float64 as the reference, and the part of the report about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
import layertap_export

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Files that were changed on purpose: `verify`, `open` and `check` warn of that.
    pytest.mark.filterwarnings("ignore::layertap.LayertapWarning"),
]


def dense_chain(keras: Any) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Normalization(mean=0.25, variance=1.75),
            keras.layers.Dense(4, "tanh", bias_initializer="normal"),
            keras.layers.Dense(3, bias_initializer="normal"),
        ]
    )


def test_a_copy_computes_in_float64(keras: Any) -> None:
    from layertap_export.keras_model.float64 import rebuilt

    model = dense_chain(keras)
    x = np.random.default_rng(0).normal(size=(3, 5))
    w, b, v, c = (weight.numpy().astype(np.float64) for weight in model.weights[-4:])
    expected = np.tanh((x - 0.25) / np.sqrt(1.75) @ w + b) @ v + c
    found = rebuilt(model, "float64")(x).numpy()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    assert keras.config.floatx() == "float32"


def nested(keras: Any) -> Any:
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="inside")], name="in")
    entry = keras.Input((4,))
    return keras.Model(entry, keras.layers.Dense(2)(keras.ops.sin(inner(entry) * 2)))


def mixed(keras: Any) -> Any:
    entry = keras.Input((4,))
    return keras.Model(entry, keras.layers.Dense(2, dtype="mixed_float16")(entry))


def custom_layer(keras: Any) -> Any:
    class Shift(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + 1

    entry = keras.Input((4,))
    return keras.Model(entry, keras.layers.Dense(2)(Shift(name="shift")(entry)))


def two_kinds_of_add(keras: Any) -> Any:
    """An operation and a layer with the same class name, as in MobileNetV3."""
    entry = keras.Input((4,))
    return keras.Model(entry, keras.layers.Add()([keras.layers.Dense(4)(entry + 3.0), entry]))


@pytest.mark.parametrize("make", [nested, mixed, custom_layer, two_kinds_of_add])
def test_the_copy_is_the_same_model(make: Callable[[Any], Any], keras: Any) -> None:
    from layertap_export.keras_model.float64 import rebuilt

    keras.utils.set_random_seed(0)
    model = make(keras)
    copy = rebuilt(model, "float64")
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    assert {weight.dtype for weight in copy.weights} == {"float64"}
    x = np.random.default_rng(0).normal(size=(3, 4))
    half = make is mixed
    np.testing.assert_allclose(
        copy(x).numpy(), model(x).numpy(), rtol=0, atol=5e-3 if half else 1e-6
    )
    assert copy(x).dtype == "float64"


def test_a_model_that_cannot_be_rebuilt_is_an_error(keras: Any) -> None:
    from layertap_export.keras_model.float64 import rebuilt

    class Bare(keras.Model):
        def __init__(self, width: int) -> None:
            super().__init__(name="bare")
            self.dense = keras.layers.Dense(width)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    model = Bare(3)
    model(np.zeros((1, 2), np.float32))
    with pytest.raises(layertap_export.ExportError) as caught:
        rebuilt(model, "float64")
    assert str(caught.value).startswith("the model 'bare' cannot be rebuilt in float64: ")


def test_layers_that_state_no_dtype_compute_in_float64(keras: Any, tmp_path: Path) -> None:
    """The input states float32, as Whisper's does, and keeps it."""

    @keras.saving.register_keras_serializable("layertap-tests")
    class Stubborn(keras.Model):
        def __init__(self, **options: Any) -> None:
            entry = keras.Input((4,), dtype="float32", name="entry")
            super().__init__(entry, keras.layers.Dense(3, name="dense")(entry), **options)

        def get_config(self) -> dict[str, Any]:
            return {"name": self.name}

    keras.utils.set_random_seed(0)
    report = layertap_export.export(Stubborn(), tmp_path / "x.onnx", reference="float64")
    (dense,) = report.verification.layers
    assert dense.from_float64 is not None
    assert dense.keras_from_float64 is not None
    assert 0 < dense.from_float64 < 1e-6
    assert 0 < dense.keras_from_float64 < 1e-6
    assert keras.config.dtype_policy().name == "float32"


def test_the_report_compares_the_file_and_keras_with_float64(small: Any, tmp_path: Path) -> None:
    report = layertap_export.export(small, tmp_path / "small.onnx", reference="float64")
    plain = layertap_export.verify(report.path, small)
    assert [layer.name for layer in report.verification.layers] == [x.name for x in plain.layers]
    for layer in report.verification.layers:
        ours, theirs = layer.from_float64, layer.keras_from_float64
        assert ours is not None
        assert theirs is not None
        assert 0 <= ours < 1e-6
        assert layer.scaled <= 1.01 * (ours + theirs) + 1e-9
    assert plain.layers[0].from_float64 is None
    words = str(report.verification).splitlines()
    assert re.fullmatch(
        r"against Keras in float64 the file's largest scaled error is \S+ in '\w+', Keras's own "
        r"\S+ in '\w+'; the file is as close or closer in \d+ of 8 layers",
        words[1],
    )
    assert len(str(plain).splitlines()) == 1
    worst = max(x.from_float64 or 0 for x in report.verification.layers)
    assert f"largest scaled error is {worst:.1e} in" in words[1]


def test_a_wrong_file_is_far_from_float64_too(small: Any, small_file: Path, keras: Any) -> None:
    other = keras.models.clone_model(small)
    other.set_weights([weight * 1.1 for weight in small.get_weights()])
    report = layertap_export.verify(small_file, other, reference="float64")
    assert not report
    assert max(x.from_float64 or 0 for x in report.layers) > 1e-2
    assert max(x.keras_from_float64 or 0 for x in report.layers) < 1e-6


def test_an_unknown_reference_is_an_error(small: Any, small_file: Path) -> None:
    with pytest.raises(layertap.UsageError) as caught:
        layertap_export.verify(small_file, small, reference="float46")
    assert str(caught.value) == (
        "reference must be 'keras' or 'float64', got 'float46'. Did you mean 'float64'?"
    )
