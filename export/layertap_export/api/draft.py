"""The card while the file is being made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from layertap.format.card import Card, Gradients, Source, TensorInfo
from layertap.format.layer import Axes, Layer, Shape
from layertap.images.load import image_libraries
from layertap.images.preprocessing import Preprocessing
from layertap_export.graph.axes import axes_of, with_axes
from layertap_export.graph.tokens import TokenGrids, with_tokens
from layertap_export.verification.declared_shapes import freed
from layertap_export.verification.report import VerificationReport


@dataclass(kw_only=True)
class CardDraft:
    """What is known about a file that is being made. `finished` makes the card, once."""

    source: Source
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    table: tuple[Layer, ...]
    """Every layer, with the tensor that shows it in a file that exposes all."""
    exposed: set[str]
    """Names of the layers that this file exposes."""
    recipe: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)
    gradients: Gradients | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer, as the file exposes it or not."""
        return tuple(
            layer if layer.name in self.exposed else replace(layer, tensor=None)
            for layer in self.table
        )

    @property
    def preprocessing(self) -> Mapping[str, Any] | None:
        """The recipe as the card has it."""
        return self.recipe.to_dict() if self.recipe else None

    @property
    def gradient_outputs(self) -> set[str]:
        """Names of the graph's outputs that are there for the gradients."""
        return self.gradients.added if self.gradients else set()

    @property
    def shown(self) -> set[str]:
        """Names of all outputs of the graph."""
        layers = {layer.tensor for layer in self.layers if layer.tensor is not None}
        return layers | {info.name for info in self.outputs} | self.gradient_outputs

    @property
    def complete(self) -> bool:
        """Whether the file exposes all layers that can be exposed."""
        return all(layer.exposed for layer in self.layers if layer.why_not is None)

    def infer_axes(self, graph: onnx.ModelProto) -> None:
        """Note what the axes of layers, inputs and outputs mean, as far as the graph tells."""
        axes = axes_of(graph, self.table)
        self.table = with_axes(self.table, axes)
        self.inputs = with_axes(self.inputs, axes)
        self.outputs = with_axes(self.outputs, axes)
        images = [info.axes for info in self.inputs if len(info.shape) == 4]
        if self.recipe and images:
            self.recipe = self.recipe.fitted(images[0] or "")
        self._find_tokens(graph)

    def _find_tokens(self, graph: onnx.ModelProto) -> None:
        """Note which tokens of sequences and of attention scores are patches of an image."""
        axes = {info.name: info.axes or _image_axes(info.shape) for info in self.inputs}
        images = {name: known for name, known in axes.items() if known in ("NHWC", "NCHW")}
        if images and any(layer.attention or len(layer.shape) == 3 for layer in self.table):
            grids = TokenGrids(graph, images)
            self.table = tuple(with_tokens(layer, grids) for layer in self.table)

    def add_gradients(self, gradients: Gradients) -> None:
        """Note the gradients that the file has.

        With a gradient its reader needs the activation: layers that have one are exposed, and so
        are the layer that is differentiated, and those that are inputs.
        """
        self.gradients = gradients
        entries = {info.name for info in self.inputs}
        self.exposed |= gradients.tensors.keys()
        self.exposed |= {layer.name for layer in self.table if layer.name == gradients.of}
        self.exposed |= {layer.name for layer in self.table if layer.tensor in entries}

    def declare(self, shapes: Mapping[str, Shape]) -> None:
        """Free the sizes of layers and outputs that are free in these shapes, by tensor."""

        def corrected(shape: Shape, tensor: str | None) -> Shape:
            return freed(shape, shapes.get(tensor or "", shape))

        self.outputs = tuple(
            replace(info, shape=corrected(info.shape, info.name)) for info in self.outputs
        )
        self.table = tuple(
            replace(layer, shape=corrected(layer.shape, layer.tensor)) for layer in self.table
        )

    def finished(self, report: VerificationReport) -> Card:
        """The card, with the results of verification."""
        return Card(
            source=self.source,
            inputs=self.inputs,
            outputs=self.outputs,
            layers=_with_samples(
                self.layers, report.per_sample | {info.name for info in self.inputs}
            ),
            preprocessing=self.preprocessing,
            images=image_libraries() if self.recipe else None,
            labels=self.labels,
            verification=report.for_card(),
            golden=report.golden,
            gradients=report.gradients,
            notes=tuple(self.notes) or None,
        )


def _image_axes(shape: Shape) -> Axes | None:
    """The axes of an input that looks like an image, where no operator tells."""
    return "NHWC" if len(shape) == 4 and shape[-1] in (1, 3, 4) else None


def _with_samples(layers: Collection[Layer], per_sample: Collection[str]) -> tuple[Layer, ...]:
    """The layers, each noted as not per sample unless its tensor is in `per_sample`."""
    return tuple(
        replace(layer, per_sample=False)
        if layer.exposed and layer.tensor not in per_sample
        else layer
        for layer in layers
    )
