"""What is known of one layer."""

from __future__ import annotations

from layertap._public import public
from layertap._record import Record

TYPE_CHECKING = False  # see _record.py: the table of layers is to be quick
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

Shape = tuple["int | None", ...]
"""A tensor's shape in Keras axis order, batch first; `None` is a free dimension."""

ITEM_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "complex128": 16,
    "float32": 4, "int32": 4, "uint32": 4,
    "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2,
    "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of one element; strings have none that could be stated."""


@public
class Layer(Record):
    """One layer of the model, and where its activations are."""

    name: str
    """The Keras path, unique in the model: `conv1_relu`, `backbone/conv1`, `encoder#1`."""
    type: str
    """Keras class name, for example `Conv2D`; in a file without a card the ONNX op type."""
    index: int
    """Position in `Model.layers`; without nesting also in Keras's `model.layers`."""
    shape: Shape
    """Output shape in Keras axis order, batch first; `None` is a free dimension."""
    dtype: str
    """numpy name of the output's dtype, for example `float32`."""
    parameters: int
    """Number of weights, as Keras's `layer.count_params()`."""
    inbound: tuple[str, ...]
    """Names of the layers whose outputs go in."""
    tensor: str | None
    """The ONNX tensor that carries the activations; `None` when the export left this layer out."""
    parent: str | None = None
    """Name of the layer inside which this one runs; `None` directly below the model."""
    why_not: str | None = None
    """Why no export can give the activations, if so: `it runs inside a loop, ...`."""
    per_sample: bool | None = None
    """`False` if the first axis does not count samples: where a layer takes all windows of all
    images for one batch, or gives something that does not depend on the input."""
    extra: Mapping[str, Any] = {}
    """What a newer layertap's card says of the layer beside that."""

    @property
    def exposed(self) -> bool:
        """Whether the file can give this layer's activations."""
        return self.tensor is not None

    def nbytes(self, batch: int = 1) -> int | None:
        """Bytes of one activation for a batch of `batch`, if the other axes and the dtype tell."""
        total = ITEM_BYTES.get(self.dtype)
        if self.per_sample is False and None in self.shape:
            return None
        if total is None or None in self.shape[1:]:
            return None
        for size in self.shape:
            total *= batch if size is None else size
        return total
