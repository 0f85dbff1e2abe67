"""Writing the finished graph to disk, weight by weight, without a second copy in memory.

The bytes are those that `onnx.save` would write. If the file would be too large, the weights go
to a data file in the same folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from layertap.format.card import KEY, Card
from layertap.format.data_file import DataFile
from layertap.format.graph import External
from layertap.format.limits import INLINE_BYTES, REFERENCE_BYTES
from layertap.format.wire import encode, header

from .errors import ExportError
from .graph.weights import Initializers, is_stub

GRAPH, METADATA, INITIALIZER, RAW_DATA = 7, 14, 5, 9
"""Field numbers in ModelProto (the first two), GraphProto and TensorProto."""


class Writer:
    """Writes one graph, once, and its card behind it.

    A file is verified between the two. The card cannot change what was verified: `append_card`
    opens the file for appending only, and a model's metadata are its last field.
    """

    def __init__(self, model: onnx.ModelProto, initializers: Initializers, data: DataFile) -> None:
        """
        Args:
            model: the finished graph; it must not be changed afterwards.
            initializers: the values of its stubs.
            data: takes the weights, now, of a graph that is too large for one file.
        """
        self._model = model
        self._initializers = initializers
        self._data = data
        self._moved: dict[str, tuple[int, int]] = {}
        weights = sum(self._value(x).nbytes for x in model.graph.initializer if is_stub(x))
        if model.ByteSize() + weights > INLINE_BYTES:
            self._move_weights()

    def _value(self, item: onnx.TensorProto) -> NDArray[Any]:
        return self._initializers.value(item)

    def _move_weights(self) -> None:
        for item in self._model.graph.initializer:
            value = self._value(item)
            if item.data_type != onnx.TensorProto.STRING and value.nbytes >= REFERENCE_BYTES:
                self._moved[item.name] = self._data.add(raw_bytes(value))
        self._data.settle()

    def write(self, path: Path) -> None:
        """Write the model without a card to `path`, and free the memory of its weights."""
        self._initializers.load()  # they may be in this file
        places = []
        with path.open("wb") as file:
            for part, weight in self._parts():
                if weight is not None:
                    places.append((weight, file.tell()))
                file.write(part)
        if places:
            self._initializers.leave_in_file(path, places)

    def _parts(self) -> Iterator[tuple[bytes | memoryview, onnx.TensorProto | None]]:
        """The bytes of the model, in parts, and for the values of a weight, its stub."""
        graph = self._model.graph
        head, before, after = onnx.ModelProto(), onnx.GraphProto(), onnx.GraphProto()
        tail = onnx.ModelProto()
        for field, value in self._model.ListFields():
            if field.number < GRAPH:
                setattr(head, field.name, value)
            elif field.number > GRAPH:
                getattr(tail, field.name).extend(value)
        before.name = graph.name
        before.node.extend(graph.node)
        after.CopyFrom(graph)
        del after.node[:], after.initializer[:]
        after.ClearField("name")
        first, last = _bytes(before), _bytes(after)
        moved = {name: self._data.refer(extent) for name, extent in self._moved.items()}
        stated = [self._stated(item, moved.get(item.name)) for item in graph.initializer]
        sizes = [sum(map(len, parts)) for parts in stated]
        whole = sum(len(header(INITIALIZER, size)) + size for size in sizes)
        yield _bytes(head) + header(GRAPH, len(first) + whole + len(last)) + first, None
        for item, parts, size in zip(graph.initializer, stated, sizes, strict=True):
            yield header(INITIALIZER, size) + b"".join(parts[:2]), None
            if len(parts) == 3:
                yield raw_bytes(self._value(item)), item
        yield last + _bytes(tail), None

    def _stated(self, item: onnx.TensorProto, external: External | None) -> list[Any]:
        """An initializer's bytes: all of them, or those before the raw data, the header of the raw
        data, and a range of their length."""
        if external is None and not is_stub(item):
            return [_bytes(item)]
        made = onnx.TensorProto(name=item.name, dims=item.dims, data_type=item.data_type)
        if external is None:
            size = self._value(item).nbytes
            return [_bytes(made), header(RAW_DATA, size), range(size)]
        made.data_location = onnx.TensorProto.EXTERNAL
        for key in ("location", "offset", "length"):
            made.external_data.add(key=key, value=str(getattr(external, key)))
        return [_bytes(made)]


def append_card(path: Path, card: Card) -> None:
    """Write a card behind the bytes of a model file, which do not change.

    A protobuf message may be continued: fields that follow add to those before, and the card is one
    more entry of the model's metadata.
    """
    entry = onnx.StringStringEntryProto(key=KEY, value=card.to_json())
    with path.open("ab") as file:
        file.write(encode(METADATA, _bytes(entry)))


def validate(model: onnx.ModelProto) -> None:
    """Check that a model is valid ONNX, and that all its shapes and dtypes are consistent.

    Raises:
        ExportError: it is not.
    """
    light = onnx.ModelProto()
    light.CopyFrom(model)
    graph = light.graph
    inside = [item for item in graph.initializer if not is_stub(item)]
    for item in graph.initializer:  # the values of an input are not expected
        if is_stub(item):
            made = onnx.helper.make_tensor_value_info(item.name, item.data_type, item.dims)
            graph.input.append(made)
    del graph.initializer[:]
    graph.initializer.extend(inside)
    try:
        onnx.checker.check_model(light, full_check=True)
    except Exception as exc:
        raise ExportError(f"the converted model is not valid ONNX: {exc}") from exc


def raw_bytes(value: NDArray[Any]) -> memoryview:
    """The bytes of an array in C order."""
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8).data


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data
