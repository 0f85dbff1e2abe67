"""The inputs of a Keras model: names, shapes, dtypes, and how to call the model with them.

Functional models state their inputs, and Sequential models with an `Input`. So does a subclassed
model that was called on symbolic inputs (`model(keras.Input((4,)))`). If a model was only called on
data, Keras keeps the shape of the first argument, but not the dtype; `freeing` finds out which of
these sizes are free. What the user states comes before all of that.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import keras

from layertap.errors import UsageError, suggest
from layertap.format.card import TensorInfo
from layertap.format.layer import Shape, uncounted
from layertap.format.text import shape_text
from layertap_export.errors import ExportError, keras_words
from layertap_export.graph.unique_names import UniqueNames

from .families import (
    called_with,
    family_of,
    functional_of,
    is_a,
    is_symbolic,
    producer_of,
)
from .naming import automatic_base, layer_name
from .recording import Call, nested_values
from .stated import Stated
from .wrapping import wrapped


@dataclass(frozen=True)
class Inputs:
    """The inputs of a model, flattened, in Keras's order."""

    infos: tuple[TensorInfo, ...]
    args: Sequence[Any]
    """The positional arguments, with a `_Slot` in place of each input."""
    kwargs: Mapping[str, Any]
    """The keyword arguments, likewise."""
    guessed: bool = False
    """Whether the dtypes are assumed, not known."""
    data: tuple[Shape | None, ...] = ()
    """The shapes of the data that the model was called on, if these are all that is known. The
    sizes in `infos` are then theirs, but for that of the batch. `None` for an input that the user
    states."""
    other_sizes: bool = False
    """Whether Keras's own check of the sizes is switched off, because the user states others."""

    def call(self, model: Any, flat: Sequence[Any]) -> Any:
        """Call `model` in inference mode, with tensors or arrays in the order of `infos`."""

        def filled(arguments: Any) -> Any:
            return keras.tree.map_structure(
                lambda x: flat[x.index] if isinstance(x, _Slot) else x, arguments
            )

        with _without_checks() if self.other_sizes else nullcontext(), _same_graphs(model):
            return model(*filled(self.args), **filled(self.kwargs), training=False)

    def with_indices(self, calls: Sequence[Call], symbols: Sequence[Any]) -> Inputs:
        """These inputs, with int32 for those that an Embedding layer reads, if dtypes are assumed.

        Args:
            calls: the recorded calls of a trace.
            symbols: the tensors of the inputs in that trace.
        """
        if not self.guessed:
            return self
        embedded = {
            id(x)
            for call in calls
            if is_a(call.layer, "layers.Embedding")
            for x in keras.tree.flatten(call.arguments)
        }
        infos = [
            replace(info, dtype="int32") if id(symbol) in embedded else info
            for info, symbol in zip(self.infos, symbols, strict=True)
        ]
        return replace(self, infos=tuple(infos))


def _without_checks() -> AbstractContextManager[None]:
    """Let Keras call models on other sizes than they state."""
    return wrapped(keras.layers.Layer, "_assert_input_compatibility", lambda *arguments: None)


def _same_graphs(model: Any) -> AbstractContextManager[None]:
    """Keep the graphs of Sequential models of Keras 2, which these make again for other sizes."""

    def build(original: Any, layer: Any, *args: Any, **kwargs: Any) -> None:
        if not layer.built:
            original(layer, *args, **kwargs)

    family = family_of(model)
    name = "_build_graph_network_for_inferred_shape"
    return nullcontext() if family is keras else wrapped(family.Sequential, name, build)


@dataclass(frozen=True)
class _Slot:
    """Stands for an input in the arguments of a call."""

    index: int
    """Index of the input in `Inputs.infos`."""


def model_inputs(model: Any, stated: Mapping[str, Any] | None = None) -> Inputs:
    """The inputs of a model.

    An input is named by its key if the model takes a dict, else by its input layer. An input of a
    subclassed model is named by the parameter of `call`.

    Args:
        model: the model; if it was never called, it is called once on symbolic inputs.
        stated: what the user states of the inputs, from `stated_inputs`.

    Raises:
        ExportError: the inputs are not known; the message says what to do.
        UsageError: the model has no input that is stated.
    """
    stated = stated or {}
    functional = functional_of(model)
    called = None if functional is not None else called_with(model)
    shapes = dict(getattr(model, "_build_shapes_dict", None) or {})
    if functional is None and called is None and stated and _unknown(model, shapes):
        called = _called_on_symbols(model, stated)
        functional = functional_of(model)
        stated = stated if functional is not None else {}
    if functional is not None:
        return _with_stated(model, _of_graph(model, functional), stated)
    if called is None:
        return _with_stated(model, _of_shapes(model, shapes), stated)
    found = _of_call(model, *called)
    if not _states_input(model):
        found = replace(found, data=tuple(info.shape for info in found.infos))
    return _with_stated(model, found, stated)


def _with_stated(model: Any, inputs: Inputs, stated: Mapping[str, Any]) -> Inputs:
    """The inputs, with what the user states in place of what is known.

    Raises:
        UsageError: the model has no such input, or it has another number of axes.
    """
    if not stated:
        return inputs
    infos = list(inputs.infos)
    names = [info.name for info in infos]
    for name, item in stated.items():
        position = _position(model, names, name)
        if not isinstance(item, Stated):
            raise UsageError(
                f"state a shape for each input of the model {model.name!r}: its inputs are "
                f"{_listed(infos)}."
            )
        old = infos[position]
        shape = old.shape if item.shape is None else item.shape
        if len(shape) != len(old.shape) and functional_of(model) is not None:
            raise UsageError(
                f"the input {old.name!r} has the axes {shape_text(old.shape)}, got the shape "
                f"{shape_text(shape)}. State {len(old.shape)} sizes, with the batch first."
            )
        # A Sequential model does not name its input, unless the user did.
        own = is_a(model, "Sequential") and name and old.name == _SEQUENTIAL
        infos[position] = TensorInfo(
            name=name if own else old.name, shape=shape, dtype=item.dtype or old.dtype
        )
    changed = any(new.shape != old.shape for new, old in zip(infos, inputs.infos, strict=True))
    known = {_position(model, names, name) for name in stated}
    data = tuple(None if i in known else shape for i, shape in enumerate(inputs.data))
    return replace(
        inputs,
        infos=tuple(infos),
        guessed=inputs.guessed and not all(x.dtype for x in stated.values()),
        data=data if any(data) else (),
        other_sizes=changed and functional_of(model) is not None,
    )


def _position(model: Any, names: Sequence[str], name: str) -> int:
    """Which input is meant by a name, which may have another of Keras's counters."""
    if name in names:
        return names.index(name)
    if len(names) == 1 and (not name or (is_a(model, "Sequential") and names[0] == _SEQUENTIAL)):
        return 0
    alike = [index for index, x in enumerate(names) if uncounted(x) == uncounted(name)]
    if name and len(alike) == 1:
        return alike[0]
    given = f"no input {name!r}" if name else f"{len(names)} inputs, and one shape was given"
    raise UsageError(
        f"the model {model.name!r} has {given}.{suggest(name, names)} Its inputs are "
        f"{', '.join(map(repr, names))}."
    )


def _listed(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in infos)


def input_layer_name(tensor: Any) -> str:
    """The name of the input layer behind a model's symbolic input."""
    return layer_name(producer_of(tensor))


_SEQUENTIAL = "input_layer"
"""The name of the input of a Sequential model, in which no layer has that name."""


def _of_graph(model: Any, functional: Any) -> Inputs:
    structure = functional.input
    names = [input_layer_name(x) for x in functional.inputs]
    if is_a(model, "Sequential") and len(names) == 1:
        base = automatic_base(producer_of(functional.inputs[0]))
        names = [_SEQUENTIAL] if base == _SEQUENTIAL else names
    if isinstance(structure, dict):
        for item in nested_values(structure):
            names[item.position] = item.suffix.removeprefix(":")
    infos = [_info(name, x) for name, x in zip(names, functional.inputs, strict=True)]
    slots = [_Slot(index) for index in range(len(infos))]
    data: tuple[Shape | None, ...] = ()
    if not _states_input(model):
        data = tuple(info.shape for info in infos)
        infos = [replace(info, shape=(None, *info.shape[1:])) for info in infos]
    arguments = [keras.tree.pack_sequence_as(structure, slots)]
    return Inputs(_with_unique_names(infos), arguments, {}, data=data)


def _states_input(model: Any) -> bool:
    """Whether the shapes of a model's inputs were stated, by the user or by a file.

    A Sequential model without an `Input` takes them from the first data, also after it was saved
    and loaded. Keras 2 keeps no difference for subclassed models.
    """
    if not is_a(model, "Sequential"):
        return not hasattr(model, "save_spec") or functional_of(model) is not None
    if hasattr(model, "_has_explicit_input_shape"):  # Keras 2
        return bool(model._has_explicit_input_shape)
    if functional_of(model) is None or model.input_shape[0] is None:
        return True
    inner = model.layers[0]
    if functional_of(inner) is not None and _states_input(inner):
        return True
    layer = model._layers[0]
    automatic = automatic_base(layer) or layer.name == f"{inner.name}_input"  # the latter: Keras 2
    if not automatic or layer.dtype != inner.compute_dtype:
        return True  # Keras makes neither
    # Keras's own code passes these two, and every file has both.
    given = getattr(layer, "_auto_config", None)
    return given is None or None in (given.config.get("batch_shape"), given.config.get("dtype"))


def _of_call(model: Any, args: Any, kwargs: Mapping[str, Any], guessed: bool = False) -> Inputs:
    """The inputs of a subclassed model, from the arguments of a call on symbols."""
    infos: list[TensorInfo] = []

    def with_slots(name: str, value: Any, alone: bool) -> Any:
        names = {}
        for item in nested_values(value):
            names[item.position] = name + item.suffix
            if alone and isinstance(value, dict):
                names[item.position] = item.suffix.removeprefix(":")
        flat = keras.tree.flatten(value)
        for index, x in enumerate(flat):
            if is_symbolic(x):
                infos.append(_info(names[index], x))
                flat[index] = _Slot(len(infos) - 1)
        return keras.tree.pack_sequence_as(value, flat)

    keywords = {name: value for name, value in kwargs.items() if name != "training"}
    alone = len(args) + len(keywords) == 1
    names = _positional_names(model, len(args))
    positional = [with_slots(name, value, alone) for name, value in zip(names, args, strict=True)]
    keywords = {name: with_slots(name, value, alone) for name, value in keywords.items()}
    return Inputs(_with_unique_names(infos), positional, keywords, guessed)


def _positional_names(model: Any, count: int) -> list[str]:
    """Names for `count` positional arguments of the model's `call`."""
    names: list[str] = []
    for parameter in inspect.signature(model.call).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            more = range(count - len(names))
            names += [f"{parameter.name}:{index}" if index else parameter.name for index in more]
            break
        names.append(parameter.name)
    return names[:count]


def _info(name: str, symbol: Any) -> TensorInfo:
    dtype = keras.backend.standardize_dtype(symbol.dtype)
    return TensorInfo(name=name, shape=tuple(symbol.shape), dtype=dtype)


def _with_unique_names(infos: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """The inputs with unique names: nested keys can result in the same name, or an empty one."""
    names = UniqueNames((), "~", 2)
    return tuple(replace(info, name=names.free(info.name or "input")) for info in infos)


def _parameters(model: Any) -> list[inspect.Parameter]:
    """The parameters of a model's `call` that may take tensors."""
    parameters = inspect.signature(model.call).parameters.items()
    return [parameter for name, parameter in parameters if name not in ("training", "mask")]


def _required(model: Any) -> list[str]:
    """The names of those without a default."""
    parameters = _parameters(model)
    return [x.name for x in parameters if x.default is x.empty and x.kind not in _VARIABLE]


def _known(model: Any, shapes: Mapping[str, Any]) -> set[str]:
    """The parameters whose shapes Keras kept."""
    if len(shapes) == 1:
        return {parameter.name for parameter in _parameters(model)[:1]}
    return {name.removesuffix("_shape") for name in shapes}


def _unknown(model: Any, shapes: Mapping[str, Any]) -> bool:
    """Whether the shapes of some arguments are not known."""
    known, required = _known(model, shapes), _required(model)
    names = {parameter.name for parameter in _parameters(model)}
    return not shapes or not known.issuperset(required) or not known <= names


def _called_on_symbols(model: Any, stated: Mapping[str, Any]) -> tuple[Any, Any]:
    """Call a model on symbolic inputs as the user states them, and return its arguments.

    Raises:
        ExportError: Keras cannot call it, or an argument is not stated.
        UsageError: `call` has no such parameter.
    """
    parameters = _parameters(model)
    names = [parameter.name for parameter in parameters if parameter.kind not in _VARIABLE]
    one = is_a(model, "Sequential") or "" in stated
    if one and len(stated) == 1 and names:
        stated = {names[0]: next(iter(stated.values()))}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    for name in stated:
        if name not in names and not open_ended:
            raise UsageError(
                f"the model {model.name!r} has no input {name!r}.{suggest(name, names)} Its inputs "
                f"are the parameters of call({', '.join(names)})."
            )
    missing = [name for name in _required(model) if name not in stated]
    if missing:
        raise ExportError(
            f"the model {model.name!r} has the inputs {', '.join(map(repr, _required(model)))}; "
            f"state {', '.join(map(repr, missing))} too."
        )
    make = keras.KerasTensor if family_of(model) is keras else _input_of_keras_2(model)

    def symbols(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: symbols(item) for key, item in value.items()}
        if isinstance(value, list):
            return [symbols(item) for item in value]
        if value.shape is None:
            raise UsageError(f"state the shape of each input of the model {model.name!r}, too.")
        return make(value.shape, dtype=value.dtype or keras.config.floatx())

    positional = []
    for name in names:
        if name not in stated:
            break
        positional.append(symbols(stated[name]))
    rest = {k: symbols(v) for k, v in stated.items() if k not in names[: len(positional)]}
    try:
        model(*positional, **rest)
    except Exception as exc:
        raise ExportError(
            f"Keras cannot call the model {model.name!r} on the inputs that were stated: "
            f"{keras_words(exc)}"
        ) from exc
    return positional, rest


def _input_of_keras_2(model: Any) -> Any:
    family = family_of(model)
    return lambda shape, dtype: family.Input(batch_shape=shape, dtype=dtype)


def _of_shapes(model: Any, shapes: Mapping[str, Any]) -> Inputs:
    """The inputs of a subclassed model that was called on data, or built with shapes.

    Args:
        model: the model.
        shapes: the shapes that Keras kept: `{"input_shape": shapes}` for the first argument or, if
            the class defines `build`, by the names of its parameters.

    Raises:
        ExportError: the shapes of some arguments are not known.
    """
    required = _required(model)
    options = " ".join(f"--input {name}=SHAPE" for name in required) or "--input NAME=SHAPE"
    say = (
        f"state its inputs with {options} (in Python: inputs={{{required[0]!r}: shape}})"
        if required
        else f"state its inputs with {options}"
    )
    if not shapes and not model.built:
        raise ExportError(
            f"the model {model.name!r} has never been called, so its inputs are not known. Call it "
            f"once on a batch, give its first layer an input shape, or {say}; for example "
            f"--input {(required or ['x'])[0]}=?,224,224,3:float32, where ? is a free size."
        )
    if _unknown(model, shapes):
        inputs = ", ".join("keras.Input(...)" for _ in required)
        raise ExportError(
            f"the shapes of all arguments of call({', '.join(required)}) are not known: the model "
            f"{model.name!r} was only called on data, or built with shapes. Call it once on "
            f"symbolic inputs, model({inputs}), before you export it, or {say}."
        )
    data: list[Shape] = []

    def symbol(shape: Any) -> Any:
        data.append(tuple(shape))
        # The first axis is the batch: its size in the data does not count.
        return keras.KerasTensor((None, *shape[1:]) if shape else ())

    symbols = {
        name.removesuffix("_shape"): keras.tree.map_shape_structure(symbol, structure)
        for name, structure in shapes.items()
    }
    single = len(symbols) == 1
    positional, keywords = (tuple(symbols.values()), {}) if single else ((), symbols)
    found = _of_call(model, positional, keywords, guessed=True)
    return replace(found, data=tuple(data))


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""`*args` and `**kwargs`, which may be empty."""
