"""How far a layer of one file is from the same layer of another, in numbers and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """How far a layer of one file is from the same layer of another."""

    name: str
    """The layer's name in the first file."""
    other_name: str
    """Its name in the second file."""
    type: str
    """The layer's class; `output` for an output of the model that is no layer."""
    scaled: float
    """The scaled error: the largest absolute difference over all samples, divided by the largest
    absolute value in the first file; infinite for a NaN or another shape in one file alone; for
    values that are not real numbers, the share of unequal elements."""
    allowed: float
    """Largest scaled error that passes."""
    max_abs: float
    """The largest absolute difference."""
    cosine: float
    """The cosine of the angle between all values of both files as vectors; NaN where all are 0."""
    snr: float
    """Signal to noise in decibels: 10 log10 of the sum of the squares of the first file's values,
    divided by that of the differences; infinite where nothing differs, NaN where not known."""
    channels: float | None = None
    """The share of channels in which a value differs by more than `allowed`; `None` for a layer
    without channels."""
    born: float | None = None
    """The scaled error that is born in this layer: of the layer computed by the second file from
    the first file's values of the layers before it. The rest of `scaled` is inherited. `None`
    where it cannot be computed."""
    born_unknown: str = ""
    """Why `born` is `None`."""
    top_class: float | None = None
    """For an output with classes, the share of samples (or positions) with the same best class."""
    problem: str = ""
    """Another shape, or values that are not finite in one file alone."""
    tensors: tuple[str, ...] = ()
    """The layer's tensors in the graph of the second file."""
    nodes: tuple[str, ...] = ()
    """The nodes that make them, as Model Explorer names them; empty for a record."""

    @property
    def passed(self) -> bool:
        """Whether `scaled` is allowed."""
        return self.scaled <= self.allowed

    @property
    def damage(self) -> float:
        """`born`, or where that is not known, `scaled`."""
        return self.scaled if self.born is None else self.born


def error_text(value: float | None) -> str:
    """`1.2e-03`; `0` for none at all, empty if it is not known."""
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:.1e}"


def name_text(row: LayerComparison) -> str:
    """`conv`; `conv = conv_1` where the files have other names."""
    return row.name if row.name == row.other_name else f"{row.name} = {row.other_name}"


def cosine_text(value: float) -> str:
    """`0.999994`; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.6f}"


def decibels(value: float) -> str:
    """`40.0`; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.1f}"


def share(value: float | None, digits: int) -> str:
    """`5.26 %`; empty if there is none."""
    return "" if value is None else f"{100 * value:.{digits}g} %"
