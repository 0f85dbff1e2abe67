"""Record the inputs and outputs of every layer while a Keras model runs.

Keras 3 has no hook for that, and rebuilding the model with inner layers as outputs fails for nested
and subclassed models. So `Layer.__call__` (and `Operation.__call__`, for `keras.ops` in Functional
graphs) is wrapped for the duration of one call of the model. Each call of a layer is recorded under
the path of layer names that leads to it.
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

from .attention import products_noted, scores_noted
from .families import callables, functional_of, is_a, is_symbolic, operations_of
from .naming import automatic_base, inner_names, layer_name
from .wrapping import wrapped

SCOPE = "layertap_call_"
"""The operations of each call are in a TensorFlow scope with this prefix and the call's number."""


class NestedValue(NamedTuple):
    """A value in a nested structure of tuples, lists and dicts."""

    suffix: str
    """The keys that lead to it: `:2`, `:left`, `:1:left`; empty for a single or the first value."""
    position: int
    """Its index in Keras's flattened structure, where dicts are sorted by key."""
    value: Any


@dataclass(eq=False)
class Call:
    """One call of one layer."""

    path: str
    """Names of the layers from the model down to this one, joined by `/`; `#1`: the second call."""
    keras_path: str
    """The same with Keras's own names, which depend on what was built before; not unique."""
    layer: Any
    parent: Call | None
    """The call that contains this one; `None` directly below the model."""
    number: int
    """How many calls began before this one."""
    arguments: tuple[Any, Any]
    """The positional arguments and the keyword arguments."""
    inbound: list[str]
    """Full names of the recorded outputs that are among the arguments."""
    in_loop: bool = False
    """Whether the layer is called once per time step, and only this one call is recorded."""
    happened: bool = True
    """False for a layer that a model contains, but does not call."""
    outputs: list[tuple[str, Any]] = field(default_factory=list)
    """The values it returned, without `None`, each with its full name."""
    names: dict[int, str] = field(default_factory=dict)
    """The name of each output by its index in Keras's flattened structure."""
    finished: int = -1
    """How many calls ended before this one; inner calls end before the call that contains them."""
    scores: list[Any] = field(default_factory=list)
    """The scores of attention that it computed itself, not in a layer inside it."""


class Recorder:
    """Records the calls in one run of a model: `with recorder.recording(): model(x)`."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        """Create a recorder that gives none of the `reserved` names to a layer."""
        self.calls: list[Call] = []
        """The recorded calls, in the order in which they began."""
        self.scores: list[Any] = []
        """The scores of attention that the model itself computed, not one of its layers."""
        self._stack: list[Call] = []
        self._root: Any = None
        self._finished = 0
        self._names = UniqueNames(reserved, "~", 2)
        self._paths: dict[tuple[str, int], str] = {}
        self._repeats: dict[str, int] = {}
        self._tensor_names: dict[int, str] = {}
        self._members: dict[int, set[int]] = {}
        self._inner_names: dict[int, dict[int, str]] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the next call of a model made in this thread."""
        previous = _active.recorder
        with nullcontext() if previous else _wrapped_calls(), _recording_by(self):
            yield

    def name_of(self, tensor: Any) -> str | None:
        """The full name of the recorded output that is `tensor`.

        If several layers returned it, this is the last one whose call ended: the outermost one,
        or a layer that returned its input unchanged.
        """
        return self._tensor_names.get(id(tensor))

    def never_called(self, layer: Any, parent: Call | None) -> Call:
        """A placeholder, with a unique name, for a layer inside `parent` that was not called."""
        path = self._names.free(self._wanted(layer, parent))
        keras_path = _keras_path(layer, parent)
        return Call(path, keras_path, layer, parent, -1, ((), {}), [], happened=False)

    def run(self, original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        """Call `original(layer, *args, **kwargs)`, record the call, and return the result."""
        if any(map(is_symbolic, keras.tree.flatten([args, kwargs]))):
            with _recording_by(None):  # a layer that builds another one, or infers a shape
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
                # Keras also runs cells to find the shapes of their dropout masks and outputs.
                with _recording_by(None):
                    return original(layer, *args, **kwargs)
        call = self._begin(layer, args, kwargs, in_loop)
        self._stack.append(call)
        try:
            scope = tf.name_scope(f"{SCOPE}{call.number}/")
            with _inner_calls(layer), scores_noted(layer, call.scores), scope:
                result = original(layer, *args, **kwargs)
        finally:
            self._stack.pop()
        self._end(call, result)
        return result

    def note_scores(self, scores: Any) -> None:
        """Note scores of attention that were computed now."""
        (self._stack[-1].scores if self._stack else self.scores).append(scores)

    def free_name(self, wanted: str) -> str:
        """A name that no row has yet, for a row that is no call."""
        return self._names.free(wanted)

    def _has_inner_calls(self) -> bool:
        """Whether a layer was called inside the layer that is running."""
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
        key = (parent.path if parent else "", id(layer))
        if key not in self._paths:
            self._paths[key] = self._names.free(self._wanted(layer, parent))
        path, keras_path = self._paths[key], _keras_path(layer, parent)
        repeat = self._repeats.get(path, 0)
        self._repeats[path] = repeat + 1
        if repeat:
            path, keras_path = self._names.free(f"{path}#{repeat}"), f"{keras_path}#{repeat}"
        names = (self.name_of(x) for x in keras.tree.flatten([args, kwargs]))
        inbound = list(dict.fromkeys(name for name in names if name is not None))
        number = len(self.calls)
        call = Call(path, keras_path, layer, parent, number, (args, kwargs), inbound, in_loop)
        self.calls.append(call)
        return call

    def _wanted(self, layer: Any, parent: Call | None) -> str:
        """The path of a layer inside `parent`, if no other has it."""
        if parent is None:
            return layer_name(layer)
        owner = parent.layer
        if id(layer) not in self._inner_names.get(id(owner), ()):  # made after the others, perhaps
            self._inner_names[id(owner)] = inner_names(owner)
        name = self._inner_names[id(owner)].get(id(layer))
        return f"{parent.path}/{name or automatic_base(layer, owner) or layer_name(layer)}"

    def _end(self, call: Call, result: Any) -> None:
        call.finished, self._finished = self._finished, self._finished + 1
        for suffix, position, value in nested_values(result):
            if value is None:
                continue
            name = self._names.free(call.path + suffix) if suffix else call.path
            call.outputs.append((name, value))
            call.names[position] = name
            if tf.is_tensor(value):
                self._tensor_names[id(value)] = name


def _keras_path(layer: Any, parent: Call | None) -> str:
    return f"{parent.keras_path}/{layer_name(layer)}" if parent else layer_name(layer)


def nested_values(value: Any) -> list[NestedValue]:
    """The values in a nested structure, for example in the result of a layer.

    Suffixes are made of the index in tuples and lists (from 0), the key in dicts, and the field in
    named tuples; zeros at the end are left out. The values are in the order of the structure
    itself; dicts are in insertion order.
    """
    flat = keras.tree.flatten(value)
    positions = keras.tree.pack_sequence_as(value, range(len(flat)))
    found = []
    for keys, position in _walk(positions, ()):
        while keys and keys[-1] == 0:
            keys = keys[:-1]
        found.append(NestedValue("".join(f":{key}" for key in keys), position, flat[position]))
    return found


def _walk(value: Any, keys: tuple[int | str, ...]) -> Iterator[tuple[tuple[int | str, ...], int]]:
    """The keys that lead to each position in a nested structure of positions, and the position."""
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
        if is_a(layer, "layers.Layer"):  # recorded by `Layer.__call__`
            return original(layer, *args, **kwargs)
        return _run(original, layer, args, kwargs)

    with ExitStack() as wrappings:
        for cls in callables():
            wrapper = of_layer if cls.__name__ == "Layer" else of_operation
            wrappings.enter_context(wrapped(cls, "__call__", wrapper))
        wrappings.enter_context(products_noted(_note_scores))
        yield


@contextmanager
def _inner_calls(layer: Any) -> Iterator[None]:
    """Record the layer inside a TimeDistributed too, which runs it by `call`, not `__call__`."""
    if not is_a(layer, "layers.TimeDistributed"):
        yield
        return

    def call(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return _run(lambda _, *args, **kwargs: original(*args, **kwargs), layer.layer, args, kwargs)

    with wrapped(layer.layer, "call", call):
        yield


def _note_scores(scores: Any) -> None:
    if _active.recorder is not None:
        _active.recorder.note_scores(scores)


def _run(original: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
    recorder = _active.recorder
    if recorder is None:
        return original(layer, *args, **kwargs)
    return recorder.run(original, layer, args, kwargs)
