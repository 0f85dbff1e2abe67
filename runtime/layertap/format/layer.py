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

Grid = tuple[int, int]
"""Rows and columns of the patches that an image was divided into."""


class Attention(Record):
    """What the scores of an attention layer belong to, and which tokens are patches of an image."""

    of: str
    """Name of the attention layer; empty if the model's own code computes the scores."""
    heads: int
    """Number of heads, on the second axis of the scores `(n, heads, queries, keys)`; 0 if that is
    no axis of heads, as in `(n, queries, keys)`."""
    grid: Grid | None = None
    """Rows and columns of the patches among the queries and among the keys, row by row; `None` if
    they are no patches, or if the graph does not tell."""
    first: int = 0
    """Number of tokens before the patches, such as a class token."""
    extra: Mapping[str, Any] = {}


class Tokens(Record):
    """Which tokens of a sequence `(n, tokens, channels)` are the patches of an image."""

    grid: Grid
    """Rows and columns of the patches, which are in the sequence row by row."""
    first: int = 0
    """Number of tokens before the patches, such as a class token. There may be others after."""
    extra: Mapping[str, Any] = {}


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
    attention: Attention | None = None
    """What attention scores belong to; `None` for any other layer."""
    tokens: Tokens | None = None
    """Which tokens of the output are patches of an image; `None` if the file does not state it."""
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


def channel_or_last_axis(axes: Axes | None, rank: int) -> int:
    """Index of the axis of the channels of a tensor with `rank` axes; if it is not known, of the
    last one."""
    found = channel_axis(axes) if axes and len(axes) == rank > 2 else None
    return found or rank - 1


def uncounted(name: str) -> str:
    """A path of names without the numbers by which Keras and we tell equal names apart."""
    return re.sub(r"~\d+|_\d+(?=[/#:~]|$)", "", name)
