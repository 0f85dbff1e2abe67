"""The large weights of a graph that is being made, kept outside it.

A protobuf message copies what is put into it, every pass over the graph copies it again, and no
message may hold more than 2 GB. So a weight of STUB_BYTES or more is only a stub in the graph: an
initializer with a name, dtype and shape, marked as external data, with an index into the table
here. The values stay where they are, for most weights in Keras's own variables, until the file is
written.
"""

from __future__ import annotations

from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

STUB_BYTES = 1 << 16
"""Smallest weight, in bytes, that is kept outside the graph."""


class Initializers:
    """The values of a graph's initializers, in the graph or outside it."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def make(self, value: NDArray[Any], name: str) -> onnx.TensorProto:
        """An initializer with this value, which is not copied if it is large."""
        if value.nbytes < STUB_BYTES or value.dtype == object:
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


def is_stub(initializer: onnx.TensorProto) -> bool:
    """Whether its values are kept outside the graph."""
    return initializer.data_location == onnx.TensorProto.EXTERNAL
