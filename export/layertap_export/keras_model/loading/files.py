"""A model from a `.keras` archive, an unpacked one, or a whole-model `.h5` file."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from layertap.errors import DependencyError
from layertap.format.text import shape_text
from layertap_export.errors import ExportError, ModelLoadError

from . import configs
from .custom_objects import unknown_in
from .suffixes import named

SUFFIXES = (".keras", ".h5", ".hdf5")


class _RefusedError(ExportError):
    """Keras does not load it; the message says why in a few words."""


def find(path: Path, unsafe: bool) -> Callable[[Mapping[str, Any]], Any]:
    """What loads the model in a file or unpacked archive.

    Raises:
        ModelLoadError: it is no file of a Keras model.
        UnsafeModelError: it holds Python code and `unsafe` is false.
    """
    stored = configs.read(path)
    if not unsafe:
        configs.check_code(stored.config, path)
    if stored.backend == "theano":
        raise ModelLoadError(
            f"{str(path)!r} was written with Theano, whose convolution kernels are turned around. "
            "Load it in Keras 2 on TensorFlow and save it again."
        )
    return lambda custom_objects: _load(path, stored, custom_objects, unsafe)


def _load(
    path: Path, stored: configs.Stored, custom_objects: Mapping[str, Any], unsafe: bool
) -> Any:
    """Load it in Keras 3, or, if that does not take a file of Keras 2, in `tf_keras`."""
    import keras

    try:
        return _in_keras(path, stored, custom_objects, unsafe)
    except _RefusedError as exc:
        if not stored.by_keras_2:
            raise _not_loaded(path, f"Keras {keras.__version__}", str(exc)) from exc
        if _own_class(str(exc)) and not find_spec("tf_keras"):
            raise _not_loaded(path, f"Keras {keras.__version__}", str(exc)) from exc
        first = exc
    tf_keras = import_tf_keras(
        f"{str(path)!r} was written by Keras {stored.version or 1}, and Keras {keras.__version__} "
        f"cannot load it: {first}"
    )
    try:
        return _in_tf_keras(tf_keras, path, stored, custom_objects, unsafe)
    except _RefusedError as exc:
        raise _not_loaded(path, f"tf_keras {tf_keras.__version__}", str(exc)) from exc


def import_tf_keras(why: str) -> Any:
    """`tf_keras`, which is Keras 2.

    Args:
        why: what it is needed for, a sentence without its full stop.

    Raises:
        DependencyError: it is not installed; the message says how to.
    """
    try:
        return importlib.import_module("tf_keras")
    except ImportError as exc:
        raise DependencyError(
            f"{why}. Keras 2 goes on in the package tf_keras: install it with "
            '`pip install "layertap[tf-keras]"`, or beside tensorflow-cpu with '
            "`pip install --no-deps tf_keras`."
        ) from exc


def _own_class(reason: str) -> str | None:
    """The name of a class or function that is unknown because it is the model's own."""
    import keras

    name = (unknown_in(reason) or "").rpartition(">")[2]
    known = hasattr(keras.layers, name) or hasattr(keras, name) or name in _OF_KERAS_2
    return None if known or not name else name


_OF_KERAS_2 = frozenset(
    "AddLoss AddMetric ClassMethod CuDNNGRU CuDNNLSTM DenseFeatures Functional InstanceMethod "
    "InstanceProperty LocallyConnected1D LocallyConnected2D Merge SlicingOpLambda "
    "SyncBatchNormalization TFOpLambda TensorFlowOpLayer ThresholdedReLU".split()
)
"""Classes that Keras 3 does not have any more."""


def _not_loaded(path: Path, loader: str, reason: str) -> ModelLoadError:
    name = _own_class(reason)
    if name is not None:
        return ModelLoadError(
            f"{str(path)!r} uses {name!r}, which {loader} does not know. If it is a class or "
            f"function of your own, say where it is: --custom-objects package.module:{name} "
            f"(custom_objects= in Python)."
        )
    return ModelLoadError(f"{loader} cannot load {str(path)!r}: {reason}")


def _in_keras(
    path: Path, stored: configs.Stored, custom_objects: Mapping[str, Any], unsafe: bool
) -> Any:
    import keras

    if stored.by_keras_2 and '"hard_sigmoid"' in json.dumps(stored.config):
        raise _RefusedError("its hard_sigmoid is another function in Keras 3")
    with _refusals(), named(path, stored.suffix) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Keras thinks of old files helps nobody here
        model = keras.models.load_model(
            file, custom_objects=dict(custom_objects), compile=False, safe_mode=not unsafe
        )
    if stored.by_keras_2:
        _check_input(model, stored.config)
    return model


def _check_input(model: Any, config: Any) -> None:
    """Keras 3 takes the batch axis in files of Keras before 2.3 for one more axis."""
    said = _input_shape(config)
    found = getattr(model, "input_shape", None)
    if said is not None and isinstance(found, tuple) and found != said:
        raise _RefusedError(
            f"it reads {shape_text(found)} for its input, which is {shape_text(said)}"
        )


def _input_shape(config: Any) -> tuple[int | None, ...] | None:
    """The shape that a Sequential model's configuration gives its input."""
    layers = config.get("config", {})
    layers = layers.get("layers", []) if isinstance(layers, dict) else layers
    shape = layers[0].get("config", {}).get("batch_input_shape") if layers else None
    return None if shape is None or config.get("class_name") != "Sequential" else tuple(shape)


def _in_tf_keras(
    tf_keras: Any,
    path: Path,
    stored: configs.Stored,
    custom_objects: Mapping[str, Any],
    unsafe: bool,
) -> Any:
    from tf_keras.src.saving.serialization_lib import SafeModeScope

    scope = tf_keras.utils.custom_object_scope(dict(custom_objects))
    with _refusals(), scope, SafeModeScope(not unsafe), named(path, stored.suffix) as file:
        if stored.suffix != ".h5":
            return tf_keras.models.load_model(file, compile=False, safe_mode=not unsafe)
        config = json.dumps(_completed(stored.config))
        model = tf_keras.models.model_from_json(config)
        model.load_weights(file)
        return model


def _completed(config: Any) -> Any:
    """A configuration with what Keras before 2.1.3 took for granted: that a GRU applies its reset
    gate before the product."""
    if isinstance(config, list):
        return [_completed(item) for item in config]
    if not isinstance(config, dict):
        return config
    made = {key: _completed(value) for key, value in config.items()}
    if config.get("class_name") == "GRU" and isinstance(made.get("config"), dict):
        made["config"].setdefault("reset_after", False)
    return made


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise whatever Keras raises as a `_RefusedError`."""
    try:
        yield
    except Exception as exc:
        raise _RefusedError(reason_of(exc)) from exc


def reason_of(error: Exception, most: int = 300) -> str:
    """The point of one of Keras's messages, which may hold the whole model.

    Colours for a terminal and line breaks go, and of errors in errors the innermost stays.
    """
    message = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    message = " ".join(message.split()) or type(error).__name__
    message = message.rpartition("Exception encountered: ")[2]
    message = re.split(r" Full object config: |,? ?config=\{", message)[0].rstrip(" .")
    return message if len(message) <= most else f"{message[: most - 3]}..."
