"""The description of one layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from layertap._public import public
from layertap._record import Record

Shape = tuple["int | None", ...]
"""A tensor's shape in Keras axis order, batch first; `None` is a free dimension."""

Axes = str
"""What each axis of a tensor means, one letter for each: `NHWC`, `NCHW`, `NTC`, `NC`.

`N` is the axis of the samples, `C` of the channels (or features), `D`, `H` and `W` are depth,
height and width, `T` is time, or the position in a sequence. `?` is any other axis, such as the
heads of attention scores.
"""

AXIS_LETTERS = "NCDHWT"
"""The letters in `Axes`; each occurs at most once. In addition, `?` may occur several times."""

ITEM_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "complex128": 16,
    "float32": 4, "int32": 4, "uint32": 4,
    "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2,
    "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of one element, by dtype. Strings have no fixed size."""


MOST_BYTES = 1 << 63
"""No memory has as many bytes."""


@public
class Layer(Record):
    """One layer of the model."""

    name: str
    """The Keras path, unique in the model: `conv1_relu`, `backbone/conv1`, `encoder#1`."""
    type: str
    """Keras class name, for example `Conv2D`; in a file without a card, the ONNX op type."""
    index: int
    """Index in `Model.layers`; in a model without nested layers, also in Keras's `model.layers`."""
    shape: Shape
    """Output shape in Keras axis order, batch first; `None` is a free dimension."""
    dtype: str
    """numpy name of the output's dtype, for example `float32`."""
    parameters: int
    """Number of weights, as returned by Keras's `layer.count_params()`."""
    inbound: tuple[str, ...]
    """Names of the layers that feed this one."""
    tensor: str | None
    """The ONNX tensor with the activations; `None` if the file does not expose this layer."""
    parent: str | None = None
    """Name of the layer that contains this one; `None` for a layer directly in the model."""
    why_not: str | None = None
    """If no export can expose the activations, the reason: `it runs inside a loop, ...`."""
    per_sample: bool | None = None
    """`False` if the first axis is not the sample axis. This happens if a layer processes all
    windows of all images as one batch, or if its output does not depend on the input."""
    axes: Axes | None = None
    """What each axis of `shape` means, for example `NHWC`; `None` if it is not known."""
    extra: Mapping[str, Any] = {}
    """Further keys of the layer in a card written by a newer layertap."""

    @property
    def exposed(self) -> bool:
        """Whether the file contains this layer's activations as a tensor."""
        return self.tensor is not None

    @property
    def channel_axis(self) -> int | None:
        """Index of the axis of the channels; `None` if there is none, or if it is not known."""
        return channel_axis(self.axes)

    def nbytes(self, batch: int = 1) -> int | None:
        """Bytes of the activations for `batch` samples; `None` if it is unknown."""
        total = ITEM_BYTES.get(self.dtype)
        if self.per_sample is False and None in self.shape:
            return None
        if total is None or None in self.shape[1:]:
            return None
        for size in self.shape:
            total *= batch if size is None else size
        return total if total < MOST_BYTES else None


def channel_axis(axes: Axes | None) -> int | None:
    """Index of the axis of the channels; `None` if there is none, or if it is not known."""
    found = axes.find("C") if axes else -1
    return found if found >= 0 else None


def uncounted(name: str) -> str:
    """A path of names without the numbers by which Keras and we tell equal names apart."""
    return re.sub(r"~\d+|_\d+(?=[/#:~]|$)", "", name)
