"""The table of a model's layers: their order, names, classes, shapes, and what feeds them.

Names, and the tensors themselves, come from the recorded calls; order and inbound edges come from
Keras's own graph where there is one, so that the table reads like `model.summary()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from layertap._layer import Layer, Shape

from .errors import ExportError
from .families import functional_of, is_a, maker_of, members_of, nodes_of
from .recording import Call, Recorder


@dataclass(frozen=True, eq=False)
class Row:
    """One line of the table, and the tensor behind it."""

    layer: Layer
    """Its `tensor` is the layer's name, or for an input layer the model input; `None` if it
    cannot be exposed."""
    symbol: Any = None
    """The tensor in the traced graph; `None` for an input layer or if it cannot be exposed."""
    why_not: str = ""
    """Why it cannot be exposed."""
    finished: int = -1
    """Place in the order in which the layers end."""


@dataclass(frozen=True)
class _Edges:
    """What Keras's graph knows of one call that the tensors do not tell."""

    inbound: list[str]
    shapes: list[Shape]


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
    """
    inside: dict[Call | None, list[Call]] = {}
    for call in recorder.calls:
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
    for item in _in_order(model, inside.get(None, [])):
        if isinstance(item, Call):
            for call in _with_inner(item, inside):
                rows += _rows(call, edges.get(call), graph)
        elif item.name in input_names:
            rows.append(_input_row(item, input_names[item.name]))
    _check_unique(rows)
    rows = [replace(row, layer=replace(row.layer, index=index)) for index, row in enumerate(rows)]
    return rows, outputs


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
    given = (edges.get(parent) or parent).inbound
    return [*given] if len(given) == len(functional.inputs) else [None] * len(functional.inputs)


def input_layer_name(tensor: Any) -> str:
    """The name of the input layer behind a model's symbolic input."""
    name: str = maker_of(tensor).name
    return name


def _in_order(model: Any, calls: list[Call]) -> list[Any]:
    """The calls directly inside `model`, and its input layers, in the order of `model.layers`."""
    members = members_of(model)
    if members is None:
        return calls  # a subclassed model: the order in which it calls
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
    """Inbound names and static shapes of the calls that a Functional graph makes, and the names
    of what it returns.

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
        known = (name_of.get(id(tensor)) for tensor in node.inputs)
        edges[call] = _Edges(
            inbound=list(dict.fromkeys(name for name in known if name is not None)),
            shapes=[tuple(getattr(tensor, "shape", None) or ()) for tensor in node.outputs],
        )
        for tensor, (name, _) in zip(node.outputs, call.outputs, strict=False):
            name_of[id(tensor)] = name
    return edges, [name_of.get(id(tensor)) for tensor in functional.outputs]


def _input_row(layer: Any, input_name: str) -> Row:
    tensor = layer.output
    return Row(
        Layer(
            name=layer.name,
            type="InputLayer",
            index=0,
            shape=tuple(tensor.shape),
            dtype=tf.as_dtype(tensor.dtype).name,
            parameters=0,
            inbound=(),
            tensor=input_name,
        )
    )


def _rows(call: Call, edges: _Edges | None, graph: Any) -> Iterator[Row]:
    for leaf, (name, tensor) in enumerate(call.outputs):
        why_not = _why_not(tensor, graph)
        shape: Shape = _static_shape(tensor)
        if edges and leaf < len(edges.shapes):
            shape = _merged(shape, edges.shapes[leaf])
        first = leaf == 0 and call.repeat == 0
        yield Row(
            Layer(
                name=name,
                type=type(call.layer).__name__,
                index=0,
                shape=shape,
                dtype=tensor.dtype.name if isinstance(tensor, tf.Tensor) else "",
                parameters=_parameters(call.layer) if first else 0,
                inbound=tuple(edges.inbound if edges else call.inbound),
                tensor=None if why_not else name,
            ),
            None if why_not else tensor,
            why_not,
            call.finished,
        )


def _why_not(tensor: Any, graph: Any) -> str:
    if not isinstance(tensor, tf.Tensor):
        return f"it is a {type(tensor).__name__}, not a dense tensor"
    if tensor.graph is not graph:
        return "it lives inside a loop, once per step"
    return ""


def _static_shape(tensor: Any) -> Shape:
    shape = getattr(tensor, "shape", None)
    return () if shape is None or shape.rank is None else tuple(shape)


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


def _check_unique(rows: list[Row]) -> None:
    names: set[str] = set()
    for row in rows:
        if row.layer.name in names:
            raise ExportError(
                f"two outputs in this model are called {row.layer.name!r}; rename one of the "
                "layers, so that each can be asked for by name."
            )
        names.add(row.layer.name)
