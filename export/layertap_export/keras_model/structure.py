"""The table of a model's layers: order, names, classes, shapes, and inbound layers.

Names and tensors come from the recorded calls. The order and the inbound edges come from Keras's
own graph if the model has one, so that the table matches `model.summary()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import keras
import tensorflow as tf

from layertap.format.attention_rows import SCORES, SCORES_NAME
from layertap.format.card import TensorInfo
from layertap.format.layer import Attention, Layer, Shape

from .attention import computes_attention, heads_of
from .families import functional_of, is_a, members_of, nodes_of
from .inputs import input_layer_name
from .layer_axes import stated_axes
from .naming import layer_name
from .recording import Call, Recorder


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the table, and its tensor."""

    layer: Layer
    """`layer.tensor` is the layer's name, or for an input layer the name of the model's input;
    `None` if it cannot be exposed."""
    symbol: Any = None
    """The tensor in the traced graph; `None` for an input layer or if it cannot be exposed."""
    finished: int = -1
    """Index in the order in which the calls of the layers end."""
    keras_name: str = ""
    """The name made of Keras's own names only, as layertap 1.2 had it; not unique."""


@dataclass(frozen=True)
class _Edges:
    """What Keras's graph states about one call in addition to the recorded tensors."""

    inbound: list[str | None]
    """For each input tensor, the name of the row that it comes from."""
    shapes: dict[str, Shape]
    """Shape by output name."""


def layer_table(
    model: Any,
    recorder: Recorder,
    graph: Any,
    inputs: Mapping[str, TensorInfo],
    shapes: Sequence[Shape],
) -> tuple[list[Row], list[str | None]]:
    """The rows of `model`, and which rows are its outputs, from one recorded trace.

    The rows are in the order of `model.layers` (including the `keras.ops` operations of a
    Functional model, as in `model.summary()`). Each is followed by the layers inside it. The scores
    of attention come after all layers, so that the indices of these are Keras's.

    Args:
        model: the Keras model.
        recorder: the calls of one trace.
        graph: the traced graph; tensors of inner graphs cannot be exposed.
        inputs: the model's inputs by the names of their input layers.
        shapes: the shapes of all inputs in the trace, in order.

    Returns:
        The rows. And, if the model has a Keras graph, for each output (in Keras's flat order) the
        name of its row, or `None` if no row is that output.
    """
    inside: dict[Call | None, list[Call]] = {}
    for call in [*recorder.calls, *_never_called(model, recorder)]:
        inside.setdefault(call.parent, []).append(call)

    edges: dict[Call, _Edges] = {}
    declared: dict[str, Shape] = {}
    outputs: list[str | None] = []
    fits = True
    for parent in [None, *recorder.calls]:
        functional = functional_of(parent.layer if parent else model)
        if functional is not None:
            sources = _input_sources(functional, parent, edges, inputs)
            given = _given_shapes(parent, sources, declared) if parent else shapes
            # Keras itself does not call a Functional model on other sizes than it states.
            checked = parent is not None and fits and not is_a(parent.layer, "Sequential")
            expected = [tuple(x.shape) for x in functional.inputs]
            fitting = _fits(expected, given, checked)
            fits = fits and (parent is not None or fitting)
            of_graph, returned = _edges(functional, inside.get(parent, []), sources, fitting)
            edges |= of_graph
            for found in of_graph.values():
                declared |= found.shapes
            if parent is None:
                outputs = returned

    rows: list[Row] = []
    counted: set[int] = set()
    exposure = _Exposure(graph)
    attention = [*_score_rows(None, recorder.scores, (), exposure)]
    for item in _in_order(model, inside.get(None, [])):
        if isinstance(item, Call):
            for call in _with_inner(item, inside):
                parameters = 0 if id(call.layer) in counted else _parameters(call.layer)
                counted.add(id(call.layer))
                inbound = _inbound(call, edges.get(call))
                rows += _rows(call, edges.get(call), inbound, parameters, exposure)
                attention += _score_rows(call, call.scores, inbound, exposure)
        elif layer_name(item) in inputs:
            rows.append(_input_row(item, inputs[layer_name(item)]))
    rows += _uniquely_named(attention, recorder)
    rows = [replace(row, layer=replace(row.layer, index=index)) for index, row in enumerate(rows)]
    return rows, outputs


def _never_called(model: Any, recorder: Recorder) -> Iterator[Call]:
    """The layers of subclassed models that are not called; Keras lists them in `model.layers`."""
    called = {id(call.layer) for call in recorder.calls}
    models: dict[int, tuple[Any, Call | None]] = {id(model): (model, None)}
    for call in recorder.calls:
        models.setdefault(id(call.layer), (call.layer, call))
    for owner, parent in models.values():
        if is_a(owner, "Model") and functional_of(owner) is None:
            for layer in owner.layers:
                if id(layer) not in called:
                    called.add(id(layer))
                    yield recorder.never_called(layer, parent)


def _input_sources(
    functional: Any,
    parent: Call | None,
    edges: Mapping[Call, _Edges],
    inputs: Mapping[str, TensorInfo],
) -> list[str | None]:
    """For each input of a graph the name of the row that feeds it, or `None` if no row does."""
    if parent is None:
        names = (input_layer_name(x) for x in functional.inputs)
        return [name if name in inputs else None for name in names]
    inbound: list[str | None] = edges[parent].inbound if parent in edges else [*parent.inbound]
    return inbound if len(inbound) == len(functional.inputs) else [None] * len(functional.inputs)


def _in_order(model: Any, calls: list[Call]) -> list[Any]:
    """The calls directly inside `model`, and its input layers, in the order of `model.layers`."""
    members = members_of(model)
    if members is None:
        return calls  # of a layer: in the order of the calls
    positions = {id(member): index for index, member in enumerate(members)}
    inputs = [member for member in members if is_a(member, "layers.InputLayer")]
    end = len(positions)
    return sorted(
        [*calls, *inputs],
        key=lambda item: positions.get(id(item.layer if isinstance(item, Call) else item), end),
    )


def _with_inner(call: Call, inside: Mapping[Call | None, list[Call]]) -> Iterator[Call]:
    """A call, followed by all calls inside it."""
    yield call
    for inner in _in_order(call.layer, inside.get(call, [])):
        if isinstance(inner, Call):
            yield from _with_inner(inner, inside)


def _edges(
    functional: Any, calls: list[Call], sources: Sequence[str | None], fits: bool
) -> tuple[dict[Call, _Edges], list[str | None]]:
    """The edges that a Functional graph states for its calls, and the rows of its outputs.

    Args:
        functional: the graph; its nodes are in the order in which the calls were made.
        calls: the calls directly inside it.
        sources: for each input of the graph the name of the row that feeds it, or `None`.
        fits: whether the sizes in the graph are those of this trace.
    """
    name_of = {id(symbol): name for symbol, name in zip(functional.inputs, sources, strict=True)}
    pending: dict[int, list[Call]] = {}
    for call in calls:
        pending.setdefault(id(call.layer), []).append(call)

    edges: dict[Call, _Edges] = {}
    for node in nodes_of(functional):
        waiting = pending.get(id(node.layer))
        if not waiting:
            continue
        call = waiting.pop(0)
        outputs = [(x, call.names.get(index)) for index, x in enumerate(node.outputs)]
        edges[call] = _Edges(
            inbound=[name_of.get(id(tensor)) for tensor in node.inputs],
            shapes={
                name: tuple(x.shape) if fits else (None,) * len(x.shape)
                for x, name in outputs
                if name is not None
            },
        )
        name_of.update((id(x), name) for x, name in outputs)
    return edges, [name_of.get(id(tensor)) for tensor in functional.outputs]


def _given_shapes(
    call: Call, sources: Sequence[str | None], declared: Mapping[str, Shape]
) -> list[Shape]:
    """The shapes of the tensors among the arguments of a call, as far as they are known.

    Args:
        call: the call.
        sources: for each of them the name of the row that feeds it, or `None`.
        declared: the shapes that Keras's graphs state, by name of the row.
    """
    shapes = [_type(x)[0] for x in keras.tree.flatten(call.arguments) if tf.is_tensor(x)]
    return [
        _merged(shape, declared.get(source or "", shape))
        for shape, source in zip_longest(shapes, sources[: len(shapes)])
    ]


def _fits(declared: Sequence[Shape], given: Sequence[Shape], checked: bool) -> bool:
    """Whether a graph that was made for inputs of the `declared` shapes has its sizes in a call on
    the `given` ones too.

    A Sequential model that was called on data has the sizes of these data in its graph, and runs
    with others.

    Args:
        declared: the shapes of the inputs in the graph.
        given: the shapes in the call; sizes that are not known are `None`.
        checked: whether Keras checks all sizes but that of the batch.
    """
    return len(declared) <= len(given) and all(
        len(one) == len(other)
        and all(
            size is None or size == actual or (actual is None and checked and axis > 0)
            for axis, (size, actual) in enumerate(zip(one, other, strict=True))
        )
        for one, other in zip(declared, given, strict=False)
    )


def _input_row(layer: Any, info: TensorInfo) -> Row:
    name = layer_name(layer)
    return Row(
        Layer(
            name=name,
            type="InputLayer",
            index=0,
            shape=info.shape,
            dtype=info.dtype,
            parameters=0,
            inbound=(),
            tensor=info.name,
        ),
        keras_name=name,
    )


def _inbound(call: Call, edges: _Edges | None) -> tuple[str, ...]:
    """Names of the rows whose tensors are the inputs of a call."""
    names = edges.inbound if edges else call.inbound
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _rows(
    call: Call,
    edges: _Edges | None,
    inbound: tuple[str, ...],
    parameters: int,
    exposure: _Exposure,
) -> Iterator[Row]:
    """One row for each tensor that a call returned, or one row that says why there is none."""
    outputs = call.outputs or [(call.path, None)]
    whole_call = _why_not_exposed(call)
    if whole_call:  # one row for all outputs: the reason is the same
        outputs = outputs[:1]
    for name, value in outputs:
        declared = edges.shapes.get(name) if edges else None
        why_not = whole_call or exposure.why_not(value, declared)
        shape, dtype = _type(value)
        if declared is not None:
            shape = _merged(shape, declared)
        yield Row(
            Layer(
                name=name,
                type=type(call.layer).__name__,
                index=0,
                shape=shape,
                dtype=dtype,
                parameters=parameters,
                inbound=inbound,
                tensor=None if why_not else name,
                parent=_row_name(call.parent) if call.parent else None,
                why_not=why_not or None,
                axes=stated_axes(call.layer, len(shape)),
            ),
            None if why_not else value,
            call.finished,
            call.keras_path + name.removeprefix(call.path),
        )
        parameters = 0


def _score_rows(
    call: Call | None, scores: Sequence[Any], inbound: tuple[str, ...], exposure: _Exposure
) -> Iterator[Row]:
    """The rows of the scores of attention that a call computed, `None` for those of the model.

    A layer for attention has at least one row, which says why there are none.
    """
    layer = call.layer if call else None
    if not scores and not computes_attention(layer):
        return
    whole_call = _why_not_exposed(call) if call else ""
    of = _row_name(call) if call else ""
    values = scores or [None]
    for value in values[:1] if whole_call else values:
        why_not = whole_call or (exposure.why_not(value, None) if scores else _UNKNOWN)
        shape, dtype = _type(value)
        heads = shape[1] if len(shape) > 1 and heads_of(layer, len(shape)) else None
        yield Row(
            Layer(
                name=f"{call.path}/{SCORES_NAME}" if call else SCORES_NAME,
                type=SCORES,
                index=0,
                shape=shape,
                dtype=dtype,
                parameters=0,
                inbound=inbound,
                tensor=None if why_not else "",
                parent=of or None,
                why_not=why_not or None,
                axes=f"N{'?' * (len(shape) - 1)}" if shape else None,
                attention=Attention(of=of, heads=heads or 0),
            ),
            None if why_not else value,
            call.finished if call else -1,
            f"{call.keras_path}/{SCORES_NAME}" if call else SCORES_NAME,
        )


_UNKNOWN = "the layer computes attention in its own way, and returns no scores"
"""For a subclass that leaves out the method of Keras that returns them."""


def _uniquely_named(rows: Sequence[Row], recorder: Recorder) -> list[Row]:
    """Rows of scores with names that no other row has, and with their tensors."""
    named = []
    for row in rows:
        name = recorder.free_name(row.layer.name)
        tensor = None if row.layer.tensor is None else name
        named.append(replace(row, layer=replace(row.layer, name=name, tensor=tensor)))
    return named


def _why_not_exposed(call: Call) -> str:
    """Why no output of a call can be exposed; empty if that depends on the output."""
    if not call.happened:
        return "the model does not call it in inference"
    outer: Call | None = call
    while outer is not None:
        if outer.in_loop and outer.parent:
            return f"it runs in the loop of {outer.parent.path!r}, once for every step"
        outer = outer.parent
    return ""


def _row_name(call: Call) -> str:
    """The name of a call's first row."""
    return call.outputs[0][0] if call.outputs else call.path


class _Exposure:
    """Decides which values of one traced graph can be exposed."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._vectorised = _inside_vectorised_loops(graph)

    def why_not(self, value: Any, declared: Shape | None) -> str:
        """Why a value that a call returned cannot be exposed; empty if it can.

        Args:
            value: a tensor, or anything else.
            declared: its shape in Keras's graph, which may know more sizes than TensorFlow.
        """
        if value is None:
            return "it returns nothing"
        if not tf.is_tensor(value) or isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
            return f"it returns a value of the class {type(value).__name__!r}, not a dense tensor"
        if tf.TensorShape(value.shape).rank is None and declared is None:
            return "TensorFlow does not know how many axes it has"
        if tf.as_dtype(value.dtype).is_complex:
            return "it holds complex numbers, which onnxruntime does not support"
        graph = getattr(value, "graph", None)  # constants and variables have none
        if graph is not None and graph is not self._graph:
            return _kind_of_graph(graph)
        if graph is not None and value.op.name in self._vectorised:
            return LOOP
        return ""


LOOP = "it runs inside a loop, once per iteration"
BRANCH = "it runs inside one branch of a condition, which may not be taken"
FUNCTION = "it runs inside a separate TensorFlow function"


def _kind_of_graph(graph: Any) -> str:
    """Whether an inner graph of TensorFlow is the body of a loop, a branch, or a function."""
    while graph is not None:
        graph_class = type(graph).__name__
        if graph_class.startswith("While"):
            return LOOP
        if graph_class.startswith("Cond"):
            return BRANCH
        graph = getattr(graph, "outer_graph", None)
    return FUNCTION


def _inside_vectorised_loops(graph: Any) -> set[str]:
    """Names of the operations in the bodies of `tf.vectorized_map`.

    TensorFlow first builds the body for one iteration, in the same graph. All operations that
    depend on the index of the iteration, a placeholder, are part of the body.
    """
    names: set[str] = set()
    pending = [op for op in graph.get_operations() if op.type == "PlaceholderWithDefault"]
    while pending:
        op = pending.pop()
        if op.name not in names:
            names.add(op.name)
            pending += [consumer for output in op.outputs for consumer in output.consumers()]
    return names


def _type(value: Any) -> tuple[Shape, str]:
    """Static shape and dtype of a tensor; `()` and an empty string for any other value."""
    if not tf.is_tensor(value):
        return (), ""
    shape = tf.TensorShape(value.shape)
    return () if shape.rank is None else tuple(shape), tf.as_dtype(value.dtype).name


def _merged(traced: Shape, declared: Shape) -> Shape:
    """The traced shape; free sizes are taken from the shape that Keras inferred."""
    if len(traced) != len(declared):
        return traced or declared
    return tuple(
        inferred if size is None else size for size, inferred in zip(traced, declared, strict=True)
    )


def _parameters(layer: Any) -> int:
    if not is_a(layer, "layers.Layer") or not layer.weights:
        return 0
    return int(layer.count_params())
