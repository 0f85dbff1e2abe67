"""Tracing a Keras model once, into a TensorFlow function that returns every layer's tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from layertap.card import TensorInfo
from layertap.errors import LayertapError

from .errors import ExportError
from .families import inputs_of, is_a
from .recording import Recorder, named_leaves
from .structure import Row, input_layer_name, layer_table


@dataclass(frozen=True, eq=False)
class Trace:
    """A model seen from outside (inputs, outputs) and inside (rows), and the traced function."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    rows: tuple[Row, ...]
    function: Any
    """Concrete function; takes the inputs in order, returns the model's outputs, and then the
    symbols of all rows that have one."""


def trace(model: Any) -> Trace:
    """Trace a built Keras model in inference mode.

    Raises:
        ExportError: the model has no inputs yet (it was never built), or Keras cannot call it.
    """
    inputs = model_inputs(model)
    specs = [
        # Keras names may hold what TensorFlow scopes may not; the file gets the real ones.
        tf.TensorSpec(info.shape, info.dtype, name=f"input_{index}")
        for index, info in enumerate(inputs)
    ]
    # A Sequential model hides its input layer from its table.
    own = [] if is_a(model, "Sequential") else getattr(model, "inputs", None) or []
    input_names = {input_layer_name(x): info.name for x, info in zip(own, inputs, strict=False)}
    seen: list[tuple[tuple[TensorInfo, ...], tuple[Row, ...]]] = []

    def call(*flat: Any) -> list[Any]:
        recorder = Recorder()
        with recorder.recording():
            result = model(packed(model, flat), training=False)
        returned = named_leaves(result)
        graph = tf.compat.v1.get_default_graph()
        rows, output_names = layer_table(model, recorder, graph, input_names)
        _check_names(inputs, rows)
        outputs = _outputs(rows, returned, output_names)
        rows = [_renamed(row, outputs, output_names) for row in rows]
        seen.append((outputs, tuple(rows)))
        symbols = [row.symbol for row in rows if row.symbol is not None]
        # A tensor that is there twice must come back twice.
        return [tf.identity(tensor) for tensor in [*(t for _, t in returned), *symbols]]

    function = tf.function(call, input_signature=specs, autograph=False)
    try:
        with _inlined_functions():
            concrete = function.get_concrete_function()
    except LayertapError:
        raise
    except Exception as exc:
        raise ExportError(f"Keras cannot trace the model {model.name!r}: {_words(exc)}") from exc
    return Trace(inputs, *seen[-1], concrete)


def _words(error: Exception) -> str:
    """Keras's message in one line, without what colours it on a terminal."""
    return " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())


def model_inputs(model: Any) -> tuple[TensorInfo, ...]:
    """The model's inputs, flat, in Keras's order: names, shapes and dtypes.

    An input is called as in the model's dict of inputs where it has one, else by its input layer.
    """
    structure = inputs_of(model)
    if structure is None:
        raise ExportError(
            f"the model {model.name!r} has no inputs yet. Build it first: call it once on a batch, "
            "or give its first layer an input shape."
        )
    symbols = keras.tree.flatten(structure)
    names = sorted(structure) if isinstance(structure, dict) else list(map(_input_name, symbols))
    return tuple(
        TensorInfo(name=name, shape=tuple(x.shape), dtype=tf.as_dtype(x.dtype).name)
        for name, x in zip(names, symbols, strict=True)
    )


def _input_name(symbol: Any) -> str:
    return input_layer_name(symbol) if hasattr(symbol, "_keras_history") else symbol.name


def packed(model: Any, flat: Sequence[Any]) -> Any:
    """Flat inputs in the structure (one tensor, list, dict) that the model is called with."""
    structure = inputs_of(model)
    if len(flat) == 1 and not isinstance(structure, dict):
        return flat[0]
    return keras.tree.pack_sequence_as(structure, list(flat))


@contextmanager
def _inlined_functions() -> Iterator[None]:
    """Run nested `tf.function`s as plain Python, so that their operations land in our graph.

    Keras wraps grouped convolutions in one with jit compilation, which tf2onnx leaves standing as
    a `StatefulPartitionedCall`.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _outputs(
    rows: Sequence[Row], returned: Sequence[tuple[str, Any]], names: Sequence[str | None]
) -> tuple[TensorInfo, ...]:
    """The model's own outputs: by the keys of its dict, else by the layers that they come from."""
    layers = {row.layer.name: row.layer for row in rows}
    infos = []
    for index, (suffix, tensor) in enumerate(returned):
        layer = layers.get(names[index] or "") if index < len(names) else None
        key = suffix.lstrip(":")
        name = key if key and not key.isdigit() else layer.name if layer else f"output_{index}"
        shape = layer.shape if layer else tuple(tensor.shape)
        infos.append(TensorInfo(name=name, shape=shape, dtype=tensor.dtype.name))
    return tuple(infos)


def _renamed(row: Row, outputs: Sequence[TensorInfo], output_names: Sequence[str | None]) -> Row:
    """Let a layer give way to an output of another layer that bears its name."""
    name = row.layer.name
    clash = any(
        info.name == name != source for info, source in zip(outputs, output_names, strict=False)
    )
    return replace(row, layer=replace(row.layer, tensor=f"layer/{name}")) if clash else row


def _check_names(inputs: Sequence[TensorInfo], rows: Sequence[Row]) -> None:
    taken = {info.name for info in inputs}
    for row in rows:
        if row.symbol is not None and row.layer.name in taken:
            raise ExportError(
                f"a layer and an input of this model are both called {row.layer.name!r}; "
                "rename one of them."
            )
