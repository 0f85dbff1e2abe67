"""Which layer of a weights file is which layer of a model.

Names that somebody chose tell. Names that Keras gives out, such as `dense_7`, only tell an order:
their numbers hang on what the process had built before, and Keras 2 began at 1.
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
    """A layer of the model that has weights of its own, not only those of layers inside it."""

    path: tuple[str, ...]
    """Names from below the model down to the layer; the cell of an RNN goes by the RNN's name."""
    kind: str
    """Its class as Keras's own names have it: `conv2d`."""
    variables: Mapping[str, Any]
    """By name, in Keras's order: those that are trained first."""

    @property
    def name(self) -> str:
        """The layer's own name."""
        return self.path[-1]


def model_layers(model: Any) -> list[ModelLayer]:
    """The layers with weights of their own, each once, in the order of `model.layers`."""
    seen: set[int] = set()

    def walk(layer: Any, path: tuple[str, ...], kind: str) -> Iterator[ModelLayer]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        variables = _own_variables(layer)
        if variables:
            yield ModelLayer(path or (layer.name,), kind, variables)
        for inner in _inner_layers(layer):
            if is_a(layer, "layers.RNN"):
                yield from walk(inner, path, kind)
            else:
                yield from walk(inner, (*path, inner.name), _kind(inner))

    return list(walk(model, (), _kind(model)))


def _kind(layer: Any) -> str:
    """`Conv2DTranspose` -> `conv2d_transpose`."""
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", type(layer).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _own_variables(layer: Any) -> dict[str, Any]:
    """By name; `kernel` is what Keras 2 calls `conv1/kernel:0`. By number, where names recur."""
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
    """What goes where, for all that can be told; first by what says most."""
    found: dict[ModelLayer, SavedLayer] = {}
    for keys in _RULES:
        of_layers, of_saved = keys(layers, saved)
        here = _unique([x for x in layers if x not in found], of_layers)
        there = _unique([x for x in saved if x not in found.values()], of_saved)
        found |= {layer: there[key] for key, layer in here.items() if key in there}
    rest = [x for x in layers if x not in found], [x for x in saved if x not in found.values()]
    return found | _by_shapes(*rest)


_Item = TypeVar("_Item", ModelLayer, SavedLayer)
_Keys = tuple[Mapping[ModelLayer, Hashable], Mapping[SavedLayer, Hashable]]


def _unique(items: Sequence[_Item], keys: Mapping[_Item, Hashable]) -> dict[Hashable, _Item]:
    """Items by their keys, where no other has the same."""
    counts = Counter(keys[item] for item in items if item in keys)
    return {keys[item]: item for item in items if item in keys and counts[keys[item]] == 1}


def _by_path(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """All names from the model down; those that Keras gave only if the file has just the same."""
    here, there = {x: _path(x) for x in layers}, {x: _path(x) for x in saved if not x.numbered}
    if set(here.values()) == set(there.values()):
        return here, there
    given = _given_by_keras(layers)
    return (
        {x: path for x, path in here.items() if not any(map(given, x.path))},
        {x: path for x, path in there.items() if not any(map(given, x.path))},
    )


def _by_name(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """The layer's own name: the file's model may have been nested otherwise."""
    given = _given_by_keras(layers)
    return (
        {x: _plain(x.name) for x in layers if not given(x.name)},
        {x: _plain(x.name) for x in saved if not given(x.name) and not x.numbered},
    )


def _by_last_name(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """The same, where the file has the path and the name in one: `block1/conv`."""
    of_layers, of_saved = _by_name(layers, saved)
    return of_layers, {x: x.name.rpartition("/")[2] for x in of_saved}


def _by_name_without_number(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """Keras 2 numbered names that were in use in its process already: `conv1_3`."""
    of_layers, of_saved = _by_name(layers, saved)
    return of_layers, {x: _plain(_stem(x.name)) for x in of_saved}


def _by_number(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """The order of those whose names Keras gave: `dense_7`, `dense_8` are `dense`, `dense_1`."""
    given = _given_by_keras(layers)
    return (
        _places([x for x in layers if given(x.name)], lambda x: _stem(x.name)),
        _places([x for x in saved if given(x.name) and not x.numbered], lambda x: _stem(x.name)),
    )


def _by_class(layers: Sequence[ModelLayer], saved: Sequence[SavedLayer]) -> _Keys:
    """The place among the layers of a class, where that is all that a file says."""
    numbered = [x for x in saved if x.numbered]
    return _places(layers, lambda x: x.kind), _places(numbered, lambda x: _stem(x.name))


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
    """What names do not tell: by order if all shapes agree, else where only one fits."""
    here, there = [_shapes(x) for x in layers], [_shapes_saved(x.arrays) for x in saved]
    if here == there:
        return dict(zip(layers, saved, strict=True))
    counts_here, counts_there = Counter(here), Counter(there)
    return {
        layer: saved[there.index(shapes)]
        for layer, shapes in zip(layers, here, strict=True)
        if counts_here[shapes] == counts_there[shapes] == 1
    }


def _given_by_keras(layers: Sequence[ModelLayer]) -> Callable[[str], bool]:
    """Whether a name is one that Keras gives to layers that got none."""
    around = {"bidirectional", "functional", "model", "sequential", "time_distributed"}
    kinds = {layer.kind for layer in layers} | around
    return lambda name: re.sub(r"^(forward|backward)_", "", _stem(name)) in kinds


def _places(items: Sequence[_Item], kind_of: Callable[[_Item], str]) -> dict[_Item, Hashable]:
    """The place of each item among those of its kind, and how many of them there are."""
    total = Counter(map(kind_of, items))
    seen: Counter[str] = Counter()
    places: dict[_Item, Hashable] = {}
    for item in items:
        kind = kind_of(item)
        places[item] = (kind, seen[kind], total[kind])
        seen[kind] += 1
    return places


def _path(item: ModelLayer | SavedLayer) -> str:
    return _plain("/".join(item.path))


def _plain(name: str) -> str:
    """`conv1/conv` is what Keras 3 calls `conv1_conv`."""
    return name.replace("/", "_")


def _stem(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def _shapes(layer: ModelLayer) -> tuple[Shape, ...]:
    return tuple(sorted(tuple(variable.shape) for variable in layer.variables.values()))


def _shapes_saved(arrays: Arrays) -> tuple[Shape, ...]:
    return tuple(sorted(array.shape for array in arrays.values()))
