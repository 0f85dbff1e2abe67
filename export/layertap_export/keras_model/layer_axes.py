"""Which axis of its output a Keras layer says are the channels."""

from __future__ import annotations

from typing import Any

from layertap.format.axes import image_axes
from layertap.format.layer import Axes

from .families import is_a


def stated_axes(layer: Any, rank: int) -> Axes | None:
    """The axes of a layer's output, if the layer has a setting for them; otherwise `None`.

    Layers with `data_format` (convolutions, poolings, paddings, ...) and normalisations over the
    channels state them. For all others they follow from the graph.

    Args:
        layer: the Keras layer.
        rank: the number of axes of its output.
    """
    data_format = getattr(layer, "data_format", None)
    if data_format in ("channels_first", "channels_last") and rank >= 2:
        first = data_format == "channels_first"
        if is_a(layer, "layers.ConvLSTM1D", "layers.ConvLSTM2D", "layers.ConvLSTM3D"):
            spatial = int(layer.cell.rank)
            space = {1: "W", 2: "HW", 3: "DHW"}.get(spatial, "")
            time = "T" if rank == spatial + 3 else ""
            return f"N{time}C{space}" if first else f"N{time}{space}C"
        return image_axes(rank, 1 if first else rank - 1)
    if is_a(layer, "layers.BatchNormalization", "layers.GroupNormalization"):
        axis = layer.axis
        if isinstance(axis, (list, tuple)) and len(axis) == 1:  # in Keras 2
            axis = axis[0]
        if isinstance(axis, int) and rank >= 2 and axis % rank:
            return image_axes(rank, axis % rank)
    return None
