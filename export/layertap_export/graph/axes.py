"""What the axes of a graph's tensors mean, while the graph is being made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import onnx

from layertap.format.axes import infer_axes
from layertap.format.card import TensorInfo
from layertap.format.graph import read_graph
from layertap.format.layer import Axes, Layer

T = TypeVar("T", Layer, TensorInfo)


def axes_of(
    model: onnx.ModelProto, known: Iterable[Layer] = (), *, by_size: bool = False
) -> dict[str, Axes]:
    """The axes by name of the tensor, see `layertap.format.axes`.

    Args:
        model: the graph; large weights may be stubs.
        known: layers, some of which state their axes.
        by_size: whether the size of an axis tells the channels of an image.
    """
    data = model.SerializeToString()
    stated = {row.tensor: row.axes for row in known if row.tensor and row.axes}
    return infer_axes(data, read_graph(data), stated, by_size=by_size)


def with_axes(items: Iterable[T], axes: Mapping[str, Axes]) -> tuple[T, ...]:
    """Layers, inputs or outputs with the axes of their tensors, as far as these are known."""
    return tuple(_with(item, axes) for item in items)


def _with(item: T, axes: Mapping[str, Axes]) -> T:
    tensor = item.tensor if isinstance(item, Layer) else item.name
    found = axes.get(tensor or "", item.axes)
    fits = found is not None and (len(found) == len(item.shape) or not item.dtype)
    return replace(item, axes=found) if fits else item
