"""Which layer of a model is which layer of a file, where their names differ only in counters.

Keras numbers layers without a name in the order in which a process makes them: `dense_3` in one
process is `dense` in another. Files that layertap before 1.3 wrote have such numbers inside layers,
too, where the names of attributes stand now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from layertap.format.card import Card
from layertap.format.layer import Layer, uncounted
from layertap_export.keras_model.structure import Row

T = TypeVar("T", str, str | None)


def named_as_in(card: Card, rows: Sequence[Row]) -> Card:
    """The card with the names that a model's layers have in this process.

    If the file and the model have the same names, or are not the same model, the card stays as it
    is. Otherwise layers are matched by their place in the table, all or none: single names may
    occur in both and mean different layers.

    Args:
        card: the file's card.
        rows: the table of layers of the model.
    """
    if not any(layer.attention for layer in card.layers):  # a file of before format 1.4
        rows = [row for row in rows if not row.layer.attention]
    names = {layer.name for layer in card.layers}
    if names == {row.layer.name for row in rows} or len(card.layers) != len(rows):
        return card
    if not all(_alike(layer, row) for layer, row in zip(card.layers, rows, strict=True)):
        return card
    new = {layer.name: row.layer.name for layer, row in zip(card.layers, rows, strict=True)}

    def renamed(name: T) -> T:
        return new.get(name, name) if name is not None else name

    layers = tuple(
        replace(
            layer,
            name=renamed(layer.name),
            parent=renamed(layer.parent),
            inbound=tuple(map(renamed, layer.inbound)),
            attention=layer.attention and replace(layer.attention, of=renamed(layer.attention.of)),
        )
        for layer in card.layers
    )
    gradients = card.gradients
    if gradients:
        tensors = {renamed(name): tensor for name, tensor in gradients.tensors.items()}
        gradients = replace(gradients, tensors=tensors)
    return replace(card, layers=layers, gradients=gradients)


def _alike(layer: Layer, row: Row) -> bool:
    """Whether only counters differ, in the name of now or in that of former files."""
    name = uncounted(layer.name)
    return layer.type == row.layer.type and name in {
        uncounted(row.layer.name),
        uncounted(row.keras_name),
    }
