"""Gradients in an export: which layers they need, and adding them to the graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx

from layertap.format.card import TensorInfo
from layertap.format.layer import Layer
from layertap.format.select import ALL, Selector
from layertap_export.graph.graph import prune

from .extend import Extended, extend, warn_independent
from .select import asks_for, named_layers


def pads_needed(asked: Sequence[Selector], table: Sequence[Layer]) -> bool:
    """Whether a layer that pads is among those whose gradients are requested."""
    named = table if asks_for(ALL, asked, table) else named_layers(asked, table)
    return any("pad" in layer.type.lower() for layer in named)


def add_gradients(
    graph: onnx.ModelProto,
    table: Sequence[Layer],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    asked: Sequence[Selector],
    score: str | None,
    class_input: str,
) -> Extended:
    """Add gradients to a finished graph, in place, and warn about those that are 0.

    Args:
        graph: the graph, with all layers as outputs; large weights may be stubs.
        table: its layers.
        inputs: the model's inputs.
        outputs: the model's own outputs.
        asked: the layers, see `gradients.select`.
        score: the output or layer that is differentiated, see `gradients.score`.
        class_input: see `extend.extend`.

    Raises:
        GradientError: an operator between a layer and the score has no gradient.
        LayertapError: a requested layer or output does not exist.
    """
    added = extend(
        graph,
        table,
        inputs,
        outputs,
        asked,
        score,
        channels_last=True,
        class_input=class_input,
    )
    if added.independent:
        warn_independent(added.independent, added.gradients.scored)
    return added


def narrow(model: onnx.ModelProto, outputs: Collection[str]) -> None:
    """Remove, in place, all outputs of a graph but these, and what only the others need."""
    kept = [value for value in model.graph.output if value.name in outputs]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    prune(model, [value.name for value in kept])
