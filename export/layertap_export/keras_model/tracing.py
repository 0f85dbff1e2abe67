"""Trace a Keras model once, into a TensorFlow function that returns the tensor of every layer."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
from keras.src.utils.backend_utils import TFGraphScope

from layertap.errors import LayertapError
from layertap.format.card import TensorInfo
from layertap.format.layer import Layer
from layertap_export.errors import ExportError, keras_words
from layertap_export.graph.unique_names import UniqueNames

from .families import functional_of, is_a
from .inputs import Inputs, input_layer_name, model_inputs
from .recording import SCOPE, Call, NestedValue, Recorder, nested_values
from .recurrence import Loop
from .structure import Row, layer_table
from .traceable import Changes, kept_states, traceable


@dataclass(frozen=True, eq=False)
class Trace:
    """A model's inputs and outputs, its table of layers, and the traced function."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    rows: tuple[Row, ...]
    scopes: Mapping[str, str]
    """Layer name by the TensorFlow name scope that contains the layer's operations."""
    function: Any
    """Concrete function. It takes the inputs in order, and returns the model's outputs, followed by
    the symbols of all rows that have one."""
    runs: bool
    """Whether TensorFlow can run `function`; if not, it is for conversion only."""
    notes: tuple[str, ...] = ()
    """What a reader of the file should know about the trace."""


def trace(
    model: Any,
    only: Container[str] | None = None,
    *,
    inputs: Inputs | None = None,
    to_run: bool = False,
) -> Trace:
    """Trace a built Keras model in inference mode.

    Args:
        model: the Keras model.
        only: names of the rows whose symbols to return; by default all.
        inputs: its inputs; by default, what it states.
        to_run: make a function that TensorFlow can run; it may not be suitable for conversion.

    Raises:
        ExportError: the model's inputs are not known, it returns something that is not a tensor, or
            Keras cannot call it.
    """
    return trace_and_inputs(model, inputs or model_inputs(model), only, to_run=to_run)[0]


def trace_and_inputs(
    model: Any, inputs: Inputs, only: Container[str] | None = None, *, to_run: bool = False
) -> tuple[Trace, Inputs]:
    """The trace of a model, and the inputs with the dtypes that a first trace corrected."""
    traced, corrected = _traced(model, inputs, only, to_run)
    if corrected != inputs:
        traced, corrected = _traced(model, corrected, only, to_run)
    return traced, corrected


def returned(model: Any, inputs: Inputs, flat: Sequence[Any]) -> list[NestedValue]:
    """The tensors that the model returns; for a dict, `suffix` holds the key of each.

    The state of the layers does not change. Layers for preprocessing compute as in a TensorFlow
    graph, also in an eager call: there Keras would keep the dtype of the input.

    Args:
        model: the Keras model.
        inputs: its inputs.
        flat: a tensor or array for each input, in order.

    Raises:
        ExportError: the model returns a sparse or ragged tensor, or no tensor.
    """
    with kept_states(), TFGraphScope():
        result = inputs.call(model, flat)
    named = isinstance(result, dict) or hasattr(result, "_fields")
    tensors = []
    for item in nested_values(result):
        if item.value is None:
            continue
        if isinstance(item.value, (tf.RaggedTensor, tf.SparseTensor)):
            raise ExportError(
                f"the model {model.name!r} returns a {type(item.value).__name__}, which ONNX does "
                "not support. Export a model that returns a dense tensor."
            )
        key = item.suffix.removeprefix(":") if named else ""
        tensors.append(NestedValue(key, item.position, tf.convert_to_tensor(item.value)))
    if not tensors:
        raise ExportError(f"the model {model.name!r} returns no tensor.")
    return tensors


def _traced(
    model: Any, inputs: Inputs, only: Container[str] | None, to_run: bool
) -> tuple[Trace, Inputs]:
    """The trace, and the inputs with the dtypes that the trace corrected."""
    # Sequential models do not list their input layer.
    own = model.inputs if functional_of(model) is model and not is_a(model, "Sequential") else []
    by_layer = {input_layer_name(x): info for x, info in zip(own, inputs.infos, strict=False)}
    shapes = [info.shape for info in inputs.infos]
    traces: list[tuple[Any, ...]] = []

    def call(*flat: Any) -> list[Any]:
        recorder = Recorder(reserved=by_layer)
        with recorder.recording():
            results = returned(model, inputs, flat)
        graph = tf.compat.v1.get_default_graph()
        rows, row_names = layer_table(model, recorder, graph, by_layer, shapes)
        sources = _sources(rows, row_names, results, recorder)
        outputs = _outputs(inputs.infos, results, sources)
        rows = _with_unique_tensors(inputs.infos, rows, outputs, sources)
        if only is not None:
            rows = [x if x.layer.name in only else replace(x, symbol=None) for x in rows]
        corrected = inputs.with_indices(recorder.calls, flat)
        traces.append((outputs, rows, recorder.calls, corrected))
        symbols = [row.symbol for row in rows if row.symbol is not None]
        # A tensor that occurs twice must be returned twice.
        return [tf.identity(tensor) for tensor in [*(x.value for x in results), *symbols]]

    function, changes = _concrete(model, inputs, call, to_run)
    # TensorFlow traces a second time if weights were created during the first trace. In that first
    # trace Keras called inner layers once more, to build them.
    outputs, rows, calls, corrected = traces[-1]
    result = Trace(
        inputs=inputs.infos,
        outputs=outputs,
        rows=tuple(rows),
        scopes={f"{SCOPE}{call.number}": call.path for call in calls},
        function=function,
        runs=changes.runs,
        notes=tuple(_loop_notes(changes.loops, calls)),
    )
    return result, corrected


def _loop_notes(loops: Sequence[Loop], calls: Sequence[Call]) -> Iterator[str]:
    """A note for each recurrent layer that stays a loop."""
    reasons = {id(loop.layer): loop.reason for loop in loops}
    for call in calls:
        reason = reasons.pop(id(call.layer), None)
        if reason is not None:
            yield (
                f"layer {call.path!r} runs as an ONNX Loop, which is slower than an operator: "
                f"{reason}."
            )


def _concrete(
    model: Any, inputs: Inputs, call: Callable[..., Any], to_run: bool
) -> tuple[Any, Changes]:
    """`call` traced on symbolic inputs, and what was changed for that."""
    specs = [
        # Keras allows characters that TensorFlow scopes do not; the file has the original names.
        tf.TensorSpec(info.shape, info.dtype, name=f"input_{index}")
        for index, info in enumerate(inputs.infos)
    ]
    function = tf.function(call, input_signature=specs, autograph=False)
    try:
        with traceable(to_run) as changes:
            return function.get_concrete_function(), changes
    except LayertapError:
        raise
    except Exception as exc:
        hint = (
            " Its inputs were assumed to be floating point, because it was only called on data. If "
            "they are not, say so with --input NAME=SHAPE:DTYPE (in Python: inputs=)."
            if inputs.guessed
            else ""
        )
        raise ExportError(
            f"Keras cannot trace the model {model.name!r}: {keras_words(exc)}{hint}"
        ) from exc


def _sources(
    rows: Sequence[Row],
    row_names: Sequence[str | None],
    results: Sequence[NestedValue],
    recorder: Recorder,
) -> list[Layer | None]:
    """For each output of the model, the layer that returns the same tensor; `None` if none does.

    Args:
        rows: the table of layers.
        row_names: for each output in Keras's flat order, the row that Keras's graph states.
        results: the outputs.
        recorder: the recorded calls.
    """
    by_name = {row.layer.name: row for row in rows}
    sources: list[Layer | None] = []
    for item in results:
        stated = row_names[item.position] if item.position < len(row_names) else None
        candidates = [by_name.get(name or "") for name in (stated, recorder.name_of(item.value))]
        sources.append(
            next(
                (
                    row.layer
                    for row in candidates
                    if row
                    and row.layer.exposed
                    and (row.symbol is item.value or row.symbol is None)
                ),
                None,
            )
        )
    return sources


def _outputs(
    inputs: Sequence[TensorInfo], results: Sequence[NestedValue], sources: Sequence[Layer | None]
) -> tuple[TensorInfo, ...]:
    """The model's own outputs, named by the keys of its dict, else by the layers they come from.

    Raises:
        ExportError: the rank of an output is not known.
    """
    names = UniqueNames([info.name for info in inputs], "~", 2)
    taken = {info.name for info in inputs}
    infos = []
    for index, (item, source) in enumerate(zip(results, sources, strict=True)):
        wanted = item.suffix or (source.name if source else f"output_{index}")
        name = names.free(f"output/{wanted}" if wanted in taken else wanted)
        if source is None and item.value.shape.rank is None:
            raise ExportError(
                f"TensorFlow does not know how many axes the model's output {name!r} has. Set its "
                "shape in a layer, for example with keras.ops.reshape."
            )
        shape = source.shape if source else tuple(item.value.shape)
        infos.append(TensorInfo(name=name, shape=shape, dtype=item.value.dtype.name))
    return tuple(infos)


def _with_unique_tensors(
    inputs: Sequence[TensorInfo],
    rows: Sequence[Row],
    outputs: Sequence[TensorInfo],
    sources: Sequence[Layer | None],
) -> list[Row]:
    """The rows, with another tensor name for each layer that shares its name with an input, or with
    an output that is not this layer's."""
    taken = {info.name for info in [*inputs, *outputs]}
    layer_outputs = {
        info.name
        for info, source in zip(outputs, sources, strict=True)
        if source and source.name == info.name
    }
    names = UniqueNames(taken | {row.layer.name for row in rows}, "~", 2)
    unique = []
    for row in rows:
        name = row.layer.name
        if row.symbol is not None and name in taken - layer_outputs:
            row = replace(row, layer=replace(row.layer, tensor=names.free(f"layer/{name}")))
        unique.append(row)
    return unique
