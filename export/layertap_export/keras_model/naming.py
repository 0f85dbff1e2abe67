"""The names of layers.

Keras numbers the layers that have no name of their own (`dense`, `dense_1`) in the order in which a
process makes them. Such a number depends on what was built before. A layer inside another layer is
therefore named after the attribute that holds it; the layers of the model itself keep the names
that `model.summary()` shows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from keras.src.utils.naming import to_snake_case

from layertap_export.graph.unique_names import UniqueNames

from .families import callables, functional_of, is_a, members_of


def layer_name(layer: Any) -> str:
    """The layer's name, or its class if the name is empty, which a tensor's name must not be."""
    return str(layer.name or type(layer).__name__)


def automatic_base(layer: Any, owner: Any = None) -> str | None:
    """The name without its number if Keras made it, `None` if the user gave it.

    Args:
        layer: a layer, model or operation.
        owner: the layer that contains it.
    """
    name = layer_name(layer)
    if is_a(owner, "layers.Bidirectional"):
        name = re.sub("^(forward|backward)_", "", name)
    bases = [to_snake_case(type(layer).__name__)]
    if is_a(layer, "layers.InputLayer"):
        bases.append("input")  # Keras 2
    elif is_a(layer, "Model"):
        bases.append("model")  # a Functional model of Keras 2
    elif name.startswith("tf."):  # an operation of Keras 2
        bases.append(re.sub(r"_\d+$", "", name))
    return next((x for x in bases if re.fullmatch(rf"{re.escape(x)}(_\d+)?", name)), None)


def inner_names(owner: Any) -> dict[int, str]:
    """The names of the layers that a layer holds, by their ids.

    A name that the user gave stays. Otherwise it is the attribute's, without leading underscores:
    `conv`, `convs.0` in a list, `heads.left` in a dict. A layer that is in no attribute, as in a
    Functional model, is named by its class and, if there are several, by its index among these:
    `conv2d.0`, `conv2d.1`. These cannot be mistaken for Keras's `conv2d_1`, which is another layer
    where Keras does not count from 0.
    """
    attributes: dict[int, str] = {}
    held: dict[int, Any] = {}
    for name, layer in _held_by(owner):
        attributes.setdefault(id(layer), name)
        held.setdefault(id(layer), layer)
    held |= {id(layer): layer for layer in members_of(owner) or ()}

    bases = {key: automatic_base(layer, owner) for key, layer in held.items()}
    names = {key: layer_name(held[key]) for key, base in bases.items() if base is None}
    unique = UniqueNames(names.values(), "~", 2)
    count = Counter(base for key, base in bases.items() if key not in attributes)
    index: Counter[str] = Counter()
    for key, base in bases.items():
        if base is None:
            continue
        name = attributes.get(key, base)
        if key not in attributes and count[base] > 1:
            name = f"{base}.{index[base]}"
            index[base] += 1
        names[key] = unique.free(name)
    return names


_BOOKKEEPING = re.compile("_layers$|_functional$|_self_|_obj_")
"""Attributes in which Keras and TensorFlow themselves keep the layers of a layer."""


def _held_by(owner: Any) -> Iterator[tuple[str, Any]]:
    """The layers in the attributes of a layer, each with the attribute's name; public ones first.

    A layer in several attributes occurs several times.
    """
    # A model with a graph keeps it in private attributes.
    has_graph = is_a(owner, "Sequential") or functional_of(owner) is not None
    attributes = vars(owner)
    private = [name for name in attributes if name.startswith("_")]
    wanted = [name for name in private if not has_graph and not _BOOKKEEPING.match(name)]
    classes = tuple(callables())
    for name in [*(name for name in attributes if not name.startswith("_")), *wanted]:
        yield from _inside(attributes[name], _readable(name, owner), classes, ())


def _readable(name: str, owner: Any) -> str:
    """An attribute's name without leading underscores; `self.__x` is `_Class__x` for Python."""
    for cls in type(owner).__mro__:
        name = name.removeprefix(f"_{cls.__name__.lstrip('_')}__")
    return name.lstrip("_") or name


def _inside(
    value: Any, name: str, classes: tuple[type, ...], around: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    """The layers in a nested structure of lists, tuples and dicts. Sets have no fixed order."""
    if isinstance(value, classes):
        yield name, value
    if id(value) in around or isinstance(value, classes):
        return
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        yield from _inside(item, f"{name}.{key}", classes, (*around, id(value)))
