"""The large weights of a graph that is being made: beside it, not in it.

A protobuf message copies what is put into it, every rewriting of the graph copies it again, and
none may hold more than 2 GB. So a weight of LARGE bytes or more is only a stub in the graph: an
initializer with name, dtype and shape whose data is said to be external, under a key of the table
here. The values stay where they are, for most weights in Keras's own variables, until the file is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from layertap.format.limits import INLINE_BYTES
from layertap_export.errors import ExportError

from .graph import attributes

LARGE = 1 << 16
"""Bytes from which a weight is kept beside the graph."""


class Initializers:
    """The values of a graph's initializers, wherever they are."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def make(self, value: NDArray[Any], name: str) -> onnx.TensorProto:
        """An initializer with this value, which is not copied if it is large."""
        if value.nbytes < LARGE or value.dtype == object:
            return numpy_helper.from_array(value, name)
        made = onnx.TensorProto(
            name=name,
            dims=value.shape,
            data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
            data_location=onnx.TensorProto.EXTERNAL,
        )
        made.external_data.add(key="location", value=str(len(self._arrays)))
        self._arrays.append(value)
        return made

    def value(self, initializer: onnx.TensorProto) -> NDArray[Any]:
        """Its value: of a large one the array itself, which must not be written to."""
        if is_stub(initializer):
            return self._arrays[int(initializer.external_data[0].value)]
        return numpy_helper.to_array(initializer)

    def filled(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of a model that has all values in it.

        Raises:
            ExportError: they are too large for that.
        """
        made = onnx.ModelProto()
        made.CopyFrom(model)
        size = model.ByteSize()
        for item in made.graph.initializer:
            if is_stub(item):
                value = self.value(item)
                size += value.nbytes
                if size > INLINE_BYTES:
                    raise ExportError(
                        "gradients can be given to models of at most 2 GB, and this one is larger."
                    )
                item.CopyFrom(numpy_helper.from_array(value, item.name))
        return made


def is_stub(initializer: onnx.TensorProto) -> bool:
    """Whether its values are beside the graph."""
    return initializer.data_location == onnx.TensorProto.EXTERNAL


def weights_to_initializers(
    model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]], initializers: Initializers
) -> None:
    """Turn those of the graph's inputs that are weights into initializers.

    What a converter computes from constants as it goes (a kernel's transpose, its cast to
    float16), it had to leave in the graph for these: that is computed here.

    Args:
        model: changed in place; its nodes are in topological order.
        weights: values by name of the input.
        initializers: takes them in.
    """
    graph = model.graph
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    known = dict(weights)
    constants = {item.name: item for item in graph.initializer}
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    made: dict[tuple[object, ...], str] = {}
    nodes = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        first, *others = node.input or [""]
        rest = [numpy_helper.to_array(constants[name]) for name in others if name in constants]
        compute = _COMPUTED.get(node.op_type)
        if first not in known or len(rest) < len(others) or compute is None:
            nodes.append(node)
            continue
        output = node.output[0]
        settings = attributes(node)
        key = (first, node.op_type, str(settings), *(value.tobytes() for value in rest))
        same[output] = output if output in outputs else made.setdefault(key, output)
        if same[output] == output:
            known[output] = compute(known[first], rest, settings)
    kept = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in kept for name in node.input} | outputs
    graph.initializer.extend(
        initializers.make(value, name) for name, value in known.items() if name in read
    )


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


Compute = Callable[[NDArray[Any], Sequence[NDArray[Any]], Mapping[str, Any]], NDArray[Any]]


def _axes(rest: Sequence[NDArray[Any]], settings: Mapping[str, Any]) -> tuple[int, ...]:
    """An input since opset 13, an attribute before."""
    return tuple(int(axis) for axis in (rest[0] if rest else settings["axes"]))


_COMPUTED: Mapping[str, Compute] = {
    "Identity": lambda value, rest, settings: value,
    "Cast": lambda value, rest, settings: value.astype(
        helper.tensor_dtype_to_np_dtype(settings["to"])
    ),
    "Transpose": lambda value, rest, settings: value.transpose(settings.get("perm")),
    "Reshape": lambda value, rest, settings: value.reshape([int(size) for size in rest[0]]),
    "Unsqueeze": lambda value, rest, settings: np.expand_dims(value, _axes(rest, settings)),
    "Squeeze": lambda value, rest, settings: value.squeeze(_axes(rest, settings)),
}
"""What is computed of a weight at once; most of it without a copy."""
