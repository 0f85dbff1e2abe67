"""Adding gradients to a model: one more input, and one more output per layer."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from layertap.errors import LayertapWarning, UsageError
from layertap.format.card import CLASS_INPUTS, Gradients, TensorInfo
from layertap.format.layer import Layer
from layertap.format.select import ALL, LAST, Selector
from layertap_export.errors import GradientError
from layertap_export.graph.shapes.shapes import Shapes

from .backprop import Backprop
from .builder import FLOAT_TYPES, PREFIX, Builder, Value
from .score import Asked, Score, asked_score, find_score
from .select import INPUT, asks_for, last_feature_maps, named_layers
from .targets import ROUNDING, Differentiated, SourceFinder

WEIGHTS = "score_weights"
"""The name of the input that weighs the scores, if nothing else in the graph has it."""


LEFT_OUT = "no gradient with respect to "
"""The first words of a note on layers that `all` leaves out."""


class Extended(NamedTuple):
    """What was added to a model."""

    gradients: Gradients
    """The card's entry; `broadcasts` is false, which has to be measured."""
    independent: tuple[str, ...]
    """Names of layers that no gradient flows to: it is 0 there."""
    notes: tuple[str, ...]
    """Sentences on the layers that `all` leaves out, because they have no gradient."""


def extend(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    asked: Sequence[Selector],
    score: str | None,
    *,
    channels_last: bool,
    class_input: str = CLASS_INPUTS[0],
) -> Extended:
    """Add to a model the gradients of its scores with respect to some layers, in place.

    The differentiated quantity is `sum(weights * scores)` per sample, where the weights are one
    more input. Their last axis is that of the scores; the others broadcast.

    Args:
        model: nodes in topological order.
        layers: the layers that it shows.
        inputs: the model's inputs.
        outputs: its own outputs.
        asked: the layers to differentiate by, see `select`.
        score: which output or layer the scores are, see `score.asked_score`.
        channels_last: whether the layers' channels are their last axis, or the second.
        class_input: `optional`: the graph also has an initialiser of ones for the weights;
            `required`: clients have to feed them.

    Raises:
        GradientError: an operator between a named layer and the score has no gradient, or between
            each of `all` layers and the score.
        LayerNotFoundError: a selector matches nothing.
        UsageError: there is no such output, or it has no gradient.
    """
    of = asked_score(score, outputs, layers)
    build = Builder(model, Shapes(model))
    _check_score(build, model.graph, of)
    found = find_score(build, model.graph, of, channels_last=channels_last)
    forward = list(model.graph.node)

    def is_float(tensor: str | None) -> bool:
        return tensor is not None and build.shapes.dtype(tensor) in FLOAT_TYPES

    chosen = named_layers(asked, layers, lambda layer: is_float(layer.tensor))
    if asks_for(LAST, asked, layers):
        maps = last_feature_maps(forward, layers, build.shapes, found.tensor, channels_last)
        chosen.append(maps)
    named = {layer.name for layer in chosen}
    if asks_for(ALL, asked, layers):
        chosen += [one for one in layers if is_float(one.tensor) and one.attention is None]
    entries = [info for info in inputs if is_float(info.name)]
    if not asks_for(INPUT, asked, layers):
        entries = []
    elif not entries:
        raise UsageError(_no_float_input(inputs))
    named.update(info.name for info in entries)
    wanted = _targets(chosen, entries, SourceFinder(forward, found.tensor))
    if not wanted:
        raise UsageError(
            "no layers were given for the gradients. Give at least one, for example 'last-conv'."
        )

    sources = dict.fromkeys(target.source for target in wanted)
    backprop = Backprop.between(build, forward, sources, [found.tensor])
    _obstacles(backprop, wanted, named, layers)
    weights = _add_weights(build, model.graph, found, class_input)
    scores = build.tensor(found.tensor)
    seed = weights.op("Expand", scores.shape()).cast(scores.dtype)
    results = backprop.gradients({found.tensor: seed})
    obstacles = _obstacles(backprop, wanted, named, layers)
    without = {one.layer for one in obstacles}
    wanted = [target for target in wanted if target.name not in without]
    shown = {target.name: build.free_name(PREFIX + target.name) for target in wanted}
    independent = []
    for target in wanted:
        gradient = results.get(target.source)
        if gradient is not None:
            gradient = _shown(build, gradient, target.movers)
        elif target.name in named:
            independent.append(target.name)
            gradient = _nothing(build, build.tensor(target.tensor), seed)
        else:
            del shown[target.name]
            continue
        _add_output(build, model.graph, gradient, shown[target.name], target)
    build.finish()
    kept = Gradients(
        output=found.output,
        score="logits" if found.logits else "output",
        weights=weights.name,
        tensors=shown,
        broadcasts=False,
        class_input=class_input,
        of=of.name if of.layer or of.channel is not None else None,
        channel=found.channel,
    )
    return Extended(kept, tuple(independent), _left_out(obstacles))


class Obstacle(NamedTuple):
    """Why a layer has no gradient."""

    layer: str
    reason: str
    place: str
    """The operator that has no gradient: its layer or, where it is in none, its node."""
    advice: str
    """Which layers have a gradient."""

    @property
    def refusal(self) -> str:
        return (
            f"{self.layer!r} has no gradient: {self.reason}, in the {self.place} between it and "
            f"the score. Choose {self.advice}."
        )


def _obstacles(
    backprop: Backprop,
    targets: Sequence[Differentiated],
    named: Collection[str],
    layers: Sequence[Layer],
) -> list[Obstacle]:
    """The targets that have no gradient.

    Raises:
        GradientError: a named one is among them, or all are.
    """
    found = []
    for target in targets:
        blocked = backprop.obstacle(target.source)
        if blocked is not None:
            name = _layer_of(blocked.node, blocked.tensor, layers)
            inside = any(layer.name == name for layer in layers)
            place = f"layer {name!r}" if inside else f"node {name!r}"
            advice = f"{name!r} or a layer after it" if inside else "a layer after that"
            found.append(Obstacle(target.name, blocked.reason, place, advice))
    first = next((one for one in found if one.layer in named), None)
    if first is None and found and len(found) == len(targets):
        first = found[0]
    if first is not None:
        raise GradientError(first.refusal)
    return found


def _left_out(obstacles: Iterable[Obstacle]) -> tuple[str, ...]:
    """A sentence for each operator because of which layers are left out."""
    by_cause: dict[tuple[str, str], list[str]] = {}
    for one in obstacles:
        by_cause.setdefault((one.place, one.reason), []).append(one.layer)
    return tuple(
        f"{LEFT_OUT}{_listing(names)}: {reason}, in the {place}."
        for (place, reason), names in by_cause.items()
    )


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return f"{shown} and {len(names) - 3} more" if names[3:] else shown


def _no_float_input(inputs: Sequence[TensorInfo]) -> str:
    shown = ", ".join(f"{info.name!r} ({info.dtype})" for info in inputs)
    return (
        "no input of the model has a gradient: only floating-point numbers have gradients, its "
        f"inputs are {shown}."
    )


def warn_independent(names: Sequence[str], score: str) -> None:
    """Warn that some gradients are 0."""
    warnings.warn(
        f"no gradient flows from the scores of {score!r} to {_listing(names)}: it is 0 there.",
        LayertapWarning,
        stacklevel=3,
    )


def _check_score(build: Builder, graph: onnx.GraphProto, score: Asked) -> None:
    if any(value.name == score.tensor for value in graph.input):
        raise UsageError(
            f"{score.name!r} is an input of the model, so it depends on no layer. Name another "
            "layer, or an output."
        )
    dtype = build.shapes.dtype(score.tensor)
    if dtype not in FLOAT_TYPES:
        content = (
            helper.tensor_dtype_to_np_dtype(dtype).name if dtype else "values of an unknown dtype"
        )
        raise UsageError(
            f"the {'layer' if score.layer else 'output'} {score.name!r} holds {content}; only "
            "floating-point numbers have gradients."
        )


def _targets(
    layers: Iterable[Layer], inputs: Iterable[TensorInfo], sources: SourceFinder
) -> list[Differentiated]:
    """Each once, by name."""
    found = {x.name: sources.find(x.name, str(x.tensor), x.shape) for x in layers}
    for info in inputs:
        found.setdefault(info.name, sources.find(info.name, info.name, info.shape))
    return list(found.values())


def _layer_of(node: onnx.NodeProto, tensor: str, layers: Sequence[Layer]) -> str:
    """The layer that a node belongs to: nodes are named after layers, or make their tensors."""
    names = {layer.name for layer in layers}
    scope = node.name
    while scope and scope not in names:
        scope = scope.rpartition("/")[0]
    return scope or (tensor if tensor in names else node.name or tensor)


def _add_weights(build: Builder, graph: onnx.GraphProto, score: Score, class_input: str) -> Value:
    """The input that weighs the scores, with ones to fall back on if it is optional."""
    dims = build.dims(build.tensor(score.tensor))
    dtype = build.shapes.dtype(score.tensor)
    # The last axis of several is that of the classes; a lone one is that of the samples.
    classes = dims[-1:] if len(dims) > 1 else (None,) * len(dims)
    last = [size if isinstance(size, int) else None for size in classes]
    name = build.free_name(WEIGHTS)
    free = [None] * (len(dims) - 1)
    graph.input.append(helper.make_tensor_value_info(name, dtype, [*free, *last]))
    if class_input == CLASS_INPUTS[0]:
        sizes = [1] * len(free) + [1 if size is None else size for size in last]
        ones = np.ones(sizes, helper.tensor_dtype_to_np_dtype(dtype))
        graph.initializer.append(numpy_helper.from_array(ones, name))
    return Value(build, name, dtype)


def _shown(build: Builder, gradient: Value, movers: Iterable[onnx.NodeProto]) -> Value:
    """The gradient laid out as the movers lay out the layer."""
    for mover in movers:
        if mover.op_type == "Transpose":
            perm = next((list(a.ints) for a in mover.attribute), None)
            gradient = gradient.op("Transpose", **({"perm": perm} if perm else {}))
        elif mover.op_type == "Cast":
            gradient = gradient.cast(build.shapes.dtype(mover.output[0]))
        elif mover.op_type not in ("Identity", *ROUNDING):
            gradient = build.shaped(gradient, build.tensor(mover.output[0]))
    return gradient


def _nothing(build: Builder, x: Value, seed: Value) -> Value:
    """Zeros in the shape of x, with as many rows as the seed has."""
    zeros = build.zeros(x.shape(), x.dtype)
    dims = build.dims(x)
    if not dims or not (dims[0] == 1 or build.is_batch(dims[0])):
        return zeros
    return zeros.op("Expand", build.vector([build.rows(seed), *[1] * (len(dims) - 1)]))


def _add_output(
    build: Builder, graph: onnx.GraphProto, gradient: Value, name: str, target: Differentiated
) -> None:
    """Let a gradient be a graph output, in the layer's shape but for the number of rows."""
    dims = build.shapes.dims(target.tensor)
    sizes: list[int | None] | None = None
    if dims is not None:
        stated = target.shape if len(target.shape) == len(dims) else (None,) * len(dims)
        sizes = [
            size if isinstance(size, int) else known
            for size, known in zip(dims, stated, strict=True)
        ]
        sizes[:1] = [None] * len(sizes[:1])
    dtype = build.shapes.dtype(target.tensor) or TensorProto.FLOAT
    build.output(gradient.cast(dtype), name)
    graph.output.append(helper.make_tensor_value_info(name, dtype, sizes))
