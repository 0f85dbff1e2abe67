"""Fusing what TensorFlow computes in several steps into one node.

Keras 3 computes a batch normalisation as a multiplication and an addition, and a convolution's
bias as an addition. As one node each, they let onnxruntime keep its blocked layout from
convolution to convolution:

    Mul(x, a) -> Add(., b)       becomes    BatchNormalization(x, a, b, mean=0, var=1), epsilon 0
    Conv(x, w) -> Add(., b)      becomes    Conv(x, w, b)

where `a` and `b` hold one value per channel. The results are the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from layertap.format.layer import Shape
from layertap_export.graph.graph import makers, prune, read_counts
from layertap_export.graph.weights import is_stub

from .activations import join_activations
from .contract import graph_pass, in_order, no_identities


@graph_pass(requires=[in_order], ensures=[in_order, no_identities])
def fuse(model: onnx.ModelProto, shapes: Mapping[str, Shape], keep: Iterable[str]) -> None:
    """Rewrite `model` in place.

    Args:
        model: channels first, nodes in topological order.
        shapes: what is known of its tensors' shapes.
        keep: tensors that must stay.
    """
    keep = set(keep)
    join_activations(model, shapes, keep)
    _Fusion(model, shapes, keep).run()
    prune(model, keep)


class _Fusion:
    """One pass over one model."""

    def __init__(
        self, model: onnx.ModelProto, shapes: Mapping[str, Shape], keep: Iterable[str]
    ) -> None:
        self.graph = model.graph
        self.shapes = shapes
        self.weights = {item.name for item in self.graph.initializer}
        # A weight that is kept outside the graph is too large to be one value per channel.
        small = [item for item in self.graph.initializer if not is_stub(item)]
        self.constants = {item.name: numpy_helper.to_array(item) for item in small}
        self.makers = makers(self.graph.node)
        self.uses = read_counts(self.graph.node, keep)
        self.added: dict[str, NDArray[np.generic]] = {}

    def run(self) -> None:
        for node in list(self.graph.node):
            found = self.per_channel(node) if node.op_type in ("Add", "Mul") else None
            if found is None:
                continue
            data, values = found
            before = self.makers.get(data)
            if node.op_type == "Mul":
                if not self.is_scale_of_add(node):
                    self.normalise(node, data, values, np.zeros_like(values))
            elif before is not None and self.uses[data] == 1:
                scaled = self.per_channel(before) if before.op_type == "Mul" else None
                if scaled is not None:
                    self.normalise(node, *scaled, values)
                elif before.op_type == "Conv" and len(before.input) == 2:
                    before.input.append(self.constant(f"{data}/bias", values))
                    before.output[0] = node.output[0]
                    self.makers[node.output[0]] = before
                    node.output[0] = ""  # nothing reads it now, so it will be pruned
        self.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.added.items()
        )

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.added[name] = value
        return name

    def per_channel(self, node: onnx.NodeProto) -> tuple[str, NDArray[np.generic]] | None:
        """What a node combines with one constant per channel, and the constants, shape `(c,)`."""
        first, second = node.input
        for data, other in ((first, second), (second, first)):
            shape, value = self.shapes.get(data), self.constants.get(other)
            if value is None or shape is None or len(shape) < 3 or data in self.weights:
                continue
            if value.dtype.kind != "f":  # there is no normalisation of integers
                continue
            if value.shape == (1, shape[1], *(1,) * (len(shape) - 2)):
                return data, value.reshape(-1)
        return None

    def is_scale_of_add(self, node: onnx.NodeProto) -> bool:
        """Whether a later addition will take this multiplication in."""
        output = node.output[0]
        if self.uses[output] != 1:
            return False
        reader = next((n for n in self.graph.node if output in n.input), None)
        return reader is not None and reader.op_type == "Add" and bool(self.per_channel(reader))

    def normalise(
        self,
        node: onnx.NodeProto,
        data: str,
        scale: NDArray[np.generic],
        offset: NDArray[np.generic],
    ) -> None:
        """Turn `node` into data * scale + offset as a BatchNormalization."""
        output, dtype, channels = node.output[0], scale.dtype.name, scale.size
        inputs = [
            data,
            self.constant(f"{output}/scale", scale),
            self.constant(f"{output}/offset", offset),
            self.constant(f"zeros/{dtype}/{channels}", np.zeros_like(scale)),
            self.constant(f"ones/{dtype}/{channels}", np.ones_like(scale)),
        ]
        node.CopyFrom(helper.make_node("BatchNormalization", inputs, [output], epsilon=0.0))
