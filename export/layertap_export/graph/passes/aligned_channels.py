"""Separable convolutions with a multiple of 4 channels, which onnxruntime computes faster.

onnxruntime runs a depthwise convolution in its blocked layout only if the number of channels is a
multiple of 4. Otherwise it multiplies matrices of one row, which takes up to ten times as long. A
separable convolution is a depthwise one whose result only pointwise ones read. This pass adds
channels of zeros up to the next multiple, and the pointwise weights multiply them by zeros:

    Conv(x, depthwise) -> Conv(., pointwise)

becomes

    Pad(x) -> Conv(., depthwise and zeros) -> Conv(., pointwise and zeros)

The results are the same. Tensors that a layer exposes are not changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from layertap_export.graph.graph import attribute, bodies, captured, prune
from layertap_export.graph.weights import Initializers

from .contract import graph_pass, in_order

MULTIPLE = 4
"""onnxruntime's blocked layout takes multiples of this number of channels."""

FEWEST = 6
"""With fewer channels, computing the zeros takes as long as the faster kernel saves."""


@graph_pass(requires=[in_order], ensures=[in_order])
def aligned_channels(
    model: onnx.ModelProto, initializers: Initializers, keep: Collection[str]
) -> None:
    """Rewrite `model` in place.

    Args:
        model: channels first, nodes in topological order.
        initializers: the values of its weights; those of the new ones are added.
        keep: tensors that must stay.
    """
    found = _Separable(model.graph, initializers, keep)
    nodes = [made for node in model.graph.node for made in found.written(node)]
    if len(nodes) > len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        prune(model, keep)


class _Separable:
    """The separable convolutions of one graph."""

    def __init__(
        self, graph: onnx.GraphProto, initializers: Initializers, keep: Collection[str]
    ) -> None:
        self._graph = graph
        self._initializers = initializers
        self._weights = {item.name: item for item in graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._fixed = set(keep)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
            for body in bodies(node):
                self._fixed.update(captured(body))
        self._made: set[str] = set()

    def written(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What replaces a node. The pointwise convolutions behind it are changed in place."""
        missing = self._missing(node)
        if not missing:
            return [node]
        output = node.output[0]
        for reader in self._readers[output]:
            reader.input[1] = self._filled(reader.input[1], 1, missing)
        padded = f"{output}/filled"
        pads = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, missing, 0, 0]), f"{padded}/pads")
        self._graph.initializer.append(pads)
        fill = helper.make_node("Pad", [node.input[0], pads.name], [padded])
        node.input[0] = padded
        for at in range(1, len(node.input)):
            node.input[at] = self._filled(node.input[at], 0, missing)
        group = next(item for item in node.attribute if item.name == "group")
        group.i += missing
        return [fill, node]

    def _missing(self, node: onnx.NodeProto) -> int:
        """How many channels a convolution lacks; 0 if it is not depthwise, or lacks none."""
        weights = self._weight(node)
        if weights is None or any(name not in self._weights for name in node.input[2:] if name):
            return 0
        channels, each = weights.dims[0], weights.dims[1]
        if each != 1 or channels < FEWEST or attribute(node, "group", 1) != channels:
            return 0
        output = node.output[0]
        readers = self._readers[output]
        if output in self._fixed or not readers:
            return 0
        return -channels % MULTIPLE if all(self._pointwise(x, output) for x in readers) else 0

    def _pointwise(self, node: onnx.NodeProto, data: str) -> bool:
        """Whether a node is a convolution of single pixels across all channels of a tensor."""
        weights = self._weight(node)
        return (
            weights is not None
            and [*node.input].count(data) == 1
            and node.input[0] == data
            and attribute(node, "group", 1) == 1
            and list(weights.dims[2:]) == [1, 1]
        )

    def _weight(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
        """The constant weights of a two-dimensional convolution in float32."""
        if node.op_type != "Conv" or node.domain:
            return None
        weights = self._weights.get(node.input[1])
        if weights is None or len(weights.dims) != 4:
            return None
        return weights if weights.data_type == onnx.TensorProto.FLOAT else None

    def _filled(self, name: str, axis: int, missing: int) -> str:
        """Weights with zeros at the end of an axis; once for all convolutions that read them."""
        if not name:
            return name
        filled = f"{name}/filled/{axis}"
        if filled not in self._made:
            self._made.add(filled)
            value: NDArray[Any] = self._initializers.value(self._weights[name])
            widths = [(0, missing if at == axis else 0) for at in range(value.ndim)]
            self._graph.initializer.append(self._initializers.make(np.pad(value, widths), filled))
        return filled
