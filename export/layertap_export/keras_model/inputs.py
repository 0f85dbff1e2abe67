"""What a Keras model is called with: the names, shapes and dtypes of its inputs, and their places.

A Functional or Sequential model says so itself. A subclassed model does if it was called on
symbolic inputs (`model(keras.Input((4,)))`). If it was called on data only, Keras keeps the shape
of its first argument, and not the dtype.
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

from .families import called_with, functional_of, is_a, is_symbolic, maker_of
from .recording import Call, layer_name, leaves


@dataclass(frozen=True)
class Inputs:
    """The inputs of a model, flat, in Keras's order."""

    infos: tuple[TensorInfo, ...]
    args: Sequence[Any]
    """The positional arguments; a `_Place` stands where an input goes."""
    kwargs: Mapping[str, Any]
    """The named arguments, likewise."""
    guessed: bool = False
    """Whether the dtypes are a guess."""

    def call(self, model: Any, flat: Sequence[Any]) -> Any:
        """Call `model` in inference mode, on tensors or arrays in the order of `infos`."""

        def filled(arguments: Any) -> Any:
            return keras.tree.map_structure(
                lambda x: flat[x.index] if isinstance(x, _Place) else x, arguments
            )

        return model(*filled(self.args), **filled(self.kwargs), training=False)

    def with_indices(self, calls: Sequence[Call], symbols: Sequence[Any]) -> Inputs:
        """Where dtypes are a guess: those that go right into an Embedding are whole numbers.

        Args:
            calls: the recorded calls of a trace.
            symbols: the traced inputs.
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
class _Place:
    index: int


def model_inputs(model: Any) -> Inputs:
    """The inputs of a built model.

    An input is called as in the model's dict of inputs where it has one, else by its input layer;
    an input of a subclassed model by the parameter of `call`.

    Raises:
        ExportError: the model does not know its inputs; the message says what to do.
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
    return layer_name(maker_of(tensor))


def _of_graph(functional: Any) -> Inputs:
    structure = functional.input
    names = [input_layer_name(x) for x in functional.inputs]
    if isinstance(structure, dict):
        for leaf in leaves(structure):
            names[leaf.place] = leaf.suffix.removeprefix(":")
    infos = [_info(name, x) for name, x in zip(names, functional.inputs, strict=True)]
    places = [_Place(index) for index in range(len(infos))]
    return Inputs(_apart(infos), [keras.tree.pack_sequence_as(structure, places)], {})


def _of_call(model: Any, args: Any, kwargs: Mapping[str, Any], guessed: bool = False) -> Inputs:
    """The inputs that a subclassed model was called with: `args` and `kwargs` with symbols."""
    infos: list[TensorInfo] = []

    def placed(name: str, value: Any, alone: bool) -> Any:
        names = {}
        for leaf in leaves(value):
            names[leaf.place] = name + leaf.suffix
            if alone and isinstance(value, dict):
                names[leaf.place] = leaf.suffix.removeprefix(":")
        flat = keras.tree.flatten(value)
        for place, x in enumerate(flat):
            if is_symbolic(x):
                infos.append(_info(names[place], x))
                flat[place] = _Place(len(infos) - 1)
        return keras.tree.pack_sequence_as(value, flat)

    named = {name: value for name, value in kwargs.items() if name != "training"}
    alone = len(args) + len(named) == 1
    names = _positional_names(model, len(args))
    filled = [placed(name, value, alone) for name, value in zip(names, args, strict=True)]
    named = {name: placed(name, value, alone) for name, value in named.items()}
    return Inputs(_apart(infos), filled, named, guessed)


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


def _apart(infos: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """Inputs with names of their own, where keys in keys make up one name twice, or none."""
    names = UniqueNames((), "~", 2)
    return tuple(replace(info, name=names.free(info.name or "input")) for info in infos)


def _of_shapes(model: Any, shapes: Mapping[str, Any]) -> Inputs:
    """The inputs of a subclassed model that was called on data, or built by shapes.

    Args:
        model: the model.
        shapes: what Keras kept: `{"input_shape": shapes}` of the first argument, or, where the
            model has a `build` of its own, by the names of its parameters.
    """
    if not shapes and not model.built:
        raise ExportError(
            f"the model {model.name!r} has no inputs yet. Build it first: call it once on a batch, "
            "or give its first layer an input shape."
        )
    symbols = {
        name.removesuffix("_shape"): keras.tree.map_shape_structure(
            # The first axis is the batch, whatever it was in the data.
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
            f"the model {model.name!r} was only called on data, or built by shapes, and then Keras "
            f"does not keep the shapes of all arguments of call({', '.join(required)}). Call it "
            f"once on symbolic inputs, model({inputs}), and export it then."
        )
    if len(symbols) > 1:
        return _of_call(model, (), symbols, guessed=True)
    return _of_call(model, tuple(symbols.values()), {}, guessed=True)


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""`*args` and `**kwargs`, which may be empty."""
