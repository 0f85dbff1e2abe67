"""Loading the model that is to be exported: from a file or folder, or from a function.

What can be known of a source without TensorFlow is looked at first, by `find`: whether it is there,
what it is, whether it is whole, and whether code in it would run. Only then something is imported.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from layertap.errors import suggest
from layertap_export.errors import ModelLoadError
from layertap_export.keras_model.tensorflow import prepared

from . import files, functions, saved_models
from .custom_objects import Given, custom_objects_of

Load = Callable[[Mapping[str, Any]], Any]
"""Loads what was found; takes the custom objects by name."""


def load_model(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | Iterable[Given] = (),
    signature: str | None = None,
    unsafe: bool = False,
) -> Any:
    """Load a Keras model, or a signature of a SavedModel.

    Args:
        source: a `.keras` file, a whole-model `.h5` or `.hdf5` file of Keras 3 or Keras 2, a
            SavedModel folder, or `package.module:function` (the function returns the model; the
            current folder is searched for the module too).
        weights: for a function, a weights file that is handed to it as its argument `weights`, or,
            if it has none, is loaded into the model that it returns.
        custom_objects: classes and functions of the model's own by their names, or a list of them
            and of `"package.module:name"`.
        signature: of a SavedModel, export what this signature computes, and no layers. Without, a
            SavedModel that has no Keras layers gives `serving_default`.
        unsafe: load models with Lambda layers too, which runs the Python code in the file.

    Returns:
        A `keras.Model`; a `tf_keras.Model` where only Keras 2 can read the file; or a
        `layertap_export.keras_model.signatures.Signature`.

    Raises:
        ModelLoadError: there is no such file, module or function, or Keras cannot read it.
        UnsafeModelError: the file has a Lambda layer and `unsafe` is false.
        WeightsError: the weights do not fit the model.
        DependencyError: it takes `tf_keras` to read the file, which is not installed.
    """
    load = find(source, weights=weights, signature=signature, unsafe=unsafe)
    with prepared():
        importlib.import_module("keras")
    return load(custom_objects_of(custom_objects))


def find(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    signature: str | None = None,
    unsafe: bool = False,
) -> Load:
    """Look at a source without importing TensorFlow; returns what loads it.

    Raises:
        ModelLoadError, UnsafeModelError: see `load_model`.
    """
    text = os.fspath(source)
    path = Path(text)
    module, colon, name = text.partition(":")
    is_file = path.exists() or path.suffix in files.SUFFIXES
    is_function = bool(colon and module and name) and not is_file
    if is_file and weights is not None:
        raise ModelLoadError(
            f"{text!r} has weights of its own; `weights` go to package.module:function."
        )
    if saved_models.is_saved_model(path):
        return saved_models.find(path, signature, unsafe)
    if signature is not None:
        raise ModelLoadError(f"{text!r} has no signatures; only SavedModel folders have.")
    if is_function:
        return functions.find(module, name, weights)
    if path.exists():
        return files.find(path, unsafe)
    if is_file or path.parent != Path("."):
        beside = [item.name for item in path.parent.glob("*") if item.suffix in files.SUFFIXES]
        raise ModelLoadError(f"there is no file {text!r}.{suggest(path.name, beside)}")
    raise ModelLoadError(
        f"{text!r} is neither a file nor a function. Give a .keras file, a whole-model .h5 file, a "
        "SavedModel folder, or package.module:function."
    )
