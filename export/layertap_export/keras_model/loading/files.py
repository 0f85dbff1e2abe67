"""A model from a `.keras` archive, an unpacked one, or a whole-model `.h5` file."""

from __future__ import annotations

import importlib
import json
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from layertap.errors import DependencyError, install_hint
from layertap.format.text import shape_text
from layertap_export.errors import ExportError, ModelLoadError
from layertap_export.keras_model.wrapping import wrapped

from . import configs
from .custom_objects import unknown_name_in
from .renumbered import in_new_layout, is_old
from .suffixes import named

SUFFIXES = (".keras", ".h5", ".hdf5")


class _RefusedError(ExportError):
    """Keras cannot load a file; the message is the reason in one line."""

    def __init__(self, reason: str, missing: str = "") -> None:
        super().__init__(reason)
        self.missing = missing
        """A global name that the code of a Lambda layer uses, and that is not defined."""


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
    """Load a file, or, of the layout of TensorFlow 2.12 to 2.14, a copy in that of today."""
    if stored.suffix == ".keras" and is_old(path):
        with in_new_layout(path) as copy:
            return _loaded(copy, repr(str(path)), stored, custom_objects, unsafe)
    return _loaded(path, repr(str(path)), stored, custom_objects, unsafe)


def _loaded(
    path: Path,
    file: str,
    stored: configs.Stored,
    custom_objects: Mapping[str, Any],
    unsafe: bool,
) -> Any:
    """Load a file with Keras 3 or, if that fails for a file of Keras 2, with `tf_keras`.

    Args:
        file: what the file is called in messages.
    """
    import keras

    given = set(custom_objects)
    try:
        return _in_keras(path, stored, custom_objects, unsafe)
    except _RefusedError as exc:
        refused = _not_loaded(file, stored, keras, given, exc, custom_objects)
        if not stored.by_keras_2:
            raise refused from exc
        if _custom_name(str(exc)) and not find_spec("tf_keras"):
            raise refused from exc
        reason = exc
    tf_keras = import_tf_keras(
        f"{file} was written by Keras {stored.version or 1}, and Keras {keras.__version__} "
        f"cannot load it: {reason}"
    )
    try:
        return _in_tf_keras(tf_keras, path, stored, custom_objects, unsafe)
    except _RefusedError as exc:
        raise _not_loaded(file, stored, tf_keras, given, exc, custom_objects) from exc


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


def _not_loaded(
    file: str,
    stored: configs.Stored,
    library: Any,
    given: Collection[str],
    error: _RefusedError,
    custom_objects: Mapping[str, Any],
) -> ModelLoadError:
    """The error for a file that a library cannot load: what is missing, and where to give it.

    Args:
        file: what the file is called.
        library: `keras` or `tf_keras`.
        given: the names of the custom objects.
        error: what the library said.
        custom_objects: these objects.
    """
    reason = str(error)
    loader = f"{'Keras' if library.__name__ == 'keras' else 'tf_keras'} {library.__version__}"
    name = _custom_name(reason) or _unknown_layer(stored.config, library, given)
    own_h5 = stored.suffix == ".h5" and not stored.by_keras_2
    if own_h5 and (name is None or name in _operations(library)):
        return ModelLoadError(
            f"{loader} cannot load {file}, although Keras {stored.version} wrote it: {reason}. "
            "The .h5 format cannot hold all that Keras 3 writes to it. Load the model with the "
            "code that made it, and save it as a .keras file."
        )
    if name is not None:
        return ModelLoadError(
            f"{file} uses {name!r}, which {loader} does not know. If it is a custom class or "
            f"function, say where it is: --custom-objects package.module:{name} (custom_objects= "
            "in Python)."
        )
    if error.missing:
        return ModelLoadError(
            f"{file} has a Lambda layer whose code uses {error.missing!r}, which the file does not "
            f"contain. Say where it is: --custom-objects package.module:{error.missing} "
            f"(custom_objects={{{error.missing!r}: ...}} in Python)."
        )
    if re.search("marshal|EOF read where object", reason):
        return ModelLoadError(
            f"{file} has a Lambda layer whose code another version of Python compiled: this is "
            f"Python {sys.version_info.major}.{sys.version_info.minor}, and its code cannot be "
            f"read ({reason}). Export the model with the Python that saved it, or with the code "
            "that builds it, package.module:function and --weights."
        )
    where = _refused_layer(stored.config, library, custom_objects)
    return ModelLoadError(f"{loader} cannot load {file}{where}: {reason}")


def _unknown_layer(config: Any, library: Any, given: Collection[str]) -> str | None:
    """The class of a layer in a configuration that neither the library nor the caller has."""
    for layer in _layers(config):
        name = str(layer.get("class_name", "")).rpartition(">")[2]
        known = any(hasattr(owner, name) for owner in (library.layers, library, library.models))
        registered = library.utils.get_registered_object(str(layer.get("class_name", "")))
        if name and not (known or registered or name in given or name in _ONLY_IN_KERAS_2):
            return name
    return None


def _refused_layer(config: Any, library: Any, custom_objects: Mapping[str, Any]) -> str:
    """The first layer in a configuration that a library cannot make, in words; empty if there is
    none. Messages of Keras often do not say which it is. No code of the file is run."""
    for layer in _layers(config):
        inner = layer.get("config")
        if not isinstance(inner, dict) or "layers" in inner:
            continue  # a model: its layers follow
        try:
            with library.utils.custom_object_scope(dict(custom_objects)):
                made = library.layers.deserialize(deepcopy(dict(layer)))
        except Exception:  # noqa: BLE001 - what Keras raises has no common class but this
            made = None
        if not isinstance(made, (library.layers.Layer, getattr(library, "Operation", type(None)))):
            name = inner.get("name") or layer.get("name")
            return f" because of its layer {name!r}, a {layer.get('class_name')}"
    return ""


def _layers(config: Any) -> Iterator[Mapping[str, Any]]:
    """The layers in the configuration of a model, at any depth."""
    inner = config.get("config") if isinstance(config, dict) else None
    inside = inner.get("layers") if isinstance(inner, dict) else inner
    for layer in inside if isinstance(inside, list) else ():
        if isinstance(layer, dict):
            yield layer
            yield from _layers(layer)


def _operations(library: Any) -> set[str]:
    """The names of Keras 3's operations, which models contain as layers."""
    found, waiting = set(), [getattr(library, "Operation", None)]
    while waiting:
        kind = waiting.pop()
        if kind is not None and not issubclass(kind, library.layers.Layer):
            found.add(kind.__name__)
            waiting += kind.__subclasses__()
    return found


def _in_keras(
    path: Path, stored: configs.Stored, custom_objects: Mapping[str, Any], unsafe: bool
) -> Any:
    import keras

    if stored.by_keras_2 and '"hard_sigmoid"' in json.dumps(stored.config):
        raise _RefusedError("hard_sigmoid is a different function in Keras 3")
    reaching = _lambdas_reach(keras.src.utils.python_utils, custom_objects)
    with _refusals(), reaching, named(path, stored.suffix) as file, warnings.catch_warnings():
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
    from tf_keras.src.utils import generic_utils

    scope = tf_keras.utils.custom_object_scope(dict(custom_objects))
    safe, reaching = SafeModeScope(not unsafe), _lambdas_reach(generic_utils, custom_objects)
    metrics = wrapped(tf_keras.metrics.Metric, "load_own_variables", _own_variables)
    with _refusals(), scope, safe, reaching, metrics, named(path, stored.suffix) as file:
        if stored.suffix != ".h5":
            return tf_keras.models.load_model(file, compile=False, safe_mode=not unsafe)
        config = json.dumps(_completed(stored.config))
        model = tf_keras.models.model_from_json(config)
        model.load_weights(file)
        return model


def _own_variables(original: Any, metric: Any, store: Any) -> None:
    """Load the state of a metric where it is found. Older versions kept it under other names, and
    predictions do not depend on it."""
    if len(store.keys()):
        original(metric, store)


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
def _lambdas_reach(module: Any, custom_objects: Mapping[str, Any]) -> Iterator[None]:
    """Let the code of Lambda layers use custom objects as its global names.

    Args:
        module: the module of Keras that makes functions from stored code, by `func_load`.
    """

    def load(
        original: Any, code: Any, defaults: Any = None, closure: Any = None, globs: Any = None
    ) -> Any:
        known = vars(module) if globs is None else globs
        return original(code, defaults, closure, {**known, **custom_objects})

    with wrapped(module, "func_load", load):
        yield


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise any exception of Keras as a `_RefusedError`."""
    try:
        yield
    except Exception as exc:
        raise _RefusedError(reason_of(exc), _missing_name(exc)) from exc


def _missing_name(error: BaseException | None) -> str:
    """The global name that code of the file did not find; empty if the error is another."""
    while error is not None:
        if isinstance(error, NameError) and error.name:
            return error.name
        error = error.__cause__ or error.__context__
    return ""


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
