"""Reductions computed in the graph, so that only the small result leaves the session.

Each is a few nodes at the end of the cut. Operators are written for the file's own opset: axes are
an attribute of ReduceMean and ReduceMax before opset 18, and an input since then; the number of
channels is an attribute of TopK before opset 10.
See https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from layertap.errors import UsageError, suggest
from layertap.format.graph import ELEMENT_TYPES, TensorType
from layertap.format.layer import Axes, Layer, channel_axis
from layertap.format.text import shape_text

from .nodes import int64_tensor, node_field
from .plan import Appended, Leaf, Perm

NAMES = ("mean", "max", "mean_l2", "flatten", "top5")
"""The names of reductions; `top5` stands for any number of channels."""

DTYPES = ("float16", "float32", "float64")
"""The dtypes that values may be cast to."""


def check_name(how: object) -> str:
    """Return the name of a reduction.

    Raises:
        UsageError: it is unknown.
    """
    if isinstance(how, str) and (how in NAMES or re.fullmatch(r"top[1-9]\d{0,8}", how)):
        return how
    raise UsageError(
        f"unknown reduction {how!r}.{suggest(how, NAMES) if isinstance(how, str) else ''} "
        f"Give one of {', '.join(map(repr, NAMES))} (or another number), or None for the whole "
        "activation."
    )


def check_dtype(dtype: object) -> str:
    """Return the name of a dtype to cast to, from a string, a numpy dtype or a scalar type.

    Raises:
        UsageError: layertap cannot cast to it.
    """
    name = str(getattr(dtype, "__name__", dtype))
    if name not in DTYPES:
        raise UsageError(
            f"dtype must be one of {', '.join(DTYPES)}, got {name!r}.{suggest(name, DTYPES)}"
        )
    return name


def append(
    layer: Layer,
    leaf: Leaf,
    how: str | None,
    dtype: str | None,
    opset: int,
    meanings: Axes,
) -> Appended | None:
    """The nodes that reduce a layer's activation and cast the result.

    Args:
        leaf: how the layer's tensor is made from the source that the cut computes.
        how: the reduction, or `None` for the whole activation.
        dtype: what floating-point results are cast to; `None` leaves them as they are.
        opset: of the file's standard operators.
        meanings: what each axis of the layer means; not read without a reduction.

    Returns:
        `None` if there is nothing to do. The result is the first output; `top5` has a second,
        the indices.

    Raises:
        UsageError: the layer lacks the axes that the reduction needs.
    """
    kind = layer.dtype
    if how is None:
        if not _differs(kind, dtype):
            return None
        nodes = _Nodes(f"{dtype}:{leaf.source}", leaf.source, opset)
        return nodes.cast(str(dtype)).finish(str(dtype), leaf.perms)

    source, axes = leaf.source, _axes(layer, leaf, how, meanings)
    if how == "flatten" or axes is None:  # the values must be in the order of the layer's own axes
        source = str(layer.tensor)
        axes = [axis for axis, letter in enumerate(meanings) if letter not in "NC"]
    nodes = _Nodes(f"{how}:{dtype or ''}:{source}", source, opset)
    if how == "flatten":
        nodes.add("Flatten", axis=1)
    elif how == "max":
        nodes.reduce("ReduceMax", axes)
    else:
        if "float" not in kind:
            kind = "float32"
            nodes.cast(kind)
        nodes.reduce("ReduceMean", axes)
        if how == "mean_l2":
            nodes.add("LpNormalization", axis=-1, p=2)
        elif how.startswith("top"):
            nodes.top(int(how[3:]))
    if _differs(kind, dtype):
        kind = str(dtype)
        nodes.cast(kind)
    return nodes.finish(kind)


def _differs(kind: str, dtype: str | None) -> bool:
    """Whether values of `kind` are cast; integers are not."""
    return dtype is not None and kind != dtype and (not kind or "float" in kind)


def _axes(layer: Layer, leaf: Leaf, how: str, meanings: Axes) -> list[int] | None:
    """The source's axes except batch and channels; `None` if the channels come before the batch."""
    rank = len(layer.shape)
    if not layer.dtype:
        raise UsageError(
            f"{how!r} needs the shape of {layer.name!r}, which the file does not state."
        )
    if rank < 2 and how != "flatten":
        raise UsageError(
            f"{how!r} needs an axis of channels, but {layer.name!r} has shape "
            f"{shape_text(layer.shape)}."
        )
    if rank < 1:
        raise UsageError(f"{layer.name!r} is a scalar and cannot be flattened.")
    channels = 1 if rank == 2 and "C" not in meanings else channel_axis(meanings)
    if how != "flatten" and channels is None:
        raise UsageError(
            f"{how!r} needs an axis of channels, but {layer.name!r}, of shape "
            f"{shape_text(layer.shape)}, has none: its axes are {meanings} (docs/file-format.md)."
        )
    order = list(range(rank))
    for perm in leaf.perms:
        turned = tuple(reversed(range(rank))) if perm is None else perm
        if sorted(turned) != list(range(rank)):
            return None
        order = [order[axis] for axis in turned]
    kept = [order[max(meanings.find("N"), 0)], order[channels or 0]]
    if how.startswith("top"):
        known = layer.shape[channels or 0]
        if known is not None and int(how[3:]) > known:
            raise UsageError(f"{how!r} needs more channels than the {known} of {layer.name!r}.")
    rest = [axis for axis in range(rank) if axis not in kept]
    return rest if kept == sorted(kept) else None


class _Nodes:
    """A chain of nodes: each reads the output of the one before it."""

    def __init__(self, label: str, source: str, opset: int) -> None:
        if opset < 1:
            raise UsageError(
                "the file does not import the standard operators, so none can be added to it."
            )
        self.label = f"layertap:{label}"
        self._source = self._now = source
        self._opset = opset
        self._count = 0
        self._fields: list[bytes] = []
        self._indices: str | None = None

    def _name(self) -> str:
        self._count += 1
        return f"{self.label}/{self._count}"

    def add(self, op_type: str, *reads: str, also: Sequence[str] = (), **values: Any) -> None:
        """Append a node; `values` are its attributes."""
        made = self._name()
        self._fields.append(node_field(op_type, [self._now, *reads], [made, *also], **values))
        self._now = made

    def cast(self, dtype: str) -> _Nodes:
        """Append a cast."""
        self.add("Cast", to=ELEMENT_TYPES.index(dtype))
        return self

    def reduce(self, op_type: str, axes: Sequence[int]) -> None:
        """Append a reduction of `axes`."""
        if not axes:
            return  # without axes, these operators reduce all of them
        if self._opset < 18:
            self.add(op_type, axes=axes, keepdims=0)
        else:
            self.add(op_type, self._constant(axes), keepdims=0)

    def top(self, count: int) -> None:
        """Append a TopK along the last axis."""
        self._indices = f"{self.label}/channels"
        if self._opset < 10:
            self.add("TopK", also=[self._indices], axis=-1, k=count)
        else:
            self.add("TopK", self._constant([count]), also=[self._indices], axis=-1)

    def _constant(self, values: Sequence[int]) -> str:
        # Not an initializer, which up to IR version 3 would have to be an input as well.
        name = self._name()
        self._fields.append(node_field("Constant", [], [name], value=int64_tensor(values)))
        return name

    def finish(self, dtype: str, perms: tuple[Perm, ...] = ()) -> Appended:
        """The chain, with its end named by the label."""
        end = node_field("Identity", [self._now], [self.label])
        writes = {self.label: (TensorType(dtype), perms)}
        if self._indices:
            writes[self._indices] = TensorType("int64"), ()
        return Appended((self._source,), writes, b"".join([*self._fields, end]))
