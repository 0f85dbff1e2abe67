"""A weights file into a Keras model, matched by layer name and shape.

Keras's own `load_weights` matches old files by order alone, and refuses what is named otherwise
than it expects. This takes every layout that Keras 2 and 3 have written, runs nothing that a file
may carry, and says what is missing or does not fit.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ._weight_files import Arrays, read_weights
from .errors import WeightsError

Shape = tuple[int, ...]

_PROBLEMS_SHOWN = 3


def load_weights(model: Any, path: str | os.PathLike[str]) -> None:
    """Set all weights of the Keras `model` from a file that holds them all, and no others.

    Layers are matched by name; `conv1/conv` (Keras 2) and `conv1_conv` (Keras 3) are one name. What
    is then left, such as a `dense_7` that owes its number to the process it was built in, goes to
    the one layer left that has weights of those shapes.

    Raises:
        WeightsError: the file is missing, unreadable or does not fit; the model is as it was.
        DependencyError: h5py, which comes with Keras, is not installed.
    """
    saved = read_weights(path)
    layers = [layer for layer in model.layers if layer.weights]
    found = _match(layers, saved)
    problems = list(_problems(layers, saved, found))
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        raise WeightsError(
            f"{os.fspath(path)!r} does not hold the weights of {model.name!r}: "
            + "; ".join(problems[:_PROBLEMS_SHOWN])
            + (f"; and {more} more." if more > 0 else ".")
        )
    for layer in layers:
        arrays = _named(layer, saved[found[layer.name]])
        layer.set_weights([arrays[variable.name].astype(np.float32) for variable in layer.weights])


def _match(layers: Sequence[Any], saved: Mapping[str, Arrays]) -> dict[str, str]:
    """Layer name in the model -> layer name in the file, for all that can be told apart."""
    by_name = {name.replace("/", "_"): name for name in saved}
    found: dict[str, str] = {}
    for layer, numbered in zip(layers, _class_and_number(layers), strict=True):
        name = by_name.get(layer.name) or by_name.get(numbered)
        if name is not None:
            found[layer.name] = name
    # Names that say nothing: shapes decide, where only one layer on either side has them.
    here = [(layer.name, _shapes(layer)) for layer in layers if layer.name not in found]
    there = {name: _shapes_saved(saved[name]) for name in saved if name not in found.values()}
    counts_here = Counter(shapes for _, shapes in here)
    counts_there = Counter(there.values())
    for layer_name, shapes in here:
        if counts_here[shapes] == counts_there[shapes] == 1:
            found[layer_name] = next(name for name, others in there.items() if others == shapes)
    return found


def _problems(
    layers: Sequence[Any], saved: Mapping[str, Arrays], found: Mapping[str, str]
) -> Iterator[str]:
    """What keeps the file from filling the model, a sentence each."""
    for layer in layers:
        if layer.name not in found:
            shapes = {variable.name: tuple(variable.shape) for variable in layer.weights}
            yield f"it has nothing for {layer.name!r} ({_listed(shapes)})"
    for name in saved.keys() - set(found.values()):
        shapes = {key: array.shape for key, array in saved[name].items()}
        yield f"nothing in the model takes its {name!r} ({_listed(shapes)})"
    for layer in layers:
        if layer.name in found:
            yield from _misfits(layer, _named(layer, saved[found[layer.name]]))


def _misfits(layer: Any, arrays: Arrays) -> Iterator[str]:
    expected = {variable.name: tuple(variable.shape) for variable in layer.weights}
    if arrays.keys() != expected.keys():
        shapes = {key: array.shape for key, array in arrays.items()}
        yield f"its {layer.name!r} has {_listed(shapes)} instead of {_listed(expected)}"
        return
    for key, array in arrays.items():
        if array.shape != expected[key]:
            yield f"its {layer.name!r} has a {key} of {array.shape} instead of {expected[key]}"
        elif array.dtype.kind != "f":
            yield f"its {layer.name!r} has a {key} of type {array.dtype} instead of float32"


def _named(layer: Any, arrays: Arrays) -> Arrays:
    """The arrays by variable name, where the file only numbers them."""
    names = [variable.name for variable in layer.weights]
    if not all(key.isdecimal() for key in arrays):
        return arrays
    return {
        names[int(key)] if int(key) < len(names) else key: arrays[key]
        for key in sorted(arrays, key=int)
    }


def _class_and_number(layers: Sequence[Any]) -> Iterator[str]:
    """`conv2d`, `batch_normalization`, `conv2d_1`, ...: the names of Keras 3's groups."""
    seen: Counter[str] = Counter()
    for layer in layers:
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", type(layer).__name__).lower()
        yield f"{kind}_{seen[kind]}" if seen[kind] else kind
        seen[kind] += 1


def _shapes(layer: Any) -> tuple[Shape, ...]:
    return tuple(sorted(tuple(variable.shape) for variable in layer.weights))


def _shapes_saved(arrays: Arrays) -> tuple[Shape, ...]:
    return tuple(sorted(array.shape for array in arrays.values()))


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
