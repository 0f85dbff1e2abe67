"""Load a weights file into a Keras model, matched by layer name, order and shape.

Keras's own `load_weights` matches old files by order alone, and fails if names differ from what it
expects. This function reads every layout of Keras 2 and 3, runs no code from the file, and reports
what is missing or does not fit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layertap._public import public
from layertap_export.errors import WeightsError

from .matching import ModelLayer, Shape, match, model_layers
from .suffixes import named
from .weight_files import Arrays, SavedLayer, read_weights, structural_suffix

_PROBLEMS_SHOWN = 3


@public
def load_weights(model: Any, path: str | os.PathLike[str]) -> None:
    """Set all weights of a Keras model from a file that contains exactly these weights.

    Layers are matched by name; `conv1/conv` (Keras 2) and `conv1_conv` (Keras 3) are the same name.
    Automatic names, such as `dense_7`, are matched in the order of their numbers. The remaining
    layers are matched in order if all their shapes are equal, else by shapes that occur once.

    Args:
        model: a built model of Keras 3, or of `tf_keras`.
        path: a `.weights.h5`, `.h5` or `.keras` file.

    Raises:
        WeightsError: the file does not exist, cannot be read, or does not fit; the model is not
            changed.
        DependencyError: h5py, which comes with Keras, is not installed.
    """
    saved = read_weights(path)
    layers = model_layers(model)
    found = match(layers, saved)
    problems = list(_problems(layers, saved, found))
    if problems and _load_by_structure(model, Path(path)):
        return
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        raise WeightsError(
            f"{os.fspath(path)!r} does not contain the weights of {model.name!r}: "
            + "; ".join(problems[:_PROBLEMS_SHOWN])
            + (f"; and {more} more." if more > 0 else ".")
        )
    for layer, saved_layer in found.items():
        for name, array in _by_variable(layer, saved_layer.arrays).items():
            variable = layer.variables[name]
            variable.assign(array.astype(np.float32) if array.dtype == np.float64 else array)


def _load_by_structure(model: Any, path: Path) -> bool:
    """Let Keras load a file in the layout of groups, which it matches by the model's structure.

    Returns:
        Whether that succeeded; if not, the model is not changed.
    """
    suffix = structural_suffix(path)
    before = model.get_weights()
    if suffix is None:
        return False
    try:
        with named(path, suffix) as file:
            model.load_weights(file)
    except Exception:  # noqa: BLE001 - the caller reports what does not fit, by name
        model.set_weights(before)
        return False
    return True


def _problems(
    layers: Sequence[ModelLayer],
    saved: Sequence[SavedLayer],
    found: Mapping[ModelLayer, SavedLayer],
) -> Iterator[str]:
    """Why the file does not fit the model: one clause for each problem."""
    for layer in layers:
        if layer not in found:
            shapes = {name: tuple(variable.shape) for name, variable in layer.variables.items()}
            yield f"it has no weights for {'/'.join(layer.path)!r} ({_listed(shapes)})"
    for saved_layer in saved:
        if saved_layer not in found.values():
            name = "/".join(saved_layer.path)
            shapes = {key: array.shape for key, array in saved_layer.arrays.items()}
            yield f"no layer of the model matches its {name!r} ({_listed(shapes)})"
    for layer in layers:
        if layer in found:
            yield from _mismatches(layer, _by_variable(layer, found[layer].arrays))


def _mismatches(layer: ModelLayer, arrays: Arrays) -> Iterator[str]:
    name = "/".join(layer.path)
    expected = {key: tuple(variable.shape) for key, variable in layer.variables.items()}
    if arrays.keys() != expected.keys():
        shapes = {key: array.shape for key, array in arrays.items()}
        yield f"its {name!r} has {_listed(shapes)} instead of {_listed(expected)}"
        return
    for key, array in arrays.items():
        if array.shape != expected[key]:
            yield f"its {name!r} has a {key} of shape {array.shape} instead of {expected[key]}"
        elif array.dtype.kind != "f" and _is_float(layer.variables[key]):
            yield f"its {name!r} has a {key} of dtype {array.dtype} instead of float32"


def _is_float(variable: Any) -> bool:
    return "float" in str(variable.dtype)


def _by_variable(layer: ModelLayer, arrays: Arrays) -> Arrays:
    """The arrays by the variable names of the model, if the file has numbers or other names."""
    names = list(layer.variables)
    if arrays.keys() == set(names):
        return arrays
    if all(key.isdecimal() for key in arrays):
        ordered = sorted(arrays, key=int)
        return {names[int(key)] if int(key) < len(names) else key: arrays[key] for key in ordered}
    # Names can differ: `depthwise_kernel` of Keras 2 is `kernel` in Keras 3.
    shapes = [tuple(variable.shape) for variable in layer.variables.values()]
    if [array.shape for array in arrays.values()] == shapes:
        return dict(zip(names, arrays.values(), strict=True))
    return arrays


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
