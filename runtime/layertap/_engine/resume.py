"""Resuming a run from given activations, and editing activations during a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from layertap._cut import boundary
from layertap._cut.plan import Leaf, view
from layertap.errors import UsageError
from layertap.format.graph import TensorType
from layertap.format.layer import Layer

from .feeds import prepare_layer
from .program import Program, dtype_name
from .request import Asked, Request

if TYPE_CHECKING:
    from .feeds import Recipe


def resume(
    program: Program, given: Mapping[Any, Any], asked: Asked, preprocess: Recipe | None
) -> Any:
    """See `Model.resume`."""
    request = _request(program, asked)
    graph = program.graph
    known = boundary.split_given(graph, program.layers, given)
    names = {tensor: layer.name for tensor, (layer, _) in known.layers.items()}
    plan = program.plan(request.tensors, tuple(names), request.appended)
    boundary.check_apart(plan, names, known.inputs)
    boundary.check_separates(graph, program.layers, plan, names, known.inputs)
    feeds = program.prepare_arrays(plan.needs, known.inputs, preprocess)
    for tensor, (layer, value) in known.layers.items():
        leaf = plan.given[tensor]
        feeds[leaf.source] = _as_source(layer, leaf, value)
    if program.card:
        boundary.check_batch(
            [layer for layer, _ in known.layers.values()], feeds, plan, graph, program.batch
        )
    fetch = program.fetch(request.tensors, feeds, tuple(names), request.appended)
    return request.collect(fetch(feeds))


def edit(
    program: Program,
    inputs: Any,
    changes: Mapping[Any, Callable[[Any], Any]],
    asked: Asked,
    preprocess: Recipe | None,
) -> Any:
    """See `Model.edit`."""
    request = _request(program, asked)
    graph = program.graph
    edits = boundary.edits(graph, boundary.split_given(graph, program.layers, changes))
    boundary.check_edits(graph, edits, program.plan(request.tensors, (), request.appended))
    sources = [*dict.fromkeys([*request.tensors, *edits])]
    needs = program.plan(sources, (), request.appended).needs
    feeds = program.prepare_arrays(needs, inputs, preprocess)
    while edits:
        sources = [*dict.fromkeys([*request.tensors, *edits])]
        plan = program.plan(sources, tuple(feeds), request.appended)
        ready = boundary.earliest(graph, edits)
        bypassing = boundary.bypassing(graph, plan, edits.keys()) - feeds.keys()
        wanted = [*ready, *sorted(bypassing - ready)]
        found = program.fetch(wanted, feeds, tuple(feeds))(feeds)
        # A value that is not an array (a sequence) cannot be fed, and is computed again.
        feeds |= {name: value for name, value in found.items() if hasattr(value, "dtype")}
        for source in ready:
            change = edits.pop(source)
            if source not in feeds:
                raise UsageError(f"{change.name!r} is not an array and cannot be changed.")
            feeds[source] = _changed(program, change, feeds[source])
    fetch = program.fetch(request.tensors, feeds, tuple(feeds), request.appended)
    return request.collect(fetch(feeds))


def _request(program: Program, asked: Asked) -> Request:
    return program.request_outputs() if asked is None else program.request(asked)


def _as_source(layer: Layer, leaf: Leaf, value: Any) -> Any:
    spec = TensorType(layer.dtype, layer.shape if layer.dtype else None)
    return prepare_layer(f"layer {layer.name!r}", value, spec, leaf)


def _changed(program: Program, edit: boundary.Edit, value: Any) -> Any:
    if edit.source in program.graph.listed:
        value = value.copy()  # it may be the caller's own
    seen = view(value, edit.leaf.perms)
    changed = edit.function(seen)
    if changed is None:
        raise UsageError(
            f"the function for {edit.name!r} returned None; it must return the activation."
        )
    label = f"the result of the function for {edit.name!r}"
    return prepare_layer(label, changed, TensorType(dtype_name(value), seen.shape), edit.leaf)
