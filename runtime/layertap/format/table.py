"""The table of layers, as text for people and as plain objects for machines."""

from __future__ import annotations

from collections.abc import Sequence

from .layer import Layer
from .text import aligned, type_text

TYPE_CHECKING = False  # see _record.py: the table of layers is to be quick
if TYPE_CHECKING:
    from typing import Any

    from .cost import Cost

HEAD = ("index", "name", "class", "output shape", "parameters", "MB", "connected to")
RIGHT = {0, 4, 5}
"""Columns of numbers."""
LONGEST = 44
"""Characters of `connected to` in one line; more go into the next ones."""


def as_rows(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """One JSON object per layer: index, name, type, shape, dtype, parameters, inbound, exposed.

    `shape` has `null` for a free axis; `exposed` says whether the file gives the activations.
    Where there is one, `parent` names the layer around this one, and `why_not` says why no file
    gives the activations.
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
        }
        for layer in layers
    ]


def as_text(layers: Sequence[Layer], costs: Sequence[Cost]) -> str:
    """The table that `model.summary()` would print, and the MB that each activation costs."""
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
    """Names in lines of about `LONGEST` characters; no name is broken."""
    whole = ", ".join(names)
    if len(whole) <= LONGEST:
        return [whole]
    lines = [""]
    for position, name in enumerate(names):
        part = name if position == len(names) - 1 else f"{name}, "
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > LONGEST:
            lines.append("")
        lines[-1] += part
    return lines


def cost_text(cost: Cost) -> str:
    """MB of a million bytes, with `~` before an estimate; empty where nothing is known."""
    if cost.nbytes is None:
        return ""
    value = cost.nbytes / 1e6
    digits = 1 if value >= 10 else 2 if value >= 0.1 else 4 if value >= 0.001 else 6
    return f"{'' if cost.exact else '~'}{value:.{digits}f}"
