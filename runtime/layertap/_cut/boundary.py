"""Starting a run at given layers: which tensors they are, and which others are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from layertap.errors import InputError, LayerNotFoundError, UsageError, suggest
from layertap.format.graph import Graph
from layertap.format.layer import Layer
from layertap.format.select import only
from layertap.format.text import class_text

from .plan import CutPlan, Leaf, border, dependents, peel, view


class Given(NamedTuple):
    """Given inputs and layers."""

    inputs: dict[str, Any]
    """Values by name of a model input."""
    layers: dict[str, tuple[Layer, Any]]
    """Layers and their values, by tensor."""


def split_given(
    graph: Graph, layers: Sequence[Layer], given: Mapping[str | int | Layer, Any]
) -> Given:
    """Split what was given into layers and inputs.

    Raises:
        LayerNotFoundError: a name that is neither.
        UsageError: nothing is given, or not a dict.
    """
    if not isinstance(given, Mapping) or not given:
        got = "an empty dict" if isinstance(given, Mapping) else class_text(given)
        raise UsageError(f'the given layers must be a dict, {{"layer": value}}, got {got}.')
    found = Given({}, {})
    for key, value in given.items():
        if isinstance(key, str) and (key in graph.inputs or key in graph.optional):
            found.inputs[key] = value
            continue
        try:
            layer = only(layers, key)
        except LayerNotFoundError as exc:
            only_inputs = list(graph.inputs.keys() - {layer.name for layer in layers})
            near = suggest(key, only_inputs) if isinstance(key, str) else ""
            if not near:
                raise
            raise LayerNotFoundError(f"no layer or input is called {key!r}.{near}") from exc
        tensor = str(layer.tensor)
        if tensor in graph.inputs:
            found.inputs[tensor] = value
        else:
            found.layers[tensor] = layer, value
    return found


def check_apart(plan: CutPlan, names: Mapping[str, str], inputs: Iterable[str]) -> None:
    """Reject two layers that are the same tensor in the file, such as a Dropout and its input.

    Args:
        names: names of the given tensors in messages.
        inputs: the model's inputs that were also given.

    Raises:
        UsageError: there are two.
    """
    seen = {name: name for name in inputs}
    for tensor, leaf in plan.given.items():
        other = seen.setdefault(leaf.source, names[tensor])
        if other != names[tensor]:
            raise _one_tensor(other, names[tensor])


def _one_tensor(one: str, other: str) -> UsageError:
    return UsageError(
        f"{one!r} and {other!r} are the same tensor in this file: one passes the values of the "
        "other on. Give only one of them."
    )


def check_batch(
    layers: Iterable[Layer],
    feeds: Mapping[str, Any],
    plan: CutPlan,
    graph: Graph,
    batch: str | None,
) -> None:
    """Reject values with different numbers of samples.

    Args:
        batch: the name of the free size that is the batch in the model's inputs.

    Raises:
        InputError: they do not agree.
    """
    sizes = {
        name: len(feeds[name])
        for name in plan.needs
        if batch is not None and (graph.inputs[name].dims or (None,))[0] == batch
    }
    for layer in layers:
        perms = plan.given[str(layer.tensor)].perms
        shape = view(feeds[plan.given[str(layer.tensor)].source], perms).shape
        if layer.shape[:1] == (None,) and layer.per_sample is not False:
            sizes[layer.name] = shape[0]
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"{name!r} has {size}" for name, size in sizes.items())
        raise InputError(f"the given values have different batch sizes: {listing}.")


def check_separates(
    graph: Graph,
    layers: Sequence[Layer],
    plan: CutPlan,
    names: Mapping[str, str],
    inputs: Iterable[str],
) -> None:
    """Reject a plan that depends on inputs that were not given.

    Args:
        layers: the model's layers; the message names the ones to add.
        names: names of the given tensors in messages.
        inputs: the model's inputs that were given.

    Raises:
        InputError: inputs or layers are missing; the message names them.
    """
    given_inputs = set(inputs)
    missing = [name for name in plan.needs if name not in given_inputs]
    if not missing:
        return
    given = ", ".join(repr(name) for name in (*names.values(), *given_inputs))
    if not plan.starts:
        raise InputError(
            f"the requested layers do not depend on {given}, but on input "
            f"{' and '.join(map(repr, missing))}. Give that, or layers in between."
        )
    wanted = _nearest(graph, layers, plan, missing)
    what = ", ".join(wanted[:20]) + (f" and {len(wanted) - 20} more" if len(wanted) > 20 else "")
    several = len(wanted) > 1
    raise InputError(
        f"the requested layers cannot be computed from {given} alone: {what} "
        f"{'are' if several else 'is'} missing. Give {'them' if several else 'it'} as well."
    )


def _nearest(
    graph: Graph, layers: Sequence[Layer], plan: CutPlan, missing: Sequence[str]
) -> list[str]:
    """The last layers on the paths from the missing inputs to the part after the given tensors."""
    starts = {leaf.source for leaf in plan.given.values()}
    reached = dependents(graph, missing)
    makers = {name: at for at in plan.nodes for name in graph.nodes[at].writes}
    layer_of = _by_source(graph, layers)
    found: dict[str, None] = {}
    seen: set[str] = set()
    open_ends = sorted(border(graph, plan, starts), reverse=True)
    while open_ends:
        name = open_ends.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in missing:
            found[f"input {name!r}"] = None
        elif makers.get(name) in reached:
            if name in layer_of:
                found[repr(layer_of[name])] = None
            else:
                open_ends.extend(graph.nodes[makers[name]].reads)
    return list(found) or [f"input {name!r}" for name in missing]


def _by_source(graph: Graph, layers: Sequence[Layer]) -> dict[str, str]:
    """Names of layers by the tensor that they are made from; the first of several."""
    known = {name for node in graph.nodes for name in node.writes}
    names = {str(layer.tensor): layer.name for layer in reversed(layers) if layer.tensor in known}
    leaves = peel(graph, names)
    return {leaf.source: names[tensor] for tensor, leaf in leaves.items()}


# --- Edits --------------------------------------------------------------------------------------


class Edit(NamedTuple):
    """A change of a layer or an input."""

    name: str
    source: str
    """The computed tensor that the layer is a view of."""
    leaf: Leaf
    function: Callable[[Any], Any]


def edits(graph: Graph, changes: Given) -> dict[str, Edit]:
    """The changes, by the source that each replaces.

    Raises:
        MissingTensorError: the graph lacks a tensor.
        UsageError: two of them are the same tensor, or a change is not callable.
    """
    functions = {
        **{name: (name, function) for name, function in changes.inputs.items()},
        **{t: (layer.name, function) for t, (layer, function) in changes.layers.items()},
    }
    leaves = peel(graph, functions)
    found: dict[str, Edit] = {}
    for tensor, (name, function) in functions.items():
        if not callable(function):
            raise UsageError(
                f"the change of {name!r} must be a function, got {class_text(function)}. To give "
                "an activation, use `resume`."
            )
        edit = Edit(name, leaves[tensor].source, leaves[tensor], function)
        if edit.source in found:
            raise _one_tensor(found[edit.source].name, name)
        found[edit.source] = edit
    return found


def check_edits(graph: Graph, edits: Mapping[str, Edit], plan: CutPlan) -> None:
    """Reject changes that do not affect the request.

    Args:
        plan: the plan of the whole request.

    Raises:
        UsageError: a change has no effect.
    """
    read = {name for at in plan.nodes for name in graph.nodes[at].reads}
    read |= plan.outputs.keys() | {*plan.fed}
    read |= {name for extra in plan.appended for name in extra.reads}
    for source, edit in edits.items():
        if source not in read:
            raise UsageError(f"{edit.name!r} does not affect any requested layer.")


def earliest(graph: Graph, sources: Iterable[str]) -> set[str]:
    """The sources that do not depend on any of the others."""
    later = dependents(graph, sources)
    made = {name for at in later for name in graph.nodes[at].writes}
    return {name for name in sources if name not in made} or set(sources)


def bypassing(graph: Graph, plan: CutPlan, tensors: AbstractSet[str]) -> set[str]:
    """The tensors that bypass `tensors` and are needed with them for the rest of a plan.

    Constants are not included: computing them again is cheaper than passing them on.
    """
    moving = {name for at in dependents(graph, graph.inputs) for name in graph.nodes[at].writes}
    return sources(graph, border(graph, plan, tensors) & (moving | graph.inputs.keys()))


def sources(graph: Graph, tensors: Iterable[str]) -> set[str]:
    """The sources that `tensors` are made from by Transposes and Identities only."""
    return {leaf.source for leaf in peel(graph, tensors).values()}
