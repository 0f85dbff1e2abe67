"""A copy of a Keras model, built from its configuration, that may compute in float64.

In float64 it is a reference for float32: it shows whether the file or Keras is closer to the exact
result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import keras

from layertap_export.errors import ExportError, keras_words

from .wrapping import setting

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "mixed_float16", "mixed_bfloat16")
"""Dtypes and dtype policies that are replaced with float64."""


def rebuilt(model: Any, dtype: Literal["float64"] | None = None) -> Any:
    """A copy of a Keras model, with its weights, built from the model's configuration.

    Args:
        model: the Keras model.
        dtype: replaces every floating-point dtype in the configuration; `None` keeps them.

    Raises:
        ExportError: the model cannot be rebuilt from its configuration.
    """
    with (
        _float64_defaults() if dtype else nullcontext(),
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            config = keras.saving.serialize_keras_object(model)
            config = _in_float64(config) if dtype else config
            # safe_mode=False allows the code of Lambda layers, which is the given model's own.
            copy = keras.saving.deserialize_keras_object(config, _classes(model), safe_mode=False)
            weights = Path(folder, "model.weights.h5")
            model.save_weights(weights)
            copy.load_weights(weights)
        except Exception as exc:
            where = " in float64" if dtype else ""
            raise ExportError(
                f"the model {model.name!r} cannot be rebuilt{where}: {keras_words(exc)}"
            ) from exc
    return copy


def _classes(model: Any) -> dict[str, type]:
    """The user's layer classes by name, which may not be registered with Keras.

    Keras finds its own classes by module, which matters: `Add` is both a layer and an operation.
    """
    classes = [type(layer) for layer in [model, *model._flatten_layers()]]
    return {cls.__name__: cls for cls in classes if cls.__module__.partition(".")[0] != "keras"}


def _in_float64(value: Any) -> Any:
    """A configuration with float64 in place of every floating-point dtype and dtype policy."""
    if isinstance(value, dict):
        if str(value.get("class_name")).endswith("DTypePolicy"):
            return "float64"
        return {
            key: "float64" if key == "dtype" and item in FLOAT_DTYPES else _in_float64(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_in_float64(item) for item in value)
    return value


@contextmanager
def _float64_defaults() -> Iterator[None]:
    """Make float64 Keras's default in this block, for layers that state no dtype."""
    config = keras.config
    with (
        setting(config.floatx, config.set_floatx, lambda before: "float64"),
        setting(config.dtype_policy, config.set_dtype_policy, lambda before: "float64"),
    ):
        yield
