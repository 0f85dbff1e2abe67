"""A weights file into a Keras model, matched by layer name, order and shape.

Keras's own `load_weights` matches old files by order alone, and refuses what is named otherwise
than it expects. This takes every layout that Keras 2 and 3 have written, runs nothing that a file
may carry, and says what is missing or does not fit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layertap_export.errors import WeightsError

from .matching import ModelLayer, Shape, match, model_layers
from .suffixes import named
from .weight_files import Arrays, SavedLayer, read_weights, structural_suffix

_PROBLEMS_SHOWN = 3


def load_weights(model: Any, path: str | os.PathLike[str]) -> None:
    """Set all weights of the Keras `model` from a file that holds them all, and no others.

    Layers are matched by name; `conv1/conv` (Keras 2) and `conv1_conv` (Keras 3) are one name. The
    numbers in names such as `dense_7`, which Keras gives out, are taken for an order. What is then
    left goes by order if all shapes agree, or to the one layer left that has those shapes.

    Args:
        model: of Keras 3, or of `tf_keras`; built.
        path: a `.weights.h5`, `.h5` or `.keras` file.

    Raises:
        WeightsError: the file is missing, unreadable or does not fit; the model is as it was.
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
            f"{os.fspath(path)!r} does not hold the weights of {model.name!r}: "
            + "; ".join(problems[:_PROBLEMS_SHOWN])
            + (f"; and {more} more." if more > 0 else ".")
        )
    for layer, other in found.items():
        for name, array in _named(layer, other.arrays).items():
            variable = layer.variables[name]
            variable.assign(array.astype(np.float32) if array.dtype == np.float64 else array)


def _load_by_structure(model: Any, path: Path) -> bool:
    """Let Keras itself load a file in the layout that goes by the model's structure, which it
    knows where names do not tell; whether that did it."""
    suffix = structural_suffix(path)
    before = model.get_weights()
    if suffix is None:
        return False
    try:
        with named(path, suffix) as file:
            model.load_weights(file)
    except Exception:  # noqa: BLE001 - what does not fit is told by names
        model.set_weights(before)
        return False
    return True


def _problems(
    layers: Sequence[ModelLayer],
    saved: Sequence[SavedLayer],
    found: Mapping[ModelLayer, SavedLayer],
) -> Iterator[str]:
    """What keeps the file from filling the model, a sentence each."""
    for layer in layers:
        if layer not in found:
            shapes = {name: tuple(variable.shape) for name, variable in layer.variables.items()}
            yield f"it has nothing for {'/'.join(layer.path)!r} ({_listed(shapes)})"
    for other in saved:
        if other not in found.values():
            shapes = {key: array.shape for key, array in other.arrays.items()}
            yield f"nothing in the model takes its {'/'.join(other.path)!r} ({_listed(shapes)})"
    for layer in layers:
        if layer in found:
            yield from _misfits(layer, _named(layer, found[layer].arrays))


def _misfits(layer: ModelLayer, arrays: Arrays) -> Iterator[str]:
    name = "/".join(layer.path)
    expected = {key: tuple(variable.shape) for key, variable in layer.variables.items()}
    if arrays.keys() != expected.keys():
        shapes = {key: array.shape for key, array in arrays.items()}
        yield f"its {name!r} has {_listed(shapes)} instead of {_listed(expected)}"
        return
    for key, array in arrays.items():
        if array.shape != expected[key]:
            yield f"its {name!r} has a {key} of {array.shape} instead of {expected[key]}"
        elif array.dtype.kind != "f" and _is_float(layer.variables[key]):
            yield f"its {name!r} has a {key} of type {array.dtype} instead of float32"


def _is_float(variable: Any) -> bool:
    return "float" in str(variable.dtype)


def _named(layer: ModelLayer, arrays: Arrays) -> Arrays:
    """The arrays by variable name, where the file only numbers them or has other names."""
    names = list(layer.variables)
    if arrays.keys() == set(names):
        return arrays
    if all(key.isdecimal() for key in arrays):
        ordered = sorted(arrays, key=int)
        return {names[int(key)] if int(key) < len(names) else key: arrays[key] for key in ordered}
    # Keras 3 calls `kernel` what Keras 2 called `depthwise_kernel`.
    shapes = [tuple(variable.shape) for variable in layer.variables.values()]
    if [array.shape for array in arrays.values()] == shapes:
        return dict(zip(names, arrays.values(), strict=True))
    return arrays


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
