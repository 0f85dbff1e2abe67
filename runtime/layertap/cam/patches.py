"""Tokens of a vision transformer as the patches of its image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from layertap.errors import ModelFileError
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
        check_patches(layer.name, by_token.shape[1], tokens.grid, first)
        patches = by_token[:, first : first + rows * columns]
        return patches.reshape(len(patches), rows, columns, *by_token.shape[2:])

    return fold


def check_patches(layer: str, tokens: int, grid: tuple[int, int], first: int) -> None:
    """Check that a sequence of tokens has as many patches as the card states.

    The card is compared with the graph when it is read; a graph with free sizes does not tell.

    Raises:
        ModelFileError: it is shorter.
    """
    if first + grid[0] * grid[1] > tokens:
        raise ModelFileError(
            f"the file is damaged: {layer!r} has {tokens} tokens, but the card states {first} "
            f"before {grid[0]} x {grid[1]} patches. Export it again."
        )
