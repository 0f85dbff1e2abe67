"""Running on from given layers: which tensors they are, and what is still missing beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from . import _cut
from ._graph import Graph
from ._layer import Layer
from ._select import only
from .errors import InputError, LayerNotFoundError, UsageError, suggest


class Given(NamedTuple):
    """What was given to run on from, sorted out."""

    inputs: dict[str, Any]
    """Values by name of a model input."""
    layers: dict[str, tuple[Layer, Any]]
    """Layers and their values, by tensor."""


def sort_out(
    graph: Graph, layers: Sequence[Layer], given: Mapping[str | int | Layer, Any]
) -> Given:
    """Tell layers from inputs.

    Raises:
        LayerNotFoundError: a name that is neither.
        UsageError: nothing is given, or no dict.
    """
    if not isinstance(given, Mapping) or not given:
        what = "nothing" if isinstance(given, Mapping) else f"a {type(given).__name__}"
        raise UsageError(f'{what} was given to run on from. Give a dict: {{"layer": activations}}.')
    sorted_out = Given({}, {})
    for key, value in given.items():
        if isinstance(key, str) and key in graph.inputs:
            sorted_out.inputs[key] = value
            continue
        try:
            layer = only(layers, key)
        except LayerNotFoundError as exc:
            near = suggest(key, list(graph.inputs)) if isinstance(key, str) else ""
            if not near:
                raise
            raise LayerNotFoundError(f"no layer or input is called {key!r}.{near}") from exc
        tensor = str(layer.tensor)
        if tensor in graph.inputs:
            sorted_out.inputs[tensor] = value
        else:
            sorted_out.layers[tensor] = layer, value
    return sorted_out


def check_apart(plan: _cut.CutPlan, names: Mapping[str, str]) -> None:
    """Refuse two layers that are one tensor in the file, as a Dropout and what it hands on.

    Args:
        names: what to call the given tensors.

    Raises:
        UsageError: there are two.
    """
    seen: dict[str, str] = {}
    for tensor, leaf in plan.given.items():
        other = seen.setdefault(leaf.source, tensor)
        if other != tensor:
            raise UsageError(
                f"{names[other]!r} and {names[tensor]!r} are one and the same tensor in this "
                "file: one hands on what the other gives. Give one of them."
            )


def check_separates(
    graph: Graph,
    layers: Sequence[Layer],
    plan: _cut.CutPlan,
    names: Mapping[str, str],
    inputs: Iterable[str],
) -> None:
    """Refuse a plan that goes back to inputs that were not given.

    Args:
        layers: those of the model, of which the message names the ones to add.
        names: what to call the given tensors.
        inputs: the model's inputs that were given.

    Raises:
        InputError: naming what is missing.
    """
    given_inputs = set(inputs)
    missing = [name for name in plan.needs if name not in given_inputs]
    if not missing:
        return
    given = [repr(name) for name in (*names.values(), *given_inputs)]
    wanted = _nearest(graph, layers, plan, missing)
    what = ", ".join(wanted[:3]) + (f" and {len(wanted) - 3} more" if len(wanted) > 3 else "")
    if wanted == [f"input {name!r}" for name in missing]:
        hint = "Give it as well, or layers that come before what is asked."
    else:
        hint = "Give it as well." if len(wanted) == 1 else "Give them as well."
    raise InputError(
        f"what was asked for cannot be computed from {', '.join(given)} alone: {what} "
        f"{'is' if len(wanted) == 1 else 'are'} missing. {hint}"
    )


def _nearest(
    graph: Graph, layers: Sequence[Layer], plan: _cut.CutPlan, missing: Sequence[str]
) -> list[str]:
    """The last layers on the ways from the missing inputs to where the given tensors come in."""
    starts = {leaf.source for leaf in plan.given.values()}
    reached = _cut.dependents(graph, missing)
    makers = {name: at for at in plan.nodes for name in graph.nodes[at].writes}
    layer_of = _by_source(graph, layers)
    asked = {leaf.source for leaf in plan.leaves.values()}
    found: dict[str, None] = {}
    seen: set[str] = set()
    open_ends = sorted(_cut.border(graph, plan, starts), reverse=True)
    while open_ends:
        name = open_ends.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in missing:
            found[f"input {name!r}"] = None
        elif makers.get(name) in reached:
            if name in layer_of and name not in asked:
                found[repr(layer_of[name])] = None
            else:
                open_ends.extend(graph.nodes[makers[name]].reads)
    return list(found) or [f"input {name!r}" for name in missing]


def _by_source(graph: Graph, layers: Sequence[Layer]) -> dict[str, str]:
    """Names of layers by the tensor that they are made from; of several, the first."""
    known = {name for node in graph.nodes for name in node.writes}
    names = {str(layer.tensor): layer.name for layer in reversed(layers) if layer.tensor in known}
    leaves = _cut.peel(graph, names)
    return {leaf.source: names[tensor] for tensor, leaf in leaves.items()}
