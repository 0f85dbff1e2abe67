"""A model from `package.module:function`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from layertap.errors import LayertapError
from layertap_export.errors import ModelLoadError
from layertap_export.keras_model.families import checked_model, custom_object_scope

from .custom_objects import imported
from .weights import load_weights


def find(
    module: str, function: str, weights: str | os.PathLike[str] | None
) -> Callable[[Mapping[str, Any]], Any]:
    """What loads the model that a function returns, or that stands in the module under its name."""
    return lambda custom_objects: _load(f"{module}:{function}", weights, custom_objects)


def _load(
    place: str, weights: str | os.PathLike[str] | None, custom_objects: Mapping[str, Any]
) -> Any:
    builder = imported(place)
    if not inspect.isroutine(builder):
        if weights is not None:
            raise ModelLoadError(f"weights go to a function that builds a model; {place} is none.")
        return checked_model(builder, place)
    takes_weights = weights is not None and _takes_weights(builder)
    options = {"weights": os.fspath(weights)} if takes_weights and weights is not None else {}
    try:
        with custom_object_scope(custom_objects):
            model = builder(**options)
    except LayertapError:
        raise
    except Exception as exc:
        raise ModelLoadError(f"{place} failed: {type(exc).__name__}: {exc}") from exc
    checked_model(model, place)
    if weights is not None and not takes_weights:
        load_weights(model, weights)
    return model


def _takes_weights(builder: Callable[..., Any]) -> bool:
    try:
        return "weights" in inspect.signature(builder).parameters
    except ValueError:  # a function that is not made of Python
        return False
