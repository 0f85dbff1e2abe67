"""Recording what every layer puts out while a Keras model runs.

Keras 3 has no hook for that, and rebuilding the model around inner layers fails for nested and
subclassed models. So, for the time of one call, `Layer.__call__` (and `Operation.__call__`, for
`keras.ops` in Functional graphs) is wrapped: each call leaves its inputs and outputs behind, under
the path of names that leads to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from layertap_export.graph.unique_names import UniqueNames

from .families import callables, functional_of, is_a, is_symbolic, operations_of
from .wrapping import wrapped

SCOPE = "layertap_call_"
"""Each call makes its TensorFlow operations in a scope of this name and its number."""


class Leaf(NamedTuple):
    """One of the values in a structure of tuples, lists and dicts."""

    suffix: str
    """What leads to it: nothing for a lone value or the first one, `:2`, `:left`, `:1:left`."""
    place: int
    """Its place in the order in which Keras flattens the structure; dicts by their sorted keys."""
    value: Any


@dataclass(eq=False)
class Call:
    """One call of one layer."""

    path: str
    """Names from below the model down to the layer, joined by `/`; `#1` marks the second call."""
    layer: Any
    parent: Call | None
    """The call inside which this one happened; `None` directly below the model."""
    number: int
    """How many calls began before this one."""
    arguments: tuple[Any, Any]
    """What the layer was called with: positional arguments and named ones."""
    inbound: list[str]
    """Full names of the recorded outputs that went in."""
    in_loop: bool = False
    """Whether this is one of many calls, for one step each, of which only this one is recorded."""
    happened: bool = True
    """False for a layer that is in a model, but is not called."""
    outputs: list[tuple[str, Any]] = field(default_factory=list)
    """What came out but for `None`, each with the full name it is exposed under."""
    places: dict[int, str] = field(default_factory=dict)
    """The name of each output by its place in the order in which Keras flattens them."""
    finished: int = -1
    """How many calls had ended before this one: inner layers end before those around them."""


class Recorder:
    """Collects the calls of one run of a model: `with recorder.recording(): model(x)`."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        """Record without giving to a layer one of the names that are `reserved`."""
        self.calls: list[Call] = []
        """In the order in which the calls began."""
        self._stack: list[Call] = []
        self._root: Any = None
        self._finished = 0
        self._names = UniqueNames(reserved, "~", 2)
        self._paths: dict[tuple[str, int], str] = {}
        self._repeats: dict[str, int] = {}
        self._writers: dict[int, str] = {}
        self._members: dict[int, set[int]] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the next call of a model made in this thread."""
        previous = _active.recorder
        with nullcontext() if previous else _wrapped_calls(), _recording_by(self):
            yield

    def writer(self, tensor: Any) -> str | None:
        """The name of the output that `tensor` is, of the outermost layer where there are several.

        A layer that returns its input unchanged is the writer for those that read it next.
        """
        return self._writers.get(id(tensor))

    def never_called(self, layer: Any, parent: Call | None) -> Call:
        """What stands for a layer inside `parent` that was not called, under a name of its own."""
        path = self._names.free(
            f"{parent.path}/{layer_name(layer)}" if parent else layer_name(layer)
        )
        return Call(path, layer, parent, -1, ((), {}), [], happened=False)

    def run(self, original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        if any(map(is_symbolic, keras.tree.flatten([args, kwargs]))):
            with _recording_by(None):  # a layer that builds another, or works out a shape
                return original(layer, *args, **kwargs)
        if self._root is None:
            self._root = layer
            return original(layer, *args, **kwargs)
        owner = self._stack[-1].layer if self._stack else self._root
        if not is_a(layer, "layers.Layer") and id(layer) not in self._graph(owner):
            return original(layer, *args, **kwargs)  # `keras.ops` in some layer's own code
        in_loop = False
        if is_a(owner, "layers.RNN"):
            in_loop = not owner.unroll
            if layer is not owner.cell or (in_loop and self._has_inner_calls()):
                # Keras runs cells once more for the shapes of their dropouts and outputs.
                with _recording_by(None):
                    return original(layer, *args, **kwargs)
        call = self._begin(layer, args, kwargs, in_loop)
        self._stack.append(call)
        try:
            with _inner_calls(layer), tf.name_scope(f"{SCOPE}{call.number}/"):
                result = original(layer, *args, **kwargs)
        finally:
            self._stack.pop()
        self._end(call, result)
        return result

    def _has_inner_calls(self) -> bool:
        """Whether a layer was called inside the layer that runs now."""
        return bool(self._stack) and self.calls[-1] is not self._stack[-1]

    def _graph(self, owner: Any) -> set[int]:
        """The ids of the layers and operations in the graph of `owner`."""
        if id(owner) not in self._members:
            functional = functional_of(owner)
            members = operations_of(functional) if functional is not None else ()
            self._members[id(owner)] = {id(member) for member in members}
        return self._members[id(owner)]

    def _begin(self, layer: Any, args: Any, kwargs: Any, in_loop: bool) -> Call:
        parent = self._stack[-1] if self._stack else None
        inside = f"{parent.path}/" if parent else ""
        known = (inside, id(layer))
        if known not in self._paths:
            self._paths[known] = self._names.free(inside + layer_name(layer))
        path = self._paths[known]
        repeat = self._repeats.get(path, 0)
        self._repeats[path] = repeat + 1
        if repeat:
            path = self._names.free(f"{path}#{repeat}")
        names = (self.writer(x) for x in keras.tree.flatten([args, kwargs]))
        inbound = list(dict.fromkeys(name for name in names if name is not None))
        call = Call(path, layer, parent, len(self.calls), (args, kwargs), inbound, in_loop)
        self.calls.append(call)
        return call

    def _end(self, call: Call, result: Any) -> None:
        call.finished, self._finished = self._finished, self._finished + 1
        for suffix, place, value in leaves(result):
            if value is None:
                continue
            name = self._names.free(call.path + suffix) if suffix else call.path
            call.outputs.append((name, value))
            call.places[place] = name
            if tf.is_tensor(value):
                self._writers[id(value)] = name


def layer_name(layer: Any) -> str:
    """The layer's name; its class where that is empty, as no tensor may be called."""
    return str(layer.name or type(layer).__name__)


def leaves(value: Any) -> list[Leaf]:
    """The values in a structure, such as what a layer returned.

    They are numbered in tuples and lists, from 0, and called by their keys in dicts and by their
    fields in named tuples; zeros at the end are left out. They come in the order of the structure
    itself, dicts as they were made.
    """
    flat = keras.tree.flatten(value)
    numbered = keras.tree.pack_sequence_as(value, range(len(flat)))
    found = []
    for keys, place in _walk(numbered, ()):
        while keys and keys[-1] == 0:
            keys = keys[:-1]
        found.append(Leaf("".join(f":{key}" for key in keys), place, flat[place]))
    return found


def _walk(value: Any, keys: tuple[int | str, ...]) -> Iterator[tuple[tuple[int | str, ...], int]]:
    items: Iterable[tuple[int | str, Any]]
    if isinstance(value, dict):
        items = ((str(key), item) for key, item in value.items())
    elif hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield keys, value
        return
    for key, item in items:
        yield from _walk(item, (*keys, key))


class _Active(threading.local):
    recorder: Recorder | None = None


_active = _Active()


@contextmanager
def _recording_by(recorder: Recorder | None) -> Iterator[None]:
    previous, _active.recorder = _active.recorder, recorder
    try:
        yield
    finally:
        _active.recorder = previous


@contextmanager
def _wrapped_calls() -> Iterator[None]:
    def of_layer(original: Callable[..., Any], layer: Any, *args: Any, **kwargs: Any) -> Any:
        return _run(original, layer, args, kwargs)

    def of_operation(original: Callable[..., Any], layer: Any, *args: Any, **kwargs: Any) -> Any:
        if is_a(layer, "layers.Layer"):  # its call has come through `Layer.__call__`
            return original(layer, *args, **kwargs)
        return _run(original, layer, args, kwargs)

    with ExitStack() as wrappings:
        for kind in callables():
            wrapper = of_layer if kind.__name__ == "Layer" else of_operation
            wrappings.enter_context(wrapped(kind, "__call__", wrapper))
        yield


@contextmanager
def _inner_calls(layer: Any) -> Iterator[None]:
    """Record the layer inside a TimeDistributed too, which it runs by `call`, not `__call__`."""
    if not is_a(layer, "layers.TimeDistributed"):
        yield
        return

    def call(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return _run(lambda _, *args, **kwargs: original(*args, **kwargs), layer.layer, args, kwargs)

    with wrapped(layer.layer, "call", call):
        yield


def _run(original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
    recorder = _active.recorder
    if recorder is None:
        return original(layer, *args, **kwargs)
    return recorder.run(original, layer, args, kwargs)
