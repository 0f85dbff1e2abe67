"""The card of a stripped file: what a client needs to run it, and nothing about its origin."""

from __future__ import annotations

from .card import Card


def stripped(card: Card) -> Card:
    """The card without measured errors, golden sample, origin and notes, and with the rows of those
    layers alone that the file has as outputs.

    `layertap check` cannot check such a file.
    """
    from dataclasses import replace  # takes as long as Python takes to start

    ends = {info.name for info in card.outputs}
    rows = [layer for layer in card.layers if layer.tensor in ends]
    names = {layer.name for layer in rows}
    layers = tuple(
        replace(
            layer,
            inbound=tuple(name for name in layer.inbound if name in names),
            parent=layer.parent if layer.parent in names else None,
        )
        for layer in rows
    )
    return replace(
        card,
        layers=layers,
        verification=None,
        golden=None,
        images=None,
        notes=None,
        made_from=None,
        extra={},
    )
