"""The values that a preprocessing recipe returns: a batch with others was not prepared by it.

This needs neither numpy nor Pillow, so that a batch that is ready can be looked at without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layertap._record import Record

TORCH_MEAN, TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB pixels in 0..1; the scaling `torch`."""
CAFFE_MEAN = (103.939, 116.779, 123.68)
"""Of BGR pixels in 0..255; the scaling `caffe`."""

WHITE, DEEP_WHITE = 255.0, 65535.0
"""The largest pixel of 8 and of 16 bits."""


class ValueRange(Record):
    """The smallest and the largest value of a prepared batch."""

    low: float
    high: float
    deep_high: float
    """The largest value where grey of 16 bits keeps its values; otherwise as `high`."""
    centred: bool = False
    """Whether each image has a mean of 0; its values can be any then."""

    def can_hold(self, low: float, high: float) -> bool:
        """Whether a prepared batch can have these as its smallest and largest value."""
        if self.centred:
            return low < 0 < high or low == high == 0
        slack = (self.high - self.low) / 1000
        if not self.low - slack <= low:
            return False
        # Pixels of 8 bits that were not centred look like prepared pixels of 16 bits.
        deep = low < 0 or self.low > -slack
        return high <= (self.deep_high if deep else self.high) + slack

    def __str__(self) -> str:
        if self.centred:
            return "values with a mean of 0"
        return f"values from {self.low:.4g} to {self.high:.4g}"


def value_range(recipe: Mapping[str, Any]) -> ValueRange | None:
    """The range of a recipe, as JSON data; `None` if the recipe is invalid."""
    try:
        scaling = recipe.get("scaling") or {"mode": None}
        if scaling["mode"] == "samplewise":
            return ValueRange(0.0, 0.0, 0.0, True)
        factors, offsets = _FORMULAS[scaling["mode"]](scaling)
        pairs = list(zip(_spread(factors, offsets), _spread(offsets, factors), strict=True))
        ends = [f * pixel + b for f, b in pairs for pixel in (0.0, WHITE)]
        deep = recipe.get("color_mode") == "grayscale" and recipe.get("depth", "clip") == "clip"
        bright = [f * DEEP_WHITE + b for f, b in pairs] if deep else []
        return ValueRange(min(ends), max(ends), max(ends + bright))
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _spread(values: Any, others: Any) -> list[float]:
    """A list of one number per channel, also where all channels have the same number."""
    spread = [float(x) for x in values] if isinstance(values, (list, tuple)) else [float(values)]
    alike = len(others) if isinstance(others, (list, tuple)) and len(spread) == 1 else 1
    return spread * alike


def _divided(values: Any, by: Any) -> list[float]:
    return [a / b for a, b in zip(_spread(values, by), _spread(by, values), strict=True)]


def _negative(values: Sequence[float]) -> list[float]:
    return [-value for value in values]


_FORMULAS: Mapping[Any, Any] = {
    None: lambda _: (1.0, 0.0),
    "standardize": lambda s: (
        _divided(1.0, s["std"]),
        _negative(_divided(s["mean"], s["std"])),
    ),
    "rescale": lambda s: (s["scale"], s.get("offset", 0.0)),
    "tf": lambda _: (1 / 127.5, -1.0),
    "torch": lambda _: (
        _divided(1 / 255, TORCH_STD),
        _negative(_divided(TORCH_MEAN, TORCH_STD)),
    ),
    "caffe": lambda _: (1.0, _negative(CAFFE_MEAN)),
}
"""By mode: the factors and offsets of the pixels, one number or one per channel."""
