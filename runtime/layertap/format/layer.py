"""The description of one layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layertap._public import public
from layertap._record import Record

Shape = tuple["int | None", ...]
"""A tensor's shape in Keras axis order, batch first; `None` is a free dimension."""

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
    extra: Mapping[str, Any] = {}
    """Further keys of the layer in a card written by a newer layertap."""

    @property
    def exposed(self) -> bool:
        """Whether the file contains this layer's activations as a tensor."""
        return self.tensor is not None

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
