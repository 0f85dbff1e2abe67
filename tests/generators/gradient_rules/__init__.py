"""Forms of operators, by theme: each module has `CASES`, by what is special about them."""

from __future__ import annotations

from collections.abc import Mapping

from generators.gradient_rules import (
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
from generators.gradient_rules.operators import Case

THEMES = (
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

CASES: Mapping[str, Case] = {name: case for theme in THEMES for name, case in theme.CASES.items()}
"""All of them, by name."""

assert len(CASES) == sum(len(theme.CASES) for theme in THEMES)
