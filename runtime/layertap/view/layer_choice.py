"""Which layers of a model a page shows if none are named."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from layertap.format.operators import VIEWS

if TYPE_CHECKING:
    from layertap._engine.program import Program
    from layertap.format.layer import Layer

PASSING = ("ZeroPadding", "Dropout", "SpatialDropout", "Identity")
"""Beginnings of the classes of layers that show what others do."""


def representative(program: Program, rows: Sequence[Layer], most: int) -> list[Layer]:
    """Some of many layers, in their order: those that a reader looks for first, then evenly.

    First come inputs, outputs, layers with gradients, and the last layer before each change of
    shape; then layers that join others, and activations; then all others.
    """
    graph = program.graph
    gradients = program.card.gradients.tensors if program.card and program.card.gradients else {}
    outputs = {info.name for info in program.outputs}
    rows = [row for row in _distinct(program, rows) if not row.type.startswith(PASSING)]
    tiers: list[list[int]] = [[], [], []]
    for at, row in enumerate(rows):
        after = rows[at + 1] if at + 1 < len(rows) else None
        ends = after is None or (
            len(row.shape) > 2
            and (len(after.shape) != len(row.shape) or _space(after) < _space(row))
        )
        first = row.tensor in graph.inputs or row.tensor in outputs or row.name in gradients
        if first or ends:
            tiers[0].append(at)
        elif len(row.inbound) > 1 or row.type in ("Activation", "ReLU", "Relu", "Concat", "Add"):
            tiers[1].append(at)
        else:
            tiers[2].append(at)
    chosen: list[int] = []
    for tier in tiers:
        left = most - len(chosen)
        if len(tier) > left:
            step = len(tier) / left if left else 0
            tier = [tier[int((at + 0.5) * step)] for at in range(left)]
        chosen += tier
    return [rows[at] for at in sorted(chosen)]


def _space(row: Layer) -> int:
    """The number of positions of a layer, as far as it is known."""
    return math.prod(size for size in row.shape[1:-1] if size is not None)


def _distinct(program: Program, rows: Iterable[Layer]) -> list[Layer]:
    """Layers without those that only pass on the values of one before."""
    maker: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op_type in VIEWS and len(node.reads) == 1 and len(node.writes) == 1:
            maker[node.writes[0]] = maker.get(node.reads[0], node.reads[0])
    seen: set[str] = set()
    kept = []
    for row in rows:
        root = maker.get(str(row.tensor), str(row.tensor))
        if root not in seen:
            seen.add(root)
            kept.append(row)
    return kept
