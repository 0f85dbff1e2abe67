"""Gradients in an export: which layers they need, and putting them into graph and card."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import onnx
from onnx import helper, numpy_helper

from layertap.format.card import Card
from layertap.format.layer import Layer
from layertap.format.select import Selector
from layertap_export.graph.graph import prune
from layertap_export.graph.weights import Initializers

from .extend import extend, warn_independent
from .select import ALL, asks_for, named_layers


def pads_needed(asked: Sequence[Selector], table: Sequence[Layer]) -> bool:
    """Whether a layer that pads is among those whose gradients are asked for."""
    named = table if asks_for(ALL, asked, table) else named_layers(asked, table)
    return any("pad" in layer.type.lower() for layer in named)


def add_gradients(
    graph: onnx.ModelProto, card: Card, asked: Sequence[Selector], score: str | None
) -> Card:
    """Add gradients to a finished graph, in place.

    Args:
        graph: the graph, with all layers as outputs and all weights in it.
        card: its card.
        asked: the layers, see `gradients.choice`.
        score: the output whose scores are differentiated, see `gradients.score`.

    Returns:
        The card with what there is now.

    Raises:
        GradientError: an operator on the way has no gradient.
        LayertapError: something asked for is not there.
    """
    gradients, independent = extend(
        graph, card.layers, card.inputs, card.outputs, asked, score, channels_last=True
    )
    if independent:
        warn_independent(independent, gradients.output)
    return replace(card, gradients=gradients)


def narrowed(
    model: onnx.ModelProto,
    card: Card,
    exposed: Collection[str],
    stubs: Iterable[onnx.TensorProto],
    initializers: Initializers,
) -> tuple[onnx.ModelProto, Card]:
    """Graph and card without the layers that nobody asked for, large weights beside the graph.

    Whoever reads a gradient reads the activation beside it: those that have one are exposed.

    Args:
        model: with all layers as outputs, and all weights in it; it stays as it is.
        card: its card.
        exposed: names of the layers that were asked for by themselves.
        stubs: what stands for the weights in a graph beside which they are.
        initializers: their values.
    """
    assert card.gradients is not None
    kept = {*exposed, *card.gradients.tensors}
    entries = {info.name for info in card.inputs}
    layers = tuple(
        layer if layer.name in kept or layer.tensor in entries else replace(layer, tensor=None)
        for layer in card.layers
    )
    shown = {layer.tensor for layer in layers} | {info.name for info in card.outputs}
    shown.update(card.gradients.tensors.values())
    known = {item.name: item for item in stubs}
    weights = [
        known.get(item.name) or initializers.make(numpy_helper.to_array(item), item.name)
        for item in model.graph.initializer
    ]
    outputs = [value for value in model.graph.output if value.name in shown]
    graph = helper.make_graph(
        model.graph.node, model.graph.name, model.graph.input, outputs, weights
    )
    part = helper.make_model(
        graph,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )
    prune(part, [value.name for value in outputs])
    return part, replace(card, layers=layers)
