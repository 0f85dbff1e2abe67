"""Tracing a Keras model once, into a TensorFlow function that returns every layer's tensor."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from layertap.errors import LayertapError
from layertap.format.card import TensorInfo
from layertap.format.layer import Layer
from layertap_export.errors import ExportError, keras_words
from layertap_export.graph.unique_names import UniqueNames

from .families import functional_of, is_a
from .inputs import Inputs, input_layer_name, model_inputs
from .recording import SCOPE, Leaf, Recorder, leaves
from .structure import Row, layer_table
from .traceable import traceable


@dataclass(frozen=True, eq=False)
class Trace:
    """A model seen from outside (inputs, outputs) and inside (rows), and the traced function."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    rows: tuple[Row, ...]
    scopes: Mapping[str, str]
    """Names of layers, by the TensorFlow scopes in which their operations are."""
    function: Any
    """Concrete function; takes the inputs in order, returns the model's outputs, and then the
    symbols of all rows that have one."""
    runs: bool
    """Whether TensorFlow can run `function`, which may be for conversion only."""


def trace(model: Any, only: Container[str] | None = None, *, to_run: bool = False) -> Trace:
    """Trace a built Keras model in inference mode.

    Args:
        model: the Keras model.
        only: names of the rows whose symbols are wanted; by default all.
        to_run: make a function that surely runs; it may not be fit for conversion.

    Raises:
        ExportError: the model does not know its inputs, returns what is no tensor, or Keras cannot
            call it.
    """
    inputs = model_inputs(model)
    traced, better = _traced(model, inputs, only, to_run)
    return traced if better == inputs else _traced(model, better, only, to_run)[0]


def returned(model: Any, inputs: Inputs, flat: Sequence[Any]) -> list[Leaf]:
    """What the model itself gives: the suffix of each leaf names an output of a dict.

    What layers would keep for the next call is dropped.

    Args:
        model: the Keras model.
        inputs: its inputs.
        flat: tensors or arrays for them.

    Raises:
        ExportError: something that is no tensor.
    """
    with keras.StatelessScope():
        result = inputs.call(model, flat)
    named = isinstance(result, dict) or hasattr(result, "_fields")
    found = []
    for leaf in leaves(result):
        if leaf.value is None:
            continue
        if isinstance(leaf.value, (tf.RaggedTensor, tf.SparseTensor)):
            raise ExportError(
                f"the model {model.name!r} returns a {type(leaf.value).__name__}, which ONNX does "
                "not know. Export a model that returns a dense tensor."
            )
        name = leaf.suffix.removeprefix(":") if named else ""
        found.append(Leaf(name, leaf.place, tf.convert_to_tensor(leaf.value)))
    if not found:
        raise ExportError(f"the model {model.name!r} returns no tensor.")
    return found


def _traced(
    model: Any, inputs: Inputs, only: Container[str] | None, to_run: bool
) -> tuple[Trace, Inputs]:
    """The trace; and the inputs, with dtypes that are known better after it."""
    # A Sequential model hides its input layer from its table.
    own = model.inputs if functional_of(model) is model and not is_a(model, "Sequential") else []
    input_names = {
        input_layer_name(x): info.name for x, info in zip(own, inputs.infos, strict=False)
    }
    seen: list[tuple[Any, ...]] = []

    def call(*flat: Any) -> list[Any]:
        recorder = Recorder(reserved=input_names)
        with recorder.recording():
            results = returned(model, inputs, flat)
        graph = tf.compat.v1.get_default_graph()
        rows, row_names = layer_table(model, recorder, graph, input_names)
        sources = _sources(rows, row_names, results, recorder)
        outputs = _outputs(inputs.infos, results, sources)
        rows = _named_apart(inputs.infos, rows, outputs, sources)
        if only is not None:
            rows = [x if x.layer.name in only else replace(x, symbol=None) for x in rows]
        scopes = {f"{SCOPE}{call.number}": call.path for call in recorder.calls}
        seen.append((outputs, rows, scopes, inputs.with_indices(recorder.calls, flat)))
        symbols = [row.symbol for row in rows if row.symbol is not None]
        # A tensor that is there twice must come back twice.
        return [tf.identity(tensor) for tensor in [*(x.value for x in results), *symbols]]

    function, runs = _concrete(model, inputs, call, to_run)
    # TensorFlow traces again where weights were made on the way: while layers are built Keras calls
    # those inside once more.
    outputs, rows, scopes, better = seen[-1]
    return Trace(inputs.infos, outputs, tuple(rows), scopes, function, runs), better


def _concrete(
    model: Any, inputs: Inputs, call: Callable[..., Any], to_run: bool
) -> tuple[Any, bool]:
    """`call` traced on symbols for the inputs, and whether it can be run."""
    specs = [
        # Keras names may hold what TensorFlow scopes may not; the file gets the real ones.
        tf.TensorSpec(info.shape, info.dtype, name=f"input_{index}")
        for index, info in enumerate(inputs.infos)
    ]
    function = tf.function(call, input_signature=specs, autograph=False)
    try:
        with traceable(to_run) as taken_apart:
            return function.get_concrete_function(), not taken_apart
    except LayertapError:
        raise
    except Exception as exc:
        hint = (
            " Its inputs were taken for floating point, because it was only called on data: if "
            "they are not, call it once on keras.Input(..., dtype=...)."
            if inputs.guessed
            else ""
        )
        raise ExportError(
            f"Keras cannot trace the model {model.name!r}: {keras_words(exc)}{hint}"
        ) from exc


def _sources(
    rows: Sequence[Row],
    row_names: Sequence[str | None],
    results: Sequence[Leaf],
    recorder: Recorder,
) -> list[Layer | None]:
    """Per output of the model the layer whose tensor it is, if there is one.

    Args:
        rows: the table.
        row_names: what Keras's graph says, by place.
        results: the outputs.
        recorder: knows which layer last put out a tensor.
    """
    by_name = {row.layer.name: row for row in rows}
    found: list[Layer | None] = []
    for leaf in results:
        said = row_names[leaf.place] if leaf.place < len(row_names) else None
        candidates = [by_name.get(name or "") for name in (said, recorder.writer(leaf.value))]
        found.append(
            next(
                (
                    row.layer
                    for row in candidates
                    if row
                    and row.layer.exposed
                    and (row.symbol is leaf.value or row.symbol is None)
                ),
                None,
            )
        )
    return found


def _outputs(
    inputs: Sequence[TensorInfo], results: Sequence[Leaf], sources: Sequence[Layer | None]
) -> tuple[TensorInfo, ...]:
    """The model's own outputs: by the keys of its dict, else by the layers that they come from."""
    names = UniqueNames([info.name for info in inputs], "~", 2)
    taken = {info.name for info in inputs}
    infos = []
    for index, (leaf, source) in enumerate(zip(results, sources, strict=True)):
        wanted = leaf.suffix or (source.name if source else f"output_{index}")
        name = names.free(f"output/{wanted}" if wanted in taken else wanted)
        if source is None and leaf.value.shape.rank is None:
            raise ExportError(
                f"TensorFlow does not know how many axes the model's output {name!r} has. Let a "
                "layer say it, with keras.ops.reshape, say."
            )
        shape = source.shape if source else tuple(leaf.value.shape)
        infos.append(TensorInfo(name=name, shape=shape, dtype=leaf.value.dtype.name))
    return tuple(infos)


def _named_apart(
    inputs: Sequence[TensorInfo],
    rows: Sequence[Row],
    outputs: Sequence[TensorInfo],
    sources: Sequence[Layer | None],
) -> list[Row]:
    """Let a layer give way to an input, and to an output of another layer, that bears its name."""
    taken = {info.name for info in [*inputs, *outputs]}
    own = {
        info.name
        for info, source in zip(outputs, sources, strict=True)
        if source and source.name == info.name
    }
    names = UniqueNames(taken | {row.layer.name for row in rows}, "~", 2)
    renamed = []
    for row in rows:
        name = row.layer.name
        if row.symbol is not None and name in taken - own:
            row = replace(row, layer=replace(row.layer, tensor=names.free(f"layer/{name}")))
        renamed.append(row)
    return renamed
