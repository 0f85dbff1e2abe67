"""What the layers inside a Keras model return, seen without the exporter's recorder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def spied_on(model: Any) -> Iterator[dict[str, list[Any]]]:
    """What the layers and operations inside `model` return, by their names, call after call."""
    found: dict[str, list[Any]] = {}
    everything = {id(x): x for layer in model._flatten_layers() for x in _members(layer)}

    def spy(one: Any) -> None:
        original = one.call

        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            found.setdefault(one.name, []).append(result)
            return result

        object.__setattr__(one, "call", call)

    for one in everything.values():
        spy(one)
    try:
        yield found
    finally:
        for one in everything.values():
            object.__delattr__(one, "call")


def _members(layer: Any) -> list[Any]:
    functional = getattr(layer, "_functional", None) or layer
    return [layer, *getattr(functional, "operations", [])]


def layer_at(model: Any, path: str) -> Any:
    """The layer that a name in a file means: a name that the user gave, an attribute, or a class
    and an index among the layers of that class."""
    owner = model
    for step in path.split("/"):
        name = re.split("[#~:]", step)[0]
        inside = [x for one in [owner, *_own(owner)] for x in _members(one) if x is not owner]
        given = [x for x in inside if x.name == name]
        twin = re.search(r"~(\d+)", step)
        number = int(twin[1]) - 1 if twin else 0
        given = list(dict.fromkeys(given))
        owner = given[min(number, len(given) - 1)] if given else _held(owner, name, inside)
    return owner


def _own(owner: Any) -> list[Any]:
    return list(owner._flatten_layers(include_self=False, recursive=False))


def _held(owner: Any, name: str, inside: list[Any]) -> Any:
    first, *keys = name.split(".")
    value = getattr(owner, first, getattr(owner, f"_{first}", None))
    if value is None:
        (index,) = map(int, keys or ["0"])
        of_class = [x for x in inside if re.fullmatch(rf"{first}(_\d+)?", x.name)]
        return list(dict.fromkeys(of_class))[index]
    for key in keys:
        value = value[key] if isinstance(value, dict) else value[int(key)]
    return value
