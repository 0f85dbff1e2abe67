"""The inputs of a Keras model: names, shapes, dtypes, and how to call the model with them.

Functional and Sequential models state their inputs. So does a subclassed model that was called on
symbolic inputs (`model(keras.Input((4,)))`). If it was only called on data, Keras keeps the shape
of the first argument, but not the dtype.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from layertap.format.card import TensorInfo
from layertap_export.errors import ExportError
from layertap_export.graph.unique_names import UniqueNames

from .families import called_with, functional_of, is_a, is_symbolic, producer_of
from .recording import Call, layer_name, nested_values


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

    def call(self, model: Any, flat: Sequence[Any]) -> Any:
        """Call `model` in inference mode, with tensors or arrays in the order of `infos`."""

        def filled(arguments: Any) -> Any:
            return keras.tree.map_structure(
                lambda x: flat[x.index] if isinstance(x, _Slot) else x, arguments
            )

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


@dataclass(frozen=True)
class _Slot:
    """Stands for an input in the arguments of a call."""

    index: int
    """Index of the input in `Inputs.infos`."""


def model_inputs(model: Any) -> Inputs:
    """The inputs of a built model.

    An input is named by its key if the model takes a dict, else by its input layer. An input of a
    subclassed model is named by the parameter of `call`.

    Raises:
        ExportError: the inputs are not known; the message says what to do.
    """
    functional = functional_of(model)
    if functional is not None:
        return _of_graph(functional)
    called = called_with(model)
    if called is not None:
        return _of_call(model, *called)
    return _of_shapes(model, dict(getattr(model, "_build_shapes_dict", None) or {}))


def input_layer_name(tensor: Any) -> str:
    """The name of the input layer behind a model's symbolic input."""
    return layer_name(producer_of(tensor))


def _of_graph(functional: Any) -> Inputs:
    structure = functional.input
    names = [input_layer_name(x) for x in functional.inputs]
    if isinstance(structure, dict):
        for item in nested_values(structure):
            names[item.position] = item.suffix.removeprefix(":")
    infos = [_info(name, x) for name, x in zip(names, functional.inputs, strict=True)]
    slots = [_Slot(index) for index in range(len(infos))]
    return Inputs(_with_unique_names(infos), [keras.tree.pack_sequence_as(structure, slots)], {})


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


def _of_shapes(model: Any, shapes: Mapping[str, Any]) -> Inputs:
    """The inputs of a subclassed model that was called on data, or built with shapes.

    Args:
        model: the model.
        shapes: the shapes that Keras kept: `{"input_shape": shapes}` for the first argument or, if
            the class defines `build`, by the names of its parameters.

    Raises:
        ExportError: the shapes of some arguments are not known.
    """
    if not shapes and not model.built:
        raise ExportError(
            f"the model {model.name!r} has no inputs yet. Build it first: call it once on a batch, "
            "or give its first layer an input shape."
        )
    symbols = {
        name.removesuffix("_shape"): keras.tree.map_shape_structure(
            # The first axis is the batch: its size in the data does not count.
            lambda shape: keras.KerasTensor((None, *shape[1:]) if shape else ()),
            structure,
        )
        for name, structure in shapes.items()
    }
    parameters = [
        parameter
        for name, parameter in inspect.signature(model.call).parameters.items()
        if name not in ("training", "mask")
    ]
    known = {parameter.name for parameter in parameters[:1]} if len(symbols) == 1 else {*symbols}
    required = [x.name for x in parameters if x.default is x.empty and x.kind not in _VARIABLE]
    missing = [name for name in required if name not in known]
    unknown = known - {parameter.name for parameter in parameters}
    if missing or unknown:
        inputs = ", ".join("keras.Input(...)" for _ in required)
        raise ExportError(
            f"the shapes of all arguments of call({', '.join(required)}) are not known: the model "
            f"{model.name!r} was only called on data, or built with shapes. Call it once on "
            f"symbolic inputs, model({inputs}), before you export it."
        )
    if len(symbols) > 1:
        return _of_call(model, (), symbols, guessed=True)
    return _of_call(model, tuple(symbols.values()), {}, guessed=True)


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""`*args` and `**kwargs`, which may be empty."""
