"""Tokens of a vision transformer as the patches of its image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from layertap.format.layer import Layer

from .axes import Array, channels_last

if TYPE_CHECKING:
    from layertap._engine.program import Program


def folded(program: Program, layer: Layer) -> Callable[[Array], Array] | None:
    """What makes feature maps `(n, rows, columns, channels)` of a layer's tokens.

    The tokens before and after the patches are dropped. `None` if the file does not state that the
    layer's tokens are patches.
    """
    tokens = layer.tokens
    if tokens is None:
        return None
    (rows, columns), first = tokens.grid, tokens.first

    def fold(values: Array) -> Array:
        by_token = channels_last(program, str(layer.tensor), values)
        patches = by_token[:, first : first + rows * columns]
        return patches.reshape(len(patches), rows, columns, -1)

    return fold
