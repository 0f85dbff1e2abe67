"""What the layers inside a Keras model return, seen without the exporter's recorder."""

from __future__ import annotations

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
