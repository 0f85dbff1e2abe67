"""Writing the finished graph to disk, weight by weight, without a copy of the whole in memory.

The bytes are those that `onnx.save` would write. Where they are too many for one file, the weights
go to a data file beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from layertap.format.card import KEY, Card
from layertap.format.data_file import DataFile
from layertap.format.graph import External
from layertap.format.limits import INLINE_BYTES, MAPPED_BYTES, REFERENCE_BYTES
from layertap.format.wire import header

from .errors import ExportError
from .graph.weights import Initializers, is_stub

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
"""Field numbers in ModelProto, GraphProto and TensorProto."""


class Writer:
    """Writes one graph, first to be verified, then with what that found out."""

    def __init__(self, model: onnx.ModelProto, initializers: Initializers, data: DataFile) -> None:
        """Takes the finished graph; where it is too large, its weights go to `data` now."""
        self._model = model
        self._initializers = initializers
        self._data = data
        self._moved: dict[str, tuple[int, int]] = {}
        self._inside: dict[str, External] = {}
        weights = sum(self._value(x).nbytes for x in model.graph.initializer if is_stub(x))
        self._mapped = weights > MAPPED_BYTES
        if model.ByteSize() + weights > INLINE_BYTES:
            self._move_weights()

    def _value(self, item: onnx.TensorProto) -> NDArray[Any]:
        return self._initializers.value(item)

    def _move_weights(self) -> None:
        for item in self._model.graph.initializer:
            value = self._value(item)
            if item.data_type != onnx.TensorProto.STRING and value.nbytes >= REFERENCE_BYTES:
                self._moved[item.name] = self._data.add(raw_bytes(value))
        self._data.flush()

    def write(self, path: Path, card: Card) -> None:
        """Write the model, as it is now, to `path`."""
        moved = {name: self._data.refer(place) for name, place in self._moved.items()}
        with path.open("wb") as file:
            for part, name in self._parts(moved):
                if name:
                    self._inside[name] = External(path.name, file.tell(), len(part))
                file.write(part)
            file.write(self._tail(card))

    @contextmanager
    def opened_lightly(self, path: Path, card: Card) -> Iterator[Path]:
        """The file for a session to open: `path` itself, or, if its weights are many, a model
        beside it that refers to those in `path`, so that no session reads them into memory."""
        if self._moved or not self._mapped:
            yield path
            return
        light = path.with_name(f"{path.stem}.light{path.suffix}")
        try:
            with light.open("wb") as file:
                for part, _ in self._parts(self._inside):
                    file.write(part)
                file.write(self._tail(card))
            yield light
        finally:
            light.unlink(missing_ok=True)

    def _parts(
        self, references: Mapping[str, External]
    ) -> Iterator[tuple[bytes | memoryview, str | None]]:
        """All up to the end of the graph; the raw data of a weight with its name.

        Args:
            references: by name of the weight, where it stands, if not in this file.
        """
        graph = self._model.graph
        head, before, after = onnx.ModelProto(), onnx.GraphProto(), onnx.GraphProto()
        for field, value in self._model.ListFields():
            if field.number < GRAPH:
                setattr(head, field.name, value)
        before.name = graph.name
        before.node.extend(graph.node)
        after.CopyFrom(graph)
        del after.node[:], after.initializer[:]
        after.ClearField("name")
        first, last = _bytes(before), _bytes(after)
        stated = [self._stated(item, references.get(item.name)) for item in graph.initializer]
        sizes = [sum(map(len, parts)) for parts in stated]
        whole = sum(len(header(INITIALIZER, size)) + size for size in sizes)
        yield _bytes(head) + header(GRAPH, len(first) + whole + len(last)) + first, None
        for item, parts, size in zip(graph.initializer, stated, sizes, strict=True):
            yield header(INITIALIZER, size) + b"".join(parts[:2]), None
            if len(parts) == 3:
                yield raw_bytes(self._value(item)), item.name
        yield last, None

    def _stated(self, item: onnx.TensorProto, external: External | None) -> list[Any]:
        """An initializer's bytes: all of them, or what stands before the raw data, the header of
        these, and something of their length."""
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

    def _tail(self, card: Card) -> bytes:
        """What stands behind the graph: the card comes last."""
        tail = onnx.ModelProto()
        for field, value in self._model.ListFields():
            if field.number > GRAPH:
                getattr(tail, field.name).extend(value)
        tail.metadata_props.add(key=KEY, value=card.to_json())
        return _bytes(tail)


def check(model: onnx.ModelProto) -> None:
    """Return if the model is valid ONNX, and all its shapes and dtypes go together.

    Raises:
        ExportError: it is not.
    """
    light = onnx.ModelProto()
    light.CopyFrom(model)
    graph = light.graph
    inside = [item for item in graph.initializer if not is_stub(item)]
    for item in graph.initializer:  # of an input nobody expects the values either
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
