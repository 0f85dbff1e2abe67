"""Where Keras itself is not finite on a batch of unusual values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .report import LayerDifference


class NotFinite:
    """The layers of one batch that cannot be compared, because Keras returns NaN or an infinity
    there, or in a layer that runs before.

    Where a file returns the same NaN at the same places, it passes. Where it does not, nothing
    follows from that: operations treat a NaN in different ways, max pooling for example.
    """

    def __init__(
        self, expected: Mapping[str, NDArray[Any]], order: Mapping[str, tuple[int, int]]
    ) -> None:
        """
        Args:
            expected: Keras's values by the name of the output.
            order: sort keys of the outputs, by which the layers run.
        """
        self._bad = {name for name, value in expected.items() if not np.isfinite(scale_of(value))}
        self._first = min((order[name] for name in self._bad if name in order), default=None)
        self._order = order
        self._left_out = 0

    def excuses(self, name: str, found: LayerDifference, tolerance: float) -> bool:
        """Whether a difference says nothing about the file; it is counted."""
        if not self._bad or (not found.problem and found.scaled <= tolerance):
            return False
        behind = self._first is None or name not in self._order or self._order[name] > self._first
        if name not in self._bad and not behind:
            return False
        self._left_out += 1
        return True

    @property
    def words(self) -> str:
        """What was left out, for the description of the batch; empty if nothing was."""
        if not self._left_out:
            return ""
        layers = "layer" if self._left_out == 1 else "layers"
        return f" (without {self._left_out} {layers}: Keras is not finite there)"


def scale_of(value: NDArray[Any]) -> float:
    """The largest absolute value, NaN or infinite if one is; 0 for other than real numbers."""
    if value.dtype.kind not in "fiu" or not value.size:
        return 0.0
    # Without a copy: this is done for every activation of a network.
    return max(float(value.max()), -float(value.min()), key=lambda x: (x != x, x))


def finite_share(values: Mapping[str, NDArray[Any]]) -> float:
    """The share of finite elements among the real numbers of all layers; 1 if there are none."""
    count = sum(value.size for value in values.values() if value.dtype.kind == "f")
    bad = [value for value in values.values() if not np.isfinite(scale_of(value))]
    return 1.0 - sum(int((~np.isfinite(value)).sum()) for value in bad) / max(1, count)
