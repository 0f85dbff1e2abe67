"""The table of layers, as text and as JSON-compatible objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .cost import Cost
from .layer import Layer
from .text import aligned, megabytes, type_text

HEAD = ("index", "name", "class", "output shape", "parameters", "MB", "connected to")
RIGHT = {0, 4, 5}
"""Indices of the right-aligned columns, which contain numbers."""
MAX_NAMES = 50
"""Number of names in the column `connected to`, before the others are only counted."""
MAX_LINE = 44
"""Number of characters in one line of the column `connected to`, before it is wrapped."""


def as_rows(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """One JSON object per layer: index, name, type, shape, dtype, parameters, inbound, exposed.

    `shape` has `null` for a free axis. `exposed` states whether the file contains the activations.
    If present, `parent` is the name of the layer that contains this one, and `why_not` is the
    reason why no export can expose the activations. `axes` says what each axis of `shape` means, if
    the card states it: `NHWC`.
    """
    return [
        {
            "index": layer.index,
            "name": layer.name,
            "type": layer.type,
            "shape": list(layer.shape),
            "dtype": layer.dtype,
            "parameters": layer.parameters,
            "inbound": list(layer.inbound),
            "exposed": layer.exposed,
            **({"parent": layer.parent} if layer.parent is not None else {}),
            **({"why_not": layer.why_not} if layer.why_not is not None else {}),
            **({"axes": layer.axes} if layer.axes is not None else {}),
        }
        for layer in layers
    ]


def as_text(layers: Sequence[Layer], costs: Sequence[Cost]) -> str:
    """A table like that of Keras's `model.summary()`, with the size of each activation in MB."""
    rows = [HEAD]
    for layer, cost in zip(layers, costs, strict=True):
        inbound = _wrapped(layer.inbound)
        cells = (
            str(layer.index),
            layer.name if layer.exposed else f"({layer.name})",
            layer.type,
            type_text(layer.shape, layer.dtype),
            f"{layer.parameters:,}",
            cost_text(cost),
            inbound[0],
        )
        rows.append(cells)
        rows += [("", "", "", "", "", "", line) for line in inbound[1:]]
    return aligned(rows, RIGHT)


def _wrapped(names: Sequence[str]) -> list[str]:
    """Names in lines of at most `MAX_LINE` characters, unless a single name is longer."""
    if len(names) > MAX_NAMES:
        names = [*names[:MAX_NAMES], f"and {len(names) - MAX_NAMES} more"]
    text = ", ".join(names)
    if len(text) <= MAX_LINE:
        return [text]
    lines = [""]
    for index, name in enumerate(names):
        part = name if index == len(names) - 1 else f"{name}, "
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > MAX_LINE:
            lines.append("")
        lines[-1] += part
    return lines


def cost_text(cost: Cost) -> str:
    """The size in MB (10^6 bytes), with `~` before an estimate; empty if unknown."""
    return "" if cost.nbytes is None else f"{'' if cost.exact else '~'}{megabytes(cost.nbytes)}"
