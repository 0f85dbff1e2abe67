"""The gradient rules of all operators, merged from the themes in `rules/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from layertap_export.graph.operators import OPERATORS

from .rules import (
    arithmetic,
    convolution,
    elementwise,
    fourier,
    indexing,
    layout,
    matrix,
    normalisation,
    pooling,
    recurrent,
    reduction,
    resampling,
)
from .step import Rule


def merge(themes: Iterable[Mapping[str, Rule]]) -> Mapping[str, Rule]:
    """One table of rules.

    Raises:
        ValueError: an operator has two rules, has no row in `graph/operators.py`, or its row says
            that no gradient flows through it.
    """
    merged: dict[str, Rule] = {}
    for theme in themes:
        for op_type, rule in theme.items():
            if op_type in merged:
                raise ValueError(f"{op_type} has two rules.")
            if op_type not in OPERATORS:
                raise ValueError(f"{op_type} has a rule, but no row in graph/operators.py.")
            if OPERATORS[op_type].no_gradient:
                raise ValueError(
                    f"{op_type} has a rule, but its row in graph/operators.py says "
                    f"no_gradient={OPERATORS[op_type].no_gradient!r}."
                )
            merged[op_type] = rule
    return merged


RULES = merge(
    theme.RULES
    for theme in (
        elementwise,
        arithmetic,
        reduction,
        layout,
        indexing,
        matrix,
        fourier,
        convolution,
        pooling,
        resampling,
        normalisation,
        recurrent,
    )
)
"""Rules by operator."""

NO_GRADIENT = frozenset(op_type for op_type, row in OPERATORS.items() if row.no_gradient)
"""Operators through which no gradient flows. A layer that the score depends on in no other way has
the gradient 0."""
