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

from layertap.errors import DependencyError, install_hint
from layertap.format.text import shape_text
from layertap_export.errors import ExportError, ModelLoadError

from . import configs
from .custom_objects import unknown_name_in
from .renumbered import in_new_layout, is_old
from .suffixes import named

SUFFIXES = (".keras", ".h5", ".hdf5")


class _RefusedError(ExportError):
    """Keras cannot load a file; the message is the reason in one line."""


def find_loader(path: Path, unsafe: bool) -> Callable[[Mapping[str, Any]], Any]:
    """A function that loads the model in a file or unpacked archive.

    Raises:
        ModelLoadError: it is not a Keras model file.
        UnsafeModelError: it contains Python code and `unsafe` is false.
    """
    stored = configs.read(path)
    if not unsafe:
        configs.ensure_no_code(stored.config, path)
    if stored.backend == "theano":
        raise ModelLoadError(
            f"{str(path)!r} was written with Theano, which stores convolution kernels flipped. "
            "Load it in Keras 2 on TensorFlow and save it again."
        )
    return lambda custom_objects: _load(path, stored, custom_objects, unsafe)


def _load(
    path: Path, stored: configs.Stored, custom_objects: Mapping[str, Any], unsafe: bool
) -> Any:
    """Load a file with Keras 3 or, if that fails for a file of Keras 2, with `tf_keras`."""
    import keras

    if stored.suffix == ".keras" and is_old(path):
        with in_new_layout(path) as copy:
            return _load(copy, stored, custom_objects, unsafe)
    try:
        return _in_keras(path, stored, custom_objects, unsafe)
    except _RefusedError as exc:
        if not stored.by_keras_2:
            raise _not_loaded(path, f"Keras {keras.__version__}", str(exc)) from exc
        if _custom_name(str(exc)) and not find_spec("tf_keras"):
            raise _not_loaded(path, f"Keras {keras.__version__}", str(exc)) from exc
        reason = exc
    tf_keras = import_tf_keras(
        f"{str(path)!r} was written by Keras {stored.version or 1}, and Keras {keras.__version__} "
        f"cannot load it: {reason}"
    )
    try:
        return _in_tf_keras(tf_keras, path, stored, custom_objects, unsafe)
    except _RefusedError as exc:
        raise _not_loaded(path, f"tf_keras {tf_keras.__version__}", str(exc)) from exc


def import_tf_keras(explanation: str) -> Any:
    """Import `tf_keras`, which is Keras 2.

    Args:
        explanation: why it is needed, for the error: a sentence without its full stop.

    Raises:
        DependencyError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module("tf_keras")
    except ImportError as exc:
        raise DependencyError(
            f"{explanation}. This needs Keras 2, the package tf_keras: install it with "
            f"{install_hint('tf-keras')}, or, if you use tensorflow-cpu, with "
            "`pip install --no-deps tf_keras`."
        ) from exc


def _custom_name(reason: str) -> str | None:
    """The custom class or function that Keras reports as unknown; `None` if it is Keras's own."""
    import keras

    name = (unknown_name_in(reason) or "").rpartition(">")[2]
    known = hasattr(keras.layers, name) or hasattr(keras, name) or name in _ONLY_IN_KERAS_2
    return None if known or not name else name


_ONLY_IN_KERAS_2 = frozenset(
    "AddLoss AddMetric ClassMethod CuDNNGRU CuDNNLSTM DenseFeatures Functional InstanceMethod "
    "InstanceProperty LocallyConnected1D LocallyConnected2D Merge SlicingOpLambda "
    "SyncBatchNormalization TFOpLambda TensorFlowOpLayer ThresholdedReLU".split()
)
"""Classes that Keras 3 no longer has."""


def _not_loaded(path: Path, loader: str, reason: str) -> ModelLoadError:
    name = _custom_name(reason)
    if name is not None:
        return ModelLoadError(
            f"{str(path)!r} uses {name!r}, which {loader} does not know. If it is a custom class "
            f"or function, say where it is: --custom-objects package.module:{name} "
            f"(custom_objects= in Python)."
        )
    return ModelLoadError(f"{loader} cannot load {str(path)!r}: {reason}")


def _in_keras(
    path: Path, stored: configs.Stored, custom_objects: Mapping[str, Any], unsafe: bool
) -> Any:
    import keras

    if stored.by_keras_2 and '"hard_sigmoid"' in json.dumps(stored.config):
        raise _RefusedError("hard_sigmoid is a different function in Keras 3")
    with _refusals(), named(path, stored.suffix) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user can do nothing about warnings on old files
        model = keras.models.load_model(
            file, custom_objects=dict(custom_objects), compile=False, safe_mode=not unsafe
        )
    if stored.by_keras_2:
        _check_input(model, stored.config)
    return model


def _check_input(model: Any, config: Any) -> None:
    """Check the input shape: in files from before Keras 2.3, Keras 3 adds a second batch axis."""
    stated = _input_shape(config)
    found = getattr(model, "input_shape", None)
    if stated is not None and isinstance(found, tuple) and found != stated:
        raise _RefusedError(f"it reads the input shape {shape_text(stated)} as {shape_text(found)}")


def _input_shape(config: Any) -> tuple[int | None, ...] | None:
    """The input shape in a Sequential model's configuration; `None` if there is none."""
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
    """A configuration with `reset_after=False` for each GRU that does not state it.

    Keras before 2.1.3 had no such option, and always applied the reset gate before the product.
    """
    if isinstance(config, list):
        return [_completed(item) for item in config]
    if not isinstance(config, dict):
        return config
    completed = {key: _completed(value) for key, value in config.items()}
    if config.get("class_name") == "GRU" and isinstance(completed.get("config"), dict):
        completed["config"].setdefault("reset_after", False)
    return completed


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise any exception of Keras as a `_RefusedError`."""
    try:
        yield
    except Exception as exc:
        raise _RefusedError(reason_of(exc)) from exc


def reason_of(error: Exception, limit: int = 300) -> str:
    """The main part of a message of Keras, which may contain the whole configuration.

    Terminal colours and line breaks are removed; of nested messages only the innermost is kept.

    Args:
        error: raised by Keras.
        limit: the largest number of characters.
    """
    message = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    message = " ".join(message.split()) or type(error).__name__
    message = message.rpartition("Exception encountered: ")[2]
    message = re.split(r" Full object config: |,? ?config=\{", message)[0].rstrip(" .")
    return message if len(message) <= limit else f"{message[: limit - 3]}..."
