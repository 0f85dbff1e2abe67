"""The result of adding gradients to a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from layertap._public import public
from layertap.format.card import Card
from layertap.format.text import Readable, printable
from layertap_export.verification.finite_differences import Slopes


@public
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class GradientReport(Readable):
    """The gradients that were added to a file, and their distance from central differences."""

    path: Path
    card: Card
    compared: Mapping[str, Slopes]
    """By layer, along random directions; only those that were compared within the time."""
    batch: str
    """The batches, in words."""
    tolerance: float
    size_bytes: int
    seconds: float

    def __bool__(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """The layers whose gradients differ by more than the tolerance, or are NaN."""
        return tuple(
            name for name, slopes in self.compared.items() if not slopes.scaled <= self.tolerance
        )

    @property
    def worst(self) -> str:
        """The layer with the largest scaled error."""
        return max(self.compared, key=lambda name: self.compared[name].scaled)

    def __str__(self) -> str:
        gradients = self.card.gradients
        assert gradients is not None
        count = len(gradients.tensors)
        largest = self.compared[self.worst].scaled if self.compared else 0.0
        if self.failed:
            return (
                f"{self.path}: {len(self.failed)} of {len(self.compared)} gradients differ from "
                f"central differences by more than {self.tolerance:.0e}. The largest scaled error "
                f"is {largest:.1e} in {self.worst!r}."
            )
        score = "the logits of " if gradients.score == "logits" else ""
        written = (
            f"wrote {self.path} ({self.size_bytes / 1e6:.1f} MB, gradients of {score}"
            f"{gradients.scored!r} at {count} layer{'s' if count > 1 else ''}) in "
            f"{self.seconds:.0f} s\n"
        )
        written += "".join(f"note: {printable(note)}\n" for note in self.card.notes or ())
        if not self.compared:
            return (
                f"{written}none of the gradients could be compared with central differences: there "
                "was too little time, the scores depend too little on the layers, or the onnx "
                "package computes other values"
            )
        some = "" if len(self.compared) == count else "; the others were not compared"
        return (
            f"{written}compared {len(self.compared)} of {count} gradients with central differences "
            f"in float64 ({self.batch}): largest scaled error {largest:.1e} in {self.worst!r}, "
            f"allowed {self.tolerance:.0e}{some}"
        )
