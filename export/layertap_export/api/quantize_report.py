"""The result of quantising a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layertap._public import public
from layertap.format.card import Card
from layertap.format.text import Readable, aligned, number_of, printable

SHOWN = 8
"""How many layers the text of a report lists."""


@public
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class QuantizeReport(Readable):
    """A quantised file, and its distance from the file that it was made from.

    All errors are scaled: the largest difference over the samples, divided by the largest value.
    The report is true unless the outputs are over the budget.
    """

    path: Path
    card: Card
    to: str
    """`float16` or `int8`."""
    outputs: Mapping[str, float]
    """The error of each of the model's outputs."""
    fused: Mapping[str, float]
    """How far the outputs are from those that are computed one operator after the other, as layers
    are: onnxruntime joins operators of a quantised file to operators on integers."""
    layers: Mapping[str, float]
    """The error of each exposed layer, the largest first."""
    levels: Mapping[str, str]
    """How each layer that can be quantised is computed: in `float16` or `int8`; `stored`, in
    float32 from weights in that dtype; or in `float32`."""
    budget: float | None
    calibrated: int
    """How many samples the ranges were measured on; 0 for float16."""
    samples: int
    """How many other samples the outputs were compared on."""
    trials: int
    """How many models the search for the budget has measured; 0 without a budget."""
    size_bytes: int
    source_bytes: int
    seconds: float

    def __bool__(self) -> bool:
        return not self.failed

    @property
    def error(self) -> float:
        """The largest error of an output."""
        return max(self.outputs.values(), default=0.0)

    @property
    def tolerance(self) -> float:
        """The largest error that is allowed; infinite without a budget."""
        return float("inf") if self.budget is None else self.budget

    @property
    def failed(self) -> tuple[str, ...]:
        """The outputs that are over the budget, or NaN."""
        return tuple(name for name, error in self.outputs.items() if not error <= self.tolerance)

    @property
    def ratio(self) -> float:
        """The size of the file, as a share of that of the original."""
        return self.size_bytes / self.source_bytes

    def to_dict(self) -> dict[str, Any]:
        """Everything but the card, as JSON data; an error that is not finite is `None`."""
        return {
            "file": str(self.path),
            "to": self.to,
            "size_bytes": self.size_bytes,
            "source_bytes": self.source_bytes,
            "outputs": {name: _finite(error) for name, error in self.outputs.items()},
            "fused": {name: _finite(error) for name, error in self.fused.items()},
            "budget": self.budget,
            "calibrated": self.calibrated,
            "samples": self.samples,
            "trials": self.trials,
            "seconds": round(self.seconds, 3),
            "layers": [
                {"name": name, "error": _finite(error), "level": self.levels.get(name)}
                for name, error in self.layers.items()
            ],
            "levels": dict(self.levels),
        }

    def _counts(self) -> str:
        """How many layers there are at each level."""
        found = list(self.levels.values())
        words = {
            "stored": f"computed in float32 from weights in {self.to}",
            "float32": "kept in float32",
        }
        return ", ".join(
            f"{number_of(found.count(level), 'layer')} {words.get(level, f'in {level}')}"
            for level in (self.to, "stored", "float32")
            if level in found
        )

    def __str__(self) -> str:
        errors = ", ".join(f"{error:.1e} in {name!r}" for name, error in self.outputs.items())
        on = number_of(self.samples, "sample")
        if self.failed:
            return (
                f"no levels of the layers keep to the budget of {self.budget:g}: the best that was "
                f"found, with {self._counts()}, has the error {printable(errors)} on {on}, after "
                f"{number_of(self.trials, 'trial')}. Give a larger budget, other images to "
                "calibrate with, or --to float16. Nothing was written."
            )
        lines = [
            f"wrote {self.path} ({self.size_bytes / 1e6:.1f} MB, {self.ratio:.2f} of the original) "
            f"in {self.seconds:.0f} s",
            self._counts(),
            f"error of the outputs on {on}: {printable(errors)}"
            + (f", allowed {self.budget:g}" if self.budget is not None else "")
            + (f"; calibrated on {self.calibrated} others" if self.calibrated else ""),
        ]
        if self.trials:
            lines.append(f"the search measured {number_of(self.trials, 'model')}")
        apart = max(self.fused.values(), default=0.0)
        if self.to == "int8":
            lines.append(
                f"predictions, which onnxruntime computes in integers, and layers differ by up to "
                f"{apart:.1e} of the scale of an output; with layertap.open(..., "
                "reproducible=True) they agree"
            )
        worst = [(name, error) for name, error in self.layers.items() if error][:SHOWN]
        if worst:
            rows = [("layer", "computed", "error")]
            rows += [
                (printable(name), self.levels.get(name, "float32"), f"{error:.1e}")
                for name, error in worst
            ]
            lines += [f"largest errors of {number_of(len(self.layers), 'layer')}:", aligned(rows)]
        return "\n".join(lines)


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None
