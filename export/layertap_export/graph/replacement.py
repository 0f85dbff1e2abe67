"""The nodes that a pass puts in place of others, with what is known of their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from layertap.format.layer import Shape


class Replacement:
    """Collects nodes. All names begin with that of the tensor that they compute.

    Args:
        graph: gets the constants.
        shapes: what is known of the shapes of tensors; those of new tensors are added.
        output: the tensor that the last of the nodes makes.
    """

    def __init__(self, graph: onnx.GraphProto, shapes: dict[str, Shape], output: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph = graph
        self._shapes = shapes
        self._output = output
        self._constants = 0

    def emit(
        self, op_type: str, inputs: Sequence[str], shape: Shape | None = None, **attributes: Any
    ) -> str:
        """Add a node with one output, and return the name of that."""
        name = f"{self._output}/{op_type}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        if shape is not None:
            self._shapes[name] = shape
        return name

    def transposed(self, name: str, perm: Sequence[int]) -> str:
        """A tensor of a known rank with its axes in another order; itself if it is the same."""
        if list(perm) == sorted(perm):
            return name
        shape = self._shapes[name]
        return self.emit("Transpose", [name], tuple(shape[axis] for axis in perm), perm=list(perm))

    def constant(self, value: NDArray[np.generic]) -> str:
        """Add a constant, and return its name."""
        name = f"{self._output}/constant/{self._constants}"
        self._constants += 1
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        self._shapes[name] = value.shape
        return name

    def number(self, value: float) -> str:
        """Add a number in float32, and return its name."""
        return self.constant(np.array(value, np.float32))

    def finished(self) -> list[onnx.NodeProto]:
        """The nodes; the last makes the output."""
        self.nodes[-1].output[0] = self._output
        return self.nodes
