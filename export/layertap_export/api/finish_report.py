"""The result of finishing a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from layertap._public import public
from layertap.format.card import Card
from layertap.format.text import Readable, printable

SHOWN = 8
"""The most outputs that are listed."""


@public
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FinishReport(Readable):
    """A finished file, and its distance from what the runtime computes in Python."""

    path: Path
    card: Card
    outputs: tuple[str, ...]
    """The names of all outputs, in the order of the file."""
    errors: Mapping[str, float]
    """The largest scaled error of each output over all pictures."""
    allowed: Mapping[str, float]
    """The largest error that passes, for each output."""
    pictures: int
    """How many pictures were compared."""
    size_bytes: int
    added_bytes: int
    """How much larger the file is than the one that it was made from, without what it left out."""
    seconds: float

    def __bool__(self) -> bool:
        return not self.failed

    @property
    def tolerance(self) -> float:
        """The smallest error that is allowed for an output."""
        return min(self.allowed.values(), default=0.0)

    @property
    def failed(self) -> tuple[str, ...]:
        """The outputs that differ by more than is allowed, or are NaN."""
        return tuple(name for name, error in self.errors.items() if not error <= self.allowed[name])

    def __str__(self) -> str:
        if self.failed:
            name = self.failed[0]
            return (
                f"{self.path}: {len(self.failed)} of {len(self.errors)} outputs differ from what "
                f"layertap computes. {printable(name)!r} differs by {self.errors[name]:.1e} of its "
                f"scale, allowed are {self.allowed[name]:.0e}."
            )
        worst = max(self.errors, key=lambda name: self.errors[name])
        outputs = ", ".join(map(printable, self.outputs[:SHOWN]))
        if len(self.outputs) > SHOWN:
            outputs += f" and {len(self.outputs) - SHOWN} more"
        inputs = ", ".join(printable(info.name) for info in self.card.inputs)
        return (
            f"wrote {self.path} ({self.size_bytes / 1e6:.1f} MB: {inputs} -> {outputs}) in "
            f"{self.seconds:.0f} s\n"
            f"compared with layertap in Python on {self.pictures} random pictures: largest "
            f"scaled error {self.errors[worst]:.1e} in {printable(worst)!r}"
        )
