"""Recording what every layer puts out while a Keras model runs.

Keras 3 has no hook for that, and rebuilding the model around inner layers fails for nested and
subclassed models. So, for the time of one call, `Layer.__call__` (and `Operation.__call__`, for
`keras.ops` in Functional graphs) is wrapped: each call leaves its inputs and outputs behind, under
the path of names that leads to it. The same recorder serves the trace, where the tensors are
symbolic, and the reference run, where they hold values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from .families import callables, functional_of, is_a, operations_of


@dataclass(eq=False)
class Call:
    """One call of one layer."""

    path: str
    """Names from below the model down to the layer, joined by `/`; `#1` marks the second call."""
    layer: Any
    parent: Call | None
    """The call inside which this one happened; `None` directly below the model."""
    repeat: int
    """0 for the layer's first call inside its parent, 1 for the second, ..."""
    inbound: list[str]
    """Full names of the recorded outputs that went in."""
    outputs: list[tuple[str, Any]]
    """The tensors that came out, each with the full name it is exposed under."""
    finished: int = -1
    """How many calls had ended before this one: inner layers end before those around them."""


class Recorder:
    """Collects the calls of one run of a model: `with recorder.recording(): model(x)`."""

    def __init__(self, keep: Callable[[str], bool] = lambda name: True) -> None:
        """Record the outputs whose name `keep` accepts (in a reference run memory matters)."""
        self.calls: list[Call] = []
        """In the order in which the calls began."""
        self._keep = keep
        self._stack: list[Call] = []
        self._root: Any = None
        self._finished = 0
        self._repeats: dict[tuple[str, int], int] = {}
        self._owners: dict[str, list[Any]] = {}
        self._writers: dict[int, str] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the next call of a model made in this thread."""
        previous, _active.recorder = getattr(_active, "recorder", None), self
        try:
            with nullcontext() if previous else _wrapped_calls():
                yield
        finally:
            _active.recorder = previous

    def run(self, original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        if self._root is None:
            self._root = layer
            return original(layer, *args, **kwargs)
        owner = self._stack[-1].layer if self._stack else self._root
        if not is_a(layer, "layers.Layer") and layer not in graph_members(owner):
            return original(layer, *args, **kwargs)  # `keras.ops` in some layer's own code
        if is_a(owner, "layers.RNN"):
            return original(layer, *args, **kwargs)  # a cell: it runs once per step
        call = self._begin(layer, self._names_of(named_leaves([args, kwargs])))
        self._stack.append(call)
        try:
            result = original(layer, *args, **kwargs)
        finally:
            self._stack.pop()
        call.finished, self._finished = self._finished, self._finished + 1
        call.outputs = [
            (call.path + suffix, tensor)
            for suffix, tensor in named_leaves(result)
            if self._keep(call.path + suffix)
        ]
        # A layer that returns its input unchanged becomes the writer for those that read it next.
        self._writers.update((id(tensor), name) for name, tensor in call.outputs)
        return result

    def _names_of(self, leaves: list[tuple[str, Any]]) -> list[str]:
        names = (self._writers.get(id(leaf)) for _, leaf in leaves)
        return list(dict.fromkeys(name for name in names if name is not None))

    def _begin(self, layer: Any, inbound: list[str]) -> Call:
        parent = self._stack[-1] if self._stack else None
        path = f"{parent.path}/{layer.name}" if parent else layer.name
        # Two layers of one name below one parent are told apart by `~2`.
        owners = self._owners.setdefault(path, [])
        if not any(owner is layer for owner in owners):
            owners.append(layer)
        twin = next(i for i, owner in enumerate(owners) if owner is layer)
        if twin:
            path = f"{path}~{twin + 1}"
        repeat = self._repeats.get((path, id(layer)), 0)
        self._repeats[path, id(layer)] = repeat + 1
        call = Call(f"{path}#{repeat}" if repeat else path, layer, parent, repeat, inbound, [])
        self.calls.append(call)
        return call


def graph_members(model: Any) -> list[Any]:
    """Layers and `keras.ops` operations of a model's Functional graph, if it has one."""
    functional = functional_of(model)
    return [] if functional is None else operations_of(functional)


def named_leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The tensors in what a layer returned, each with the suffix of its name.

    A lone tensor has none; of a tuple or list the first has none and the next are `:1`, `:2`;
    those of a dict are called by their keys, `:key`, in sorted order, as `keras.tree` has them.
    """
    if value is None:
        return []
    if isinstance(value, dict):
        items = [(f"{prefix}:{key}", item) for key, item in sorted(value.items())]
    elif isinstance(value, (list, tuple)):
        items = [(f"{prefix}:{i}" if i else prefix, item) for i, item in enumerate(value)]
    else:
        return [(prefix, value)]
    return [leaf for name, item in items for leaf in named_leaves(item, name)]


_active = threading.local()
_patch_lock = threading.RLock()


@contextmanager
def _wrapped_calls() -> Iterator[None]:
    """Wrap the `__call__` methods; calls of other threads pass through untouched."""
    with _patch_lock:
        saved = {cls: cls.__dict__["__call__"] for cls in callables()}
        try:
            for cls, original in saved.items():
                cls.__call__ = _wrapper(cls, original)
            yield
        finally:
            for cls, original in saved.items():
                cls.__call__ = original


def _wrapper(cls: type, original: Callable[..., Any]) -> Callable[..., Any]:
    is_layer_class = cls.__name__ == "Layer"

    def wrapped(layer: Any, *args: Any, **kwargs: Any) -> Any:
        recorder: Recorder | None = getattr(_active, "recorder", None)
        # A Layer is an Operation too, but its calls come through Layer.__call__.
        through_layer = is_a(layer, "layers.Layer") and not is_layer_class
        if recorder is None or through_layer:
            return original(layer, *args, **kwargs)
        return recorder.run(original, layer, args, kwargs)

    return wrapped
