"""Loading the model that is to be exported: from a file, or from a function that builds it."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layertap.errors import LayertapError, suggest

from .errors import ModelLoadError, UnsafeModelError

SUFFIXES = (".keras", ".h5", ".hdf5")


def load_model(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    unsafe: bool = False,
) -> Any:
    """Load a Keras model.

    Args:
        source: a `.keras` file, a whole-model `.h5` or `.hdf5` file, or `package.module:function`
            (the function returns the model; the current folder is searched for the module too).
        weights: a file that is handed to the function as its argument `weights`.
        unsafe: load models with Lambda layers too, which runs the Python code in the file.

    Raises:
        ModelLoadError: there is no such file, module or function, or Keras cannot read it.
        UnsafeModelError: the file has a Lambda layer and `unsafe` is false.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.suffix in SUFFIXES or path.exists():
        if weights is not None:
            raise ModelLoadError(
                f"{text!r} has weights of its own; `weights` go to package.module:function."
            )
        return _from_file(path, unsafe)
    module, colon, function = text.partition(":")
    if colon and module and function:
        return _from_function(module, function, weights)
    raise ModelLoadError(
        f"{text!r} is neither a file nor a function. Give a .keras file, a whole-model .h5 file, "
        "or package.module:function."
    )


def _from_file(path: Path, unsafe: bool) -> Any:
    if not path.exists():
        beside = [item.name for item in path.parent.glob("*") if item.suffix in SUFFIXES]
        raise ModelLoadError(f"there is no file {str(path)!r}.{suggest(path.name, beside)}")
    if path.suffix not in SUFFIXES:
        raise ModelLoadError(
            f"{str(path)!r} is not a Keras model file: expected a name that ends in .keras or .h5."
        )
    config = _config_of(path)
    code = [layer for layer in _layers_in(config) if layer.get("class_name") == "Lambda"]
    if code and not unsafe:
        name = code[0].get("config", {}).get("name", "lambda")
        raise UnsafeModelError(
            f"{str(path)!r} has a Lambda layer ({name!r}), whose Python code would run while it is "
            "loaded. If you trust the file, export it with --unsafe (unsafe=True in Python)."
        )
    import keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=not unsafe)
    except Exception as exc:
        raise ModelLoadError(f"Keras {keras.__version__} cannot load {str(path)!r}: {exc}") from exc


def _config_of(path: Path) -> Any:
    """The model's configuration, read without running anything."""
    try:
        return _config_in_zip(path) if zipfile.is_zipfile(path) else _config_in_h5(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
        raise ModelLoadError(
            f"{str(path)!r} is not a Keras model file, or it is damaged: {exc}"
        ) from exc


def _config_in_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def _config_in_h5(path: Path) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
    if config is None:
        raise ModelLoadError(
            f"{str(path)!r} holds weights only, not the model. Write a function that builds the "
            "model and loads them, and export that: package.module:function."
        )
    return json.loads(config)


def _layers_in(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for item in config.values():
            yield from _layers_in(item)
    elif isinstance(config, list):
        for item in config:
            yield from _layers_in(item)


def _from_function(
    module_name: str, function_name: str, weights: str | os.PathLike[str] | None
) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as exc:
        raise ModelLoadError(f"cannot import the module {module_name!r}: {exc}") from exc
    function = getattr(module, function_name, None)
    if function is None:
        near = suggest(function_name, [name for name in dir(module) if not name.startswith("_")])
        raise ModelLoadError(f"the module {module_name!r} has no {function_name!r}.{near}")
    name = f"{module_name}:{function_name}"
    if inspect.isclass(function) or not inspect.isroutine(function):
        if weights is not None:
            raise ModelLoadError(f"weights go to a function that builds a model; {name} is none.")
        return checked_model(function, name)
    try:
        model = function() if weights is None else function(weights=os.fspath(weights))
    except LayertapError:
        raise
    except Exception as exc:
        raise ModelLoadError(f"{name} failed: {type(exc).__name__}: {exc}") from exc
    return checked_model(model, name)


def checked_model(model: Any, what: str) -> Any:
    """Return `model` if it is a Keras model.

    Raises:
        ModelLoadError: it is something else; the message names `what` was given.
    """
    import keras

    if not isinstance(model, keras.Model):
        raise ModelLoadError(
            f"{what} gave a {type(model).__module__}.{type(model).__name__}, not a keras.Model."
        )
    return model
