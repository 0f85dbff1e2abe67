"""Read optional parts of a card that must be present, and the layers that failed in an export."""

from __future__ import annotations

from typing import Any

from layertap.format.card import Card, Golden, Gradients, Verification


def gradients_of(card: Card) -> Gradients:
    assert card.gradients is not None
    return card.gradients


def golden_of(card: Card) -> Golden:
    assert card.golden is not None
    return card.golden


def verification_of(card: Card) -> Verification:
    assert card.verification is not None
    return card.verification


def failed_in(error: Any) -> list[str]:
    """Names of the layers that failed, by the report of an error."""
    return [item.name for item in error.report.failed]
