"""The same Keras model in float64: what float32 rounds away is there, so it tells who is closer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from layertap_export.errors import ExportError, keras_words

from .wrapping import setting

FLOATS = ("float16", "bfloat16", "float32", "mixed_float16", "mixed_bfloat16")
"""Dtypes and dtype policies that become float64."""


def in_float64(model: Any) -> Any:
    """A copy of a Keras model, with its weights, that computes in float64.

    It is made from the model's configuration, in which every floating-point dtype is replaced.

    Raises:
        ExportError: the model has no configuration that it can be made again from.
    """
    with _everything_64(), tempfile.TemporaryDirectory() as folder:
        try:
            config = _widened(keras.saving.serialize_keras_object(model))
            # Not safe: the code that it may hold, of Lambda layers, is that of the model at hand.
            copy = keras.saving.deserialize_keras_object(config, _classes(model), safe_mode=False)
            weights = Path(folder, "model.weights.h5")
            model.save_weights(weights)
            copy.load_weights(weights)
        except Exception as exc:
            raise ExportError(
                f"the model {model.name!r} cannot be built a second time, in float64: "
                f"{keras_words(exc)}"
            ) from exc
    return copy


def _classes(model: Any) -> dict[str, type]:
    """The classes of the user's layers, which are not registered with Keras.

    Keras's own go by their modules: `Add` is a layer, and an operation.
    """
    kinds = [type(layer) for layer in [model, *model._flatten_layers()]]
    return {kind.__name__: kind for kind in kinds if kind.__module__.partition(".")[0] != "keras"}


def _widened(value: Any) -> Any:
    """A configuration with float64 for every floating-point dtype and dtype policy."""
    if isinstance(value, dict):
        if str(value.get("class_name")).endswith("DTypePolicy"):
            return "float64"
        return {
            key: "float64" if key == "dtype" and item in FLOATS else _widened(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_widened(item) for item in value)
    return value


@contextmanager
def _everything_64() -> Iterator[None]:
    """Keras's defaults for what states no dtype."""
    config = keras.config
    with (
        setting(config.floatx, config.set_floatx, lambda before: "float64"),
        setting(config.dtype_policy, config.set_dtype_policy, lambda before: "float64"),
    ):
        yield
