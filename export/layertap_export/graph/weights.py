"""The large weights of a graph that is being made, kept outside it.

A protobuf message copies what is put into it, every pass over the graph copies it again, and no
message may hold more than 2 GB. So a weight of STUB_BYTES or more is only a stub in the graph: an
initializer with a name, dtype and shape, marked as external data, with an index into the table
here. The values stay where they are, for most weights in Keras's own variables, until the file is
written.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

STUB_BYTES = 1 << 16
"""Smallest weight, in bytes, that is kept outside the graph."""


class Initializers:
    """The values of a graph's initializers, in the graph or outside it."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []
        self._mapped: set[int] = set()

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

    def leave_in_file(self, path: Path, places: Iterable[tuple[onnx.TensorProto, int]]) -> None:
        """Free the memory of values that are in a file now: they are read from there.

        Args:
            path: the file.
            places: stubs, each with the first byte of its value in the file.
        """
        if os.name == "nt":  # there a mapped file cannot be renamed
            return
        with path.open("rb") as file:
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        for stub, start in places:
            index = int(stub.external_data[0].value)
            old = self._arrays[index]
            stored = data[start : start + old.nbytes]
            self._arrays[index] = stored.view(old.dtype).reshape(old.shape)
            self._mapped.add(index)

    def load(self) -> None:
        """Read values that are in a file back into memory, so that the file may be written."""
        for index in self._mapped:
            self._arrays[index] = self._arrays[index].copy()
        self._mapped.clear()


def is_stub(initializer: onnx.TensorProto) -> bool:
    """Whether its values are kept outside the graph."""
    return initializer.data_location == onnx.TensorProto.EXTERNAL
