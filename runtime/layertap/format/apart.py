"""Outputs of a file that are no layers, and how to get them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .card import Card, TensorInfo


def ways(outputs: Iterable[TensorInfo], card: Card | None) -> Mapping[str, str]:
    """By name of an output, a sentence that says how to get it."""
    found = {
        info.name: "`Model.predict` returns it, and `layertap run` without --layers."
        for info in outputs
    }
    if card is not None and card.finished is not None and card.finished.heat_map is not None:
        found[card.finished.heat_map] = "`Model.cam` returns it, and `layertap cam`."
    if card is not None and card.gradients is not None:
        for layer, tensor in card.gradients.tensors.items():
            found[tensor] = (
                f"`Model.gradients` returns it, and `layertap run --layers {f'grad:{layer}'!r}`."
            )
    return found
