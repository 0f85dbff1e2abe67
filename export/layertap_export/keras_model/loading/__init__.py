"""Load the model to export from a file, a folder, or a function.

`find_loader` first checks all that can be checked without TensorFlow: whether the source exists,
what it is, whether it is complete, and whether loading it would run code. Keras is imported after
that.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from layertap._public import public
from layertap.errors import suggest
from layertap_export.errors import ModelLoadError
from layertap_export.keras_model.families import names_of_a_fresh_process
from layertap_export.keras_model.tensorflow import prepared

from . import files, functions, saved_models
from .custom_objects import CustomObject, custom_objects_of

Loader = Callable[[Mapping[str, Any]], Any]
"""Loads a model or signature; takes the custom objects by name."""


@public
def load_model(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | Iterable[CustomObject] = (),
    signature: str | None = None,
    unsafe: bool = False,
) -> Any:
    """Load a Keras model, or a signature of a SavedModel.

    Args:
        source: a `.keras` file, a whole-model `.h5` or `.hdf5` file of Keras 3 or Keras 2, a
            SavedModel folder, or `package.module:function` for a function that returns the model
            (modules in the current folder are found too).
        weights: for a function, a weights file. It is passed to the function as `weights` if the
            function has this parameter, else it is loaded into the model that the function returns.
        custom_objects: the custom classes and functions of the model by name, or a list of them
            and of `"package.module:name"`.
        signature: for a SavedModel, load this signature, which has no layers. By default, a
            SavedModel without Keras layers is loaded as its signature `serving_default`.
        unsafe: also load models with Lambda layers, which runs the Python code in the file.

    Returns:
        A `keras.Model`; a `tf_keras.Model` if only Keras 2 can read the file; or a
        `layertap_export.keras_model.signatures.Signature`.

    Raises:
        ModelLoadError: there is no such file, module or function, or Keras cannot load it.
        UnsafeModelError: the file has a Lambda layer and `unsafe` is false.
        WeightsError: the weights do not fit the model.
        DependencyError: only `tf_keras` can read the file, and it is not installed.
    """
    load = find_loader(source, weights=weights, signature=signature, unsafe=unsafe)
    with prepared():
        importlib.import_module("keras")
    return load(custom_objects_of(custom_objects))


def find_loader(
    source: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    signature: str | None = None,
    unsafe: bool = False,
) -> Loader:
    """Check a source without importing TensorFlow, and return a function that loads it.

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
            f"{text!r} contains its weights; `weights` is only for package.module:function."
        )
    if saved_models.is_saved_model(path):
        return _named_afresh(saved_models.find_loader(path, signature, unsafe))
    if signature is not None:
        raise ModelLoadError(f"{text!r} has no signatures; only SavedModel folders have them.")
    if is_function:
        return functions.find_loader(module, name, weights)
    if path.exists():
        return _named_afresh(files.find_loader(path, unsafe))
    if is_file or path.parent != Path("."):
        others = [item.name for item in path.parent.glob("*") if item.suffix in files.SUFFIXES]
        raise ModelLoadError(f"there is no file {text!r}.{suggest(path.name, others)}")
    raise ModelLoadError(
        f"{text!r} is neither a file nor a function. Give a .keras file, a whole-model .h5 file, a "
        "SavedModel folder, or package.module:function."
    )


def _named_afresh(load: Loader) -> Loader:
    """The loader, with the names that a fresh process gives to the layers without a name."""

    def loader(custom_objects: Mapping[str, Any]) -> Any:
        with names_of_a_fresh_process():
            return load(custom_objects)

    return loader
