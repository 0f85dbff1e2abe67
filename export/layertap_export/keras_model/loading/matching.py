"""Match the layers of a weights file to the layers of a model.

Names that the user chose identify a layer. Automatic names of Keras, such as `dense_7`, only give
an order: their numbers depend on what the process built before, and Keras 2 began at 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from layertap_export.keras_model.families import is_a

from .weight_files import Arrays, SavedLayer

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ModelLayer:
    """A layer that has weights itself, in addition to those of layers inside it."""

    path: tuple[str, ...]
    """Names of the layers from the model down to this one; an RNN's cell has the RNN's name."""
    class_name: str
    """Its class in the form of Keras's automatic names: `conv2d`."""
    variables: Mapping[str, Any]
    """The variables by name, in Keras's order: the trainable ones first."""

    @property
    def name(self) -> str:
        """The layer's own name."""
        return self.path[-1]


def model_layers(model: Any) -> list[ModelLayer]:
    """The layers that have weights themselves, each once, in the order of `model.layers`."""
    seen: set[int] = set()

    def walk(layer: Any, path: tuple[str, ...], class_name: str) -> Iterator[ModelLayer]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        variables = _own_variables(layer)
        if variables:
            yield ModelLayer(path or (layer.name,), class_name, variables)
        for inner in _inner_layers(layer):
            if is_a(layer, "layers.RNN"):
                yield from walk(inner, path, class_name)
            else:
                yield from walk(inner, (*path, inner.name), _class_name(inner))

    return list(walk(model, (), _class_name(model)))


def _class_name(layer: Any) -> str:
    """`Conv2DTranspose` -> `conv2d_transpose`."""
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", type(layer).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _own_variables(layer: Any) -> dict[str, Any]:
    """The layer's variables by name: `kernel`, also if Keras 2 calls it `conv1/kernel:0`. If names
    are not unique, by index."""
    if hasattr(layer, "_trainable_variables"):  # Keras 3
        own = [*layer._trainable_variables, *layer._non_trainable_variables]
    else:
        own = [*layer._trainable_weights, *layer._non_trainable_weights]
    names = [variable.name.rpartition("/")[2].partition(":")[0] for variable in own]
    if len(set(names)) < len(names):
        names = [str(index) for index in range(len(own))]
    return dict(zip(names, own, strict=True))


def _inner_layers(layer: Any) -> list[Any]:
    if hasattr(layer, "layers"):
        return list(layer.layers)
    return list(layer._flatten_layers(include_self=False, recursive=False))


def match(
    layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]
) -> dict[ModelLayer, SavedLayer]:
    """The saved layer for each layer of the model, as far as it can be determined.

    The most reliable rules are applied first; what is left is matched by shape.
    """
    found: dict[ModelLayer, SavedLayer] = {}
    for keys in _RULES:
        layer_keys, saved_keys = keys(layers, saved)
        layer_by_key = _unique([x for x in layers if x not in found], layer_keys)
        saved_by_key = _unique([x for x in saved if x not in found.values()], saved_keys)
        found |= {
            layer: saved_by_key[key] for key, layer in layer_by_key.items() if key in saved_by_key
        }
    rest = [x for x in layers if x not in found], [x for x in saved if x not in found.values()]
    return found | _by_shapes(*rest)


_Item = TypeVar("_Item", ModelLayer, SavedLayer)
_Keys = tuple[Mapping[ModelLayer, Hashable], Mapping[SavedLayer, Hashable]]


def _unique(items: Sequence[_Item], keys: Mapping[_Item, Hashable]) -> dict[Hashable, _Item]:
    """The items by key, without those whose key is not unique."""
    counts = Counter(keys[item] for item in items if item in keys)
    return {keys[item]: item for item in items if item in keys and counts[keys[item]] == 1}


def _by_path(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """The whole path; with automatic names only if the model and the file have the same paths."""
    layer_paths = {x: _path(x) for x in layers}
    saved_paths = {x: _path(x) for x in saved if not x.numbered}
    if set(layer_paths.values()) == set(saved_paths.values()):
        return layer_paths, saved_paths
    automatic = _is_automatic(layers)
    return (
        {x: path for x, path in layer_paths.items() if not any(map(automatic, x.path))},
        {x: path for x, path in saved_paths.items() if not any(map(automatic, x.path))},
    )


def _by_name(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """The layer's own name: the saved model may have been nested differently."""
    automatic = _is_automatic(layers)
    return (
        {x: _normalized(x.name) for x in layers if not automatic(x.name)},
        {x: _normalized(x.name) for x in saved if not automatic(x.name) and not x.numbered},
    )


def _by_last_name(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """The last part of a saved name that contains a path: `block1/conv`."""
    layer_keys, saved_keys = _by_name(layers, saved)
    return layer_keys, {x: x.name.rpartition("/")[2] for x in saved_keys}


def _by_name_without_number(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """The saved name without the number that Keras 2 added to names already in use: `conv1_3`."""
    layer_keys, saved_keys = _by_name(layers, saved)
    return layer_keys, {x: _normalized(_stem(x.name)) for x in saved_keys}


def _by_number(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """The order of automatic names: `dense_7`, `dense_8` are `dense`, `dense_1`."""
    automatic = _is_automatic(layers)
    automatic_saved = [x for x in saved if automatic(x.name) and not x.numbered]
    return (
        _ranks([x for x in layers if automatic(x.name)], lambda x: _stem(x.name)),
        _ranks(automatic_saved, lambda x: _stem(x.name)),
    )


def _by_class(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """The rank among the layers of a class, for files that state nothing else."""
    numbered = [x for x in saved if x.numbered]
    return _ranks(layers, lambda x: x.class_name), _ranks(numbered, lambda x: _stem(x.name))


_RULES = (
    _by_path,
    _by_name,
    _by_last_name,
    _by_name_without_number,
    _by_number,
    _by_class,
)


def _by_shapes(
    layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]
) -> dict[ModelLayer, SavedLayer]:
    """Layers without matching names: in order if all shapes are equal, else by unique shapes."""
    layer_shapes = [_shapes(x) for x in layers]
    saved_shapes = [_shapes_saved(x.arrays) for x in saved]
    if layer_shapes == saved_shapes:
        return dict(zip(layers, saved, strict=True))
    layer_counts, saved_counts = Counter(layer_shapes), Counter(saved_shapes)
    return {
        layer: saved[saved_shapes.index(shapes)]
        for layer, shapes in zip(layers, layer_shapes, strict=True)
        if layer_counts[shapes] == saved_counts[shapes] == 1
    }


def _is_automatic(layers: Sequence[ModelLayer]) -> Callable[[str], bool]:
    """A function that says whether a name is one that Keras gives to layers without a name."""
    containers = {"bidirectional", "functional", "model", "sequential", "time_distributed"}
    classes = {layer.class_name for layer in layers} | containers
    return lambda name: re.sub(r"^(forward|backward)_", "", _stem(name)) in classes


def _ranks(items: Sequence[_Item], group_of: Callable[[_Item], str]) -> dict[_Item, Hashable]:
    """For each item its group, its rank among the items of that group, and their number."""
    total = Counter(map(group_of, items))
    seen: Counter[str] = Counter()
    ranks: dict[_Item, Hashable] = {}
    for item in items:
        group = group_of(item)
        ranks[item] = (group, seen[group], total[group])
        seen[group] += 1
    return ranks


def _path(item: ModelLayer | SavedLayer) -> str:
    return _normalized("/".join(item.path))


def _normalized(name: str) -> str:
    """A name as Keras 3 writes it: `conv1_conv` for Keras 2's `conv1/conv`."""
    return name.replace("/", "_")


def _stem(name: str) -> str:
    """A name without its number."""
    return re.sub(r"_\d+$", "", name)


def _shapes(layer: ModelLayer) -> tuple[Shape, ...]:
    return tuple(sorted(tuple(variable.shape) for variable in layer.variables.values()))


def _shapes_saved(arrays: Arrays) -> tuple[Shape, ...]:
    return tuple(sorted(array.shape for array in arrays.values()))
