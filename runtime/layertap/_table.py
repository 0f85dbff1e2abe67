"""The table of layers, as text for people and as plain objects for machines."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import Any

from ._cost import Cost
from ._layer import Layer, Shape

HEAD = ("index", "name", "class", "output shape", "parameters", "MB", "connected to")
RIGHT = {0, 4, 5}
"""Columns of numbers."""
LONGEST = 44
"""Characters of `connected to` in one line; more go into the next ones."""


def as_rows(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """One JSON object per layer: index, name, type, shape, dtype, parameters, inbound, exposed.

    `shape` has `null` for a free axis; `exposed` says whether the file gives the activations.
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
        }
        for layer in layers
    ]


def as_text(layers: Sequence[Layer], costs: Sequence[Cost]) -> str:
    """The table that `model.summary()` would print, and the MB that each activation costs."""
    rows = [HEAD]
    for layer, cost in zip(layers, costs, strict=True):
        inbound = textwrap.wrap(", ".join(layer.inbound), LONGEST) or [""]
        cells = (
            str(layer.index),
            layer.name if layer.exposed else f"({layer.name})",
            layer.type,
            shape_text(layer.shape),
            f"{layer.parameters:,}",
            cost_text(cost),
            inbound[0],
        )
        rows.append(cells)
        rows += [("", "", "", "", "", "", line) for line in inbound[1:]]
    return aligned(rows, RIGHT)


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows in columns, with a rule below the first; `right` names columns of numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def shape_text(shape: Shape) -> str:
    """`(None, 10, 10, 1024)`, as Keras prints it."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def cost_text(cost: Cost) -> str:
    """MB of a million bytes, with `~` before an estimate; empty where nothing is known."""
    if cost.nbytes is None:
        return ""
    value = cost.nbytes / 1e6
    digits = 1 if value >= 10 else 2 if value >= 0.1 else 4 if value >= 0.001 else 6
    return f"{'' if cost.exact else '~'}{value:.{digits}f}"
