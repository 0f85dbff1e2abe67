"""The card of a stripped file: what a client needs to run it, and nothing about its origin."""

from __future__ import annotations

from collections.abc import Container, Iterable

from .card import Card
from .layer import Layer


def only(layers: Iterable[Layer], tensors: Container[str | None]) -> tuple[Layer, ...]:
    """The rows of the layers with some tensors, without references to the others."""
    from dataclasses import replace  # takes as long as Python takes to start

    rows = [layer for layer in layers if layer.tensor in tensors]
    names = {layer.name for layer in rows}
    return tuple(
        replace(
            layer,
            inbound=tuple(name for name in layer.inbound if name in names),
            parent=layer.parent if layer.parent in names else None,
        )
        for layer in rows
    )


def stripped(card: Card, outputs: Container[str | None]) -> Card:
    """The card without measured errors, golden sample, origin and notes, and with the rows of those
    layers alone that the file has as outputs.

    `layertap check` cannot check such a file.

    Args:
        outputs: of the graph.
    """
    from dataclasses import replace  # takes as long as Python takes to start

    return replace(
        card,
        layers=only(card.layers, outputs),
        verification=None,
        golden=None,
        images=None,
        notes=None,
        made_from=None,
        quantized=None,
        stripped=True,
        extra={},
    )
