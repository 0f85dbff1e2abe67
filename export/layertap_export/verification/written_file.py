"""A model file on disk, for comparisons that run it or parts of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from layertap._engine.library import FOLDER, spinning, supports_external_weights
from layertap._engine.session import plain_session
from layertap._engine.stopping import STOPPED
from layertap.format.card import CLASS_INPUTS, Gradients
from layertap.format.external import Weights, find_weights
from layertap.format.graph import ELEMENT_TYPES, External, read_graph
from layertap.format.limits import MAPPED_BYTES, REFERENCE_BYTES
from layertap.format.narrow import Narrow, narrow_tensors
from layertap.format.source import FileSource
from layertap.format.wire import LEN, Buffer, encode, fields, find
from layertap_export.errors import ExportError
from layertap_export.graph.graph import subgraph

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
"""Field numbers in ModelProto, GraphProto and TensorProto."""


class WrittenFile:
    """Runs a model file and parts of it, from the bytes on disk.

    The weights of a large file stay there: `model` refers to them, and onnxruntime maps them. That
    takes onnxruntime 1.21; older ones read all weights into memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The file's contents. Where `folder` is not `None`, large weights are external data."""
        if self.folder is None:
            return onnx.load(self.path)
        source = FileSource(self.path)
        with source.read(sparsely=True) as buffer:
            weights = find_weights(source, read_graph(buffer).locations)
            light = b"".join(_lightened(buffer, weights))
        model: onnx.ModelProto = onnx.ModelProto.FromString(light)
        return model

    @cached_property
    def folder(self) -> Path | None:
        """Where the external data of `model` is; `None` if all weights are inside."""
        source = FileSource(self.path)
        with source.read(sparsely=True) as buffer:
            locations = read_graph(buffer).locations
            large = len(buffer) >= MAPPED_BYTES
        if not supports_external_weights() or not (large or locations):
            return None
        return find_weights(source, locations).folder

    @cached_property
    def narrow(self) -> Mapping[str, Narrow]:
        """The tensors that are computed in float16 or bfloat16."""
        source = FileSource(self.path)
        with source.read(sparsely=True) as buffer:
            graph = read_graph(buffer)
        return narrow_tensors(source, graph)

    def loaded(self, item: onnx.TensorProto) -> onnx.TensorProto:
        """An initializer of `model`, with its data inside."""
        if self.folder is None or item.data_location != onnx.TensorProto.EXTERNAL:
            return item
        copy = onnx.TensorProto()
        copy.CopyFrom(item)
        load_external_data_for_tensor(copy, os.fspath(self.folder))
        copy.ClearField("data_location")
        del copy.external_data[:]
        return copy

    def session(self, gradients: Gradients | None = None) -> Any:
        """A plain onnxruntime session over the whole file, as any client would make it.

        Args:
            gradients: the card's entry for them. If the file has no default for the weights of the
                scores, each run that gets none feeds ones.

        Raises:
            ExportError: onnxruntime cannot open the file.
        """
        whole = self.path if self.folder is None else self.model.SerializeToString()
        ready = self._session(whole)
        if gradients is None or gradients.class_input != CLASS_INPUTS[1]:
            return ready
        return _Fed(ready, {gradients.weights: self.default_weights(gradients)})

    def default_weights(self, gradients: Gradients) -> NDArray[Any]:
        """The weights of the scores that count unless others are fed: the file's, or ones."""
        graph, name = self.model.graph, gradients.weights
        for item in graph.initializer:
            if item.name == name:
                return numpy_helper.to_array(self.loaded(item))
        kind = next(value.type.tensor_type for value in graph.input if value.name == name)
        sizes = [dim.dim_value or 1 for dim in kind.shape.dim]
        return np.ones(sizes, helper.tensor_dtype_to_np_dtype(kind.elem_type))

    def part(self, outputs: Sequence[str], given: Mapping[str, tuple[int, int]]) -> Any:
        """A session over the nodes that compute some tensors of the file from others.

        Args:
            outputs: names of the tensors to compute.
            given: by name, element types and ranks of tensors that need not be computed.

        Raises:
            ExportError: onnxruntime cannot open it.
        """
        return self._session(subgraph(self.model, outputs, given).SerializeToString())

    def _session(self, model: Any) -> Any:
        entries: dict[str, Any] = {
            "enable_cpu_mem_arena": False,  # it would keep all memory that a run took
            # Rearranged for speed, the weights of a large model would be in memory once more.
            "session.disable_prepacking": "1",
            **spinning(),  # Keras runs next
        }
        if self.folder is not None:
            entries[FOLDER] = os.fspath(self.folder)
        try:
            return plain_session(model, **entries)
        except STOPPED:
            raise
        except Exception as exc:
            raise ExportError(f"onnxruntime cannot open the exported file: {exc}") from exc


class _Fed:
    """A session that feeds some inputs itself unless they are given."""

    def __init__(self, session: Any, values: Mapping[str, NDArray[Any]]) -> None:
        self._session = session
        self._values = values

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, NDArray[Any]]) -> Any:
        return self._session.run(names, {**self._values, **feeds})


def tensor_types(values: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, int]]:
    """Element types (`TensorProto.DataType`) and ranks, by name."""
    return {
        name: (helper.np_dtype_to_tensor_dtype(value.dtype), value.ndim)
        for name, value in values.items()
    }


def _lightened(buffer: Buffer, weights: Weights) -> Iterator[bytes]:
    """The fields of a model, with references in place of large weights."""
    for number, wire_type, tag, start, end in fields(buffer, 0, len(buffer)):
        if number == GRAPH and wire_type == LEN:
            yield encode(GRAPH, b"".join(_light_graph(buffer, start, end, weights)))
        else:
            yield bytes(buffer[tag:end])


def _light_graph(buffer: Buffer, start: int, end: int, weights: Weights) -> Iterator[bytes]:
    for number, _, tag, at, stop in fields(buffer, start, end):
        raw = find(buffer, at, stop, RAW_DATA) if number == INITIALIZER else None
        here = weights.stay(*raw) if raw and raw[1] - raw[0] >= REFERENCE_BYTES else None
        if here is None:
            yield bytes(buffer[tag:stop])
        else:
            yield _reference(buffer, at, stop, here)


def _reference(buffer: Buffer, start: int, end: int, here: External) -> bytes:
    """An initializer whose data are external; integers, which may be a shape, stay inside."""
    kept = [
        bytes(buffer[tag:stop])
        for number, _, tag, _, stop in fields(buffer, start, end)
        if number != RAW_DATA
    ]
    item = onnx.TensorProto.FromString(b"".join(kept))
    if ELEMENT_TYPES[item.data_type] == "int64":
        return encode(INITIALIZER, bytes(buffer[start:end]))
    item.data_location = onnx.TensorProto.EXTERNAL
    for key in ("location", "offset", "length"):
        item.external_data.add(key=key, value=str(getattr(here, key)))
    return encode(INITIALIZER, item.SerializeToString())
