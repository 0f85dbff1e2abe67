"""The table of a model's layers: their order, names, classes, shapes, and what feeds them.

Names, and the tensors themselves, come from the recorded calls; order and inbound edges come from
Keras's own graph where there is one, so that the table reads like `model.summary()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from layertap.format.layer import Layer, Shape

from .families import functional_of, is_a, members_of, nodes_of
from .inputs import input_layer_name
from .recording import Call, Recorder, layer_name


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table, and the tensor behind it."""

    layer: Layer
    """Its `tensor` is the layer's name, or for an input layer the model input; `None` if it
    cannot be exposed."""
    symbol: Any = None
    """The tensor in the traced graph; `None` for an input layer or if it cannot be exposed."""
    finished: int = -1
    """Place in the order in which the layers end."""


@dataclass(frozen=True)
class _Edges:
    """What Keras's graph knows of one call that the tensors do not tell."""

    inbound: list[str | None]
    """Per tensor that went in the name of the row that it comes from."""
    shapes: dict[str, Shape]
    """By the name of an output."""


def layer_table(
    model: Any, recorder: Recorder, graph: Any, input_names: Mapping[str, str]
) -> tuple[list[Row], list[str | None]]:
    """The rows of `model`, and the names of the rows that are its outputs, from one recorded trace.

    The rows stand in the order of `model.layers` (with the `keras.ops` operations of a Functional
    model among them, as in `model.summary()`), each followed by the layers inside it.

    Args:
        model: the Keras model.
        recorder: holds the calls of one trace.
        graph: the graph that was traced into; a tensor of an inner graph cannot be exposed.
        input_names: ONNX input name by the name of the input layer.

    Returns:
        The rows; and, where the model has a graph, per output (in Keras's flat order) the name of
        the row that it is, `None` where it is none.
    """
    inside: dict[Call | None, list[Call]] = {}
    for call in [*recorder.calls, *_never_called(model, recorder)]:
        inside.setdefault(call.parent, []).append(call)

    edges: dict[Call, _Edges] = {}
    outputs: list[str | None] = []
    for parent in [None, *recorder.calls]:
        functional = functional_of(parent.layer if parent else model)
        if functional is not None:
            fed = _fed(functional, parent, edges, input_names)
            found, returned = _edges(functional, inside.get(parent, []), fed)
            edges |= found
            if parent is None:
                outputs = returned

    rows: list[Row] = []
    counted: set[int] = set()
    reasons = _Reasons(graph)
    for item in _in_order(model, inside.get(None, [])):
        if isinstance(item, Call):
            for call in _with_inner(item, inside):
                parameters = 0 if id(call.layer) in counted else _parameters(call.layer)
                counted.add(id(call.layer))
                rows += _rows(call, edges.get(call), parameters, reasons)
        elif layer_name(item) in input_names:
            rows.append(_input_row(item, input_names[layer_name(item)]))
    rows = [replace(row, layer=replace(row.layer, index=index)) for index, row in enumerate(rows)]
    return rows, outputs


def _never_called(model: Any, recorder: Recorder) -> Iterator[Call]:
    """The layers of subclassed models that nobody calls: Keras counts them among `model.layers`."""
    called = {id(call.layer) for call in recorder.calls}
    models: dict[int, tuple[Any, Call | None]] = {id(model): (model, None)}
    for call in recorder.calls:
        models.setdefault(id(call.layer), (call.layer, call))
    for one, parent in models.values():
        if is_a(one, "Model") and functional_of(one) is None:
            for layer in one.layers:
                if id(layer) not in called:
                    called.add(id(layer))
                    yield recorder.never_called(layer, parent)


def _fed(
    functional: Any,
    parent: Call | None,
    edges: Mapping[Call, _Edges],
    input_names: Mapping[str, str],
) -> list[str | None]:
    """Per input of a graph the row that feeds it, `None` where that is no row."""
    if parent is None:
        names = (input_layer_name(x) for x in functional.inputs)
        return [name if name in input_names else None for name in names]
    given: list[str | None] = edges[parent].inbound if parent in edges else [*parent.inbound]
    return given if len(given) == len(functional.inputs) else [None] * len(functional.inputs)


def _in_order(model: Any, calls: list[Call]) -> list[Any]:
    """The calls directly inside `model`, and its input layers, in the order of `model.layers`."""
    members = members_of(model)
    if members is None:
        return calls  # a layer: the order in which it calls
    place = {id(member): index for index, member in enumerate(members)}
    inputs = [member for member in members if is_a(member, "layers.InputLayer")]
    last = len(place)
    return sorted(
        [*calls, *inputs],
        key=lambda item: place.get(id(item.layer if isinstance(item, Call) else item), last),
    )


def _with_inner(call: Call, inside: Mapping[Call | None, list[Call]]) -> Iterator[Call]:
    yield call
    for inner in _in_order(call.layer, inside.get(call, [])):
        if isinstance(inner, Call):
            yield from _with_inner(inner, inside)


def _edges(
    functional: Any, calls: list[Call], fed: Sequence[str | None]
) -> tuple[dict[Call, _Edges], list[str | None]]:
    """What a Functional graph knows of the calls that it makes, and the names of what it returns.

    Args:
        functional: the graph; its nodes run in the same order as the calls were made.
        calls: the calls directly inside it.
        fed: per input of the graph the name of what goes in, `None` where that is no layer.
    """
    name_of = {id(source): name for source, name in zip(functional.inputs, fed, strict=True)}
    pending: dict[int, list[Call]] = {}
    for call in calls:
        pending.setdefault(id(call.layer), []).append(call)

    edges: dict[Call, _Edges] = {}
    for node in nodes_of(functional):
        waiting = pending.get(id(node.layer))
        if not waiting:
            continue
        call = waiting.pop(0)
        outputs = [(x, call.places.get(place)) for place, x in enumerate(node.outputs)]
        edges[call] = _Edges(
            inbound=[name_of.get(id(tensor)) for tensor in node.inputs],
            shapes={name: tuple(x.shape) for x, name in outputs if name is not None},
        )
        name_of.update((id(x), name) for x, name in outputs)
    return edges, [name_of.get(id(tensor)) for tensor in functional.outputs]


def _input_row(layer: Any, input_name: str) -> Row:
    tensor = layer.output
    return Row(
        Layer(
            name=layer_name(layer),
            type="InputLayer",
            index=0,
            shape=tuple(tensor.shape),
            dtype=tf.as_dtype(tensor.dtype).name,
            parameters=0,
            inbound=(),
            tensor=input_name,
        )
    )


def _rows(call: Call, edges: _Edges | None, parameters: int, reasons: _Reasons) -> Iterator[Row]:
    """One row per tensor that came out, or one that says why there is none."""
    names = edges.inbound if edges else call.inbound
    inbound = tuple(dict.fromkeys(name for name in names if name is not None))
    outputs = call.outputs or [(call.path, None)]
    whole = _why_none(call)
    if whole:  # what else came out is there no more than the first
        outputs = outputs[:1]
    for name, value in outputs:
        declared = edges.shapes.get(name) if edges else None
        why_not = whole or reasons.against(value, declared)
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
            ),
            None if why_not else value,
            call.finished,
        )
        parameters = 0


def _why_none(call: Call) -> str:
    """Why nothing of a call can be exposed; empty where that depends on what came out."""
    if not call.happened:
        return "the model does not call it in inference"
    around: Call | None = call
    while around is not None:
        if around.in_loop and around.parent:
            return f"it runs in the loop of {around.parent.path!r}, once for every step"
        around = around.parent
    return ""


def _row_name(call: Call) -> str:
    """The name of a call's first row."""
    return call.outputs[0][0] if call.outputs else call.path


class _Reasons:
    """Why some values cannot be exposed."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._vectorised = _inside_vectorised_loops(graph)

    def against(self, value: Any, declared: Shape | None) -> str:
        """Why a value that came out of a call cannot be exposed; empty if it can.

        Args:
            value: a tensor, or something else.
            declared: its shape according to Keras's graph, which may know more than TensorFlow.
        """
        if value is None:
            return "it returns nothing"
        if not tf.is_tensor(value) or isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
            return f"it returns no dense tensor, but a value of the class {type(value).__name__!r}"
        if tf.TensorShape(value.shape).rank is None and declared is None:
            return "TensorFlow does not know how many axes it has"
        if tf.as_dtype(value.dtype).is_complex:
            return "it holds complex numbers, which onnxruntime does not know"
        graph = getattr(value, "graph", None)  # a constant or a variable has none
        if graph is not None and graph is not self._graph:
            return _inside(graph)
        if graph is not None and value.op.name in self._vectorised:
            return LOOP
        return ""


LOOP = "it runs inside a loop, once for every turn"
BRANCH = "it runs inside one branch of a condition, which may not be taken"
FUNCTION = "it runs inside a TensorFlow function of its own"


def _inside(graph: Any) -> str:
    """What an inner graph of TensorFlow is."""
    while graph is not None:
        kind = type(graph).__name__
        if kind.startswith("While"):
            return LOOP
        if kind.startswith("Cond"):
            return BRANCH
        graph = getattr(graph, "outer_graph", None)
    return FUNCTION


def _inside_vectorised_loops(graph: Any) -> set[str]:
    """Names of the operations in the bodies of `tf.vectorized_map`.

    TensorFlow builds these for one step first, in the same graph; they hang on the step's number.
    """
    found: set[str] = set()
    waiting = [op for op in graph.get_operations() if op.type == "PlaceholderWithDefault"]
    while waiting:
        op = waiting.pop()
        if op.name not in found:
            found.add(op.name)
            waiting += [consumer for output in op.outputs for consumer in output.consumers()]
    return found


def _type(value: Any) -> tuple[Shape, str]:
    """Static shape and dtype of a tensor; of anything else, none."""
    if not tf.is_tensor(value):
        return (), ""
    shape = tf.TensorShape(value.shape)
    return () if shape.rank is None else tuple(shape), tf.as_dtype(value.dtype).name


def _merged(traced: Shape, declared: Shape) -> Shape:
    """The traced shape, with sizes that only Keras's own shape inference knew filled in."""
    if len(traced) != len(declared):
        return traced or declared
    return tuple(
        other if size is None else size for size, other in zip(traced, declared, strict=True)
    )


def _parameters(layer: Any) -> int:
    if not is_a(layer, "layers.Layer") or not layer.weights:
        return 0
    return int(layer.count_params())
