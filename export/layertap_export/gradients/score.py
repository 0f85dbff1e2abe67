"""The score: the tensor that is differentiated.

It is an output of the model, a layer, or one channel of these. If an output ends in a sigmoid or
softmax, it is the input of that: the logits, as in the paper on Grad-CAM (Selvaraju et al.,
"Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017: "the
score for class c, before the softmax"). The values of a layer inside the model are themselves the
scores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import onnx
from onnx import helper

from layertap.errors import UsageError, suggest
from layertap.format.card import TensorInfo
from layertap.format.layer import Axes, Layer, channel_or_last_axis
from layertap.format.operators import behind_final_activation
from layertap_export.graph.graph import makers

from .builder import Builder

PROBABILITY = "probability"
"""The word for the output itself."""

CHANNEL_PREFIX = "score/"
"""What the name of the graph output with the scores of one channel begins with."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What `--score` names."""

    tensor: str
    """The model's output, or the tensor of a layer."""
    probability: bool = False
    """Whether an output itself is the score, not its logits."""
    layer: str | None = None
    """The layer, if it is not an output of the model."""
    channel: int | None = None
    """The only channel; `None` for all of them."""
    axes: Axes | None = None
    """What the axes of the tensor mean, if it is known."""

    @property
    def name(self) -> str:
        """Of the output or layer."""
        return self.layer or self.tensor


@dataclass(frozen=True, slots=True)
class Score:
    """The tensor that is differentiated."""

    output: str
    """The graph output that the scores are taken from."""
    logits: bool
    """Whether the scores are the input of its final sigmoid or softmax."""
    tensor: str
    """The tensor of the scores, in the shape of the output."""
    channel: int | None = None
    """The only channel of the output or layer that it has."""


def check_form(asked: Any) -> None:
    """Check that a score is named by a text.

    Raises:
        UsageError: it is not.
    """
    if isinstance(asked, (list, tuple)):
        raise UsageError(
            f"a file has the gradients of one score, got {asked!r}. Write a file for each: "
            "`layertap gradients FILE --layers LAYER --score SCORE -o NEW.onnx`."
        )
    if asked is not None and not isinstance(asked, str):
        raise UsageError(f"score must be the name of an output or a layer, got {asked!r}.")


def asked_score(
    asked: str | None, outputs: Sequence[TensorInfo], layers: Sequence[Layer] = ()
) -> Asked:
    """The output or layer that `--score` names, and which part of it.

    Args:
        asked: `None`, the name of an output or a layer, `probability`, `OUTPUT:probability`, or a
            name with the number of a channel, `LAYER:CHANNEL`.
        outputs: the model's outputs.
        layers: its layers.

    Raises:
        UsageError: there is no such output or layer, or there are several outputs and none is
            named.
    """
    names = [info.name for info in outputs]
    if not names:
        raise UsageError(
            "the card in the file names no outputs, so it has no score. Export it again."
        )
    check_form(asked)
    if asked is not None and (found := _named(asked, outputs, layers)):
        return found
    name, separator, suffix = (asked or "").rpartition(":")
    probability = suffix == PROBABILITY
    if separator and (found := _named(name, outputs, layers)):
        if probability and found.layer is None:
            return Asked(found.tensor, True, axes=found.axes)
        if re.fullmatch(r"-?[0-9]{1,9}", suffix):
            return Asked(found.tensor, False, found.layer, int(suffix), found.axes)
        if probability:
            raise UsageError(
                f"{name!r} is a layer and no output of the model: its values themselves are the "
                f"scores. Give score={name!r}."
            )
        raise UsageError(
            f"{suffix!r} is not a channel of {name!r}. Give the number of a channel, as in "
            f"{name + ':0'!r}, or {name!r} for all of them."
        )
    if asked is not None and (separator or not probability):
        names_part = probability or re.fullmatch(r"-?[0-9]+", suffix)
        wanted = name if name and names_part else asked
        known = [*names, *(layer.name for layer in layers if layer.name not in names)]
        raise UsageError(
            f"no output or layer is called {wanted!r}; the outputs are {_listed(names)}."
            f"{suggest(wanted, known)}"
        )
    if len(names) != 1:
        raise UsageError(
            f"the model has {len(names)} outputs, {_listed(names)}. Name the one to "
            "differentiate, as in score="
            f"{(names[0] + ':' + PROBABILITY if probability else names[0])!r}."
        )
    return Asked(names[0], probability, axes=outputs[0].axes)


def _named(name: str, outputs: Sequence[TensorInfo], layers: Sequence[Layer]) -> Asked | None:
    """The output or layer of a name; a layer whose tensor is an output counts as that output."""
    by_name = {info.name: info for info in outputs}
    layer = next((one for one in layers if one.name == name), None)
    info = by_name.get(name) or by_name.get(str(layer.tensor) if layer else "")
    if info is not None:
        return Asked(info.name, axes=info.axes)
    if layer is None:
        return None
    if layer.tensor is None:
        reason = layer.why_not or "the file does not expose it. Export it again with this layer"
        raise UsageError(f"the layer {name!r} cannot be the score: {reason}.")
    return Asked(layer.tensor, layer=layer.name, axes=layer.axes)


def _listed(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(map(repr, names[:limit]))
    return f"{shown} and {len(names) - limit} more" if names[limit:] else shown


def find_score(
    build: Builder, graph: onnx.GraphProto, asked: Asked, *, channels_last: bool = True
) -> Score:
    """The scores of an output or layer.

    Movers between the final sigmoid or softmax and an output are repeated after the logits.

    Args:
        build: appends the repeated nodes.
        graph: the forward half, in topological order; gets one more output if there is a channel.
        asked: what is differentiated.
        channels_last: whether the classes of an output are its last axis, as in a model from Keras.

    Raises:
        UsageError: there is no such channel.
    """
    found = _all_channels(build, graph.node, asked)
    if asked.channel is None:
        if all(value.name != found.output for value in graph.output):
            graph.output.append(_stated(build, found.output))  # a layer in a file without a card
        return found
    axis, channel = _channel(build, asked, channels_last)
    name = build.free_name(f"{CHANNEL_PREFIX}{asked.name}:{channel}")
    shown = build.part(asked.tensor, axis, channel, name)
    graph.output.append(_stated(build, shown))
    if not found.logits:
        return Score(shown, False, shown, channel)
    logits = build.free_name(f"{name}/logits")
    return Score(shown, True, build.part(found.tensor, axis, channel, logits), channel)


def _all_channels(build: Builder, nodes: Sequence[onnx.NodeProto], asked: Asked) -> Score:
    output = asked.tensor
    if asked.probability or asked.layer is not None:
        return Score(output, False, output)
    made_by = makers(nodes)
    found = behind_final_activation(
        output, lambda tensor: _Node.of(made_by[tensor]) if tensor in made_by else None
    )
    if found is None:
        return Score(output, False, output)
    tensor, movers = found
    for mover in movers:
        tensor = build.repeat(mover.proto, tensor)
    return Score(output, True, tensor)


def _channel(build: Builder, asked: Asked, channels_last: bool) -> tuple[int, int]:
    """The axis of the channels, and the index of the one that is asked for."""
    dims, channel = build.dims(build.tensor(asked.tensor)), asked.channel
    assert channel is not None
    if len(dims) < 2:
        raise UsageError(f"{asked.name!r} has no channels: it has one value for each sample.")
    # As in the runtime, `layertap.cam.scores.class_axis`.
    axes = asked.axes if asked.layer or not channels_last else None
    axis = channel_or_last_axis(axes, len(dims))
    size = dims[axis]
    count = size if isinstance(size, int) else None
    if not -(count or 0) <= channel < (count or channel + 1):
        raise UsageError(
            f"channel {channel} is out of range: {asked.name!r} has "
            + (f"{count}, 0 to {count - 1}." if count else "a free number of them, from 0.")
        )
    return axis, channel + count if channel < 0 and count else channel


def _stated(build: Builder, tensor: str) -> onnx.ValueInfoProto:
    """A graph output, with the sizes that are known; that of the samples is free."""
    dims = build.dims(build.tensor(tensor))
    sizes = [None, *(size if isinstance(size, int) else None for size in dims[1:])]
    return helper.make_tensor_value_info(tensor, build.shapes.dtype(tensor), sizes)


class _Node(NamedTuple):
    """A node in the form that `layertap.format.operators` reads."""

    proto: onnx.NodeProto
    domain: str
    op_type: str
    reads: Sequence[str]

    @classmethod
    def of(cls, node: onnx.NodeProto) -> _Node:
        return cls(node, node.domain, node.op_type, node.input)
