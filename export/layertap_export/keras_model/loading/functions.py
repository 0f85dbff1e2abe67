"""A model from `package.module:function`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from layertap.errors import LayertapError
from layertap_export.errors import ModelLoadError
from layertap_export.keras_model.families import (
    checked_model,
    custom_object_scope,
    names_of_a_fresh_process,
)

from .custom_objects import find_module, import_object, split_reference
from .weights import load_weights


def find_loader(
    module: str, function: str, weights: str | os.PathLike[str] | None
) -> Callable[[Mapping[str, Any]], Any]:
    """A function that loads the model that `module:function` is or returns.

    Raises:
        ModelLoadError: there is no such module, as far as this is known before it is imported.
    """
    find_module(split_reference(f"{module}:{function}")[0])
    return lambda custom_objects: _load(f"{module}:{function}", weights, custom_objects)


def _load(
    reference: str, weights: str | os.PathLike[str] | None, custom_objects: Mapping[str, Any]
) -> Any:
    builder = import_object(reference)
    if not inspect.isroutine(builder):
        if weights is not None:
            raise ModelLoadError(
                f"`weights` is only for a function that builds a model, and {reference} is not a "
                "function."
            )
        return checked_model(builder, reference)
    takes_weights = weights is not None and _takes_weights(builder)
    options = {"weights": os.fspath(weights)} if takes_weights and weights is not None else {}
    try:
        with custom_object_scope(custom_objects):
            model = _built(builder, options)
    except LayertapError:
        raise
    except Exception as exc:
        raise ModelLoadError(f"{reference} failed: {type(exc).__name__}: {exc}") from exc
    checked_model(model, reference)
    if weights is not None and not takes_weights:
        load_weights(model, weights)
    return model


def _built(builder: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """The model, with the names that its layers have in a fresh process."""
    try:
        with names_of_a_fresh_process():
            return builder(**options)
    except ValueError as exc:
        if "unique" not in str(exc):
            raise
    # It puts layers that its module made on import into the model, and new ones have their names.
    return builder(**options)


def _takes_weights(builder: Callable[..., Any]) -> bool:
    try:
        return "weights" in inspect.signature(builder).parameters
    except ValueError:  # a built-in function without a signature
        return False
