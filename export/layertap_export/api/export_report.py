"""The result of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from layertap._public import public
from layertap.format.card import Card
from layertap.format.text import Readable, number_of, printable
from layertap_export.verification.report import VerificationReport


@public
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExportReport(Readable):
    """The result of an export."""

    path: Path
    card: Card
    verification: VerificationReport
    size_bytes: int
    seconds: float
    note: str = ""
    """Why there are no layers, where a signature was exported."""

    @property
    def exposed(self) -> tuple[str, ...]:
        """Names of the layers whose activations the file gives."""
        return tuple(layer.name for layer in self.card.layers if layer.exposed)

    def __str__(self) -> str:
        scores = [layer.exposed for layer in self.card.layers if layer.attention]
        count = len(self.card.layers) - len(scores)
        content = f"{len(self.exposed) - sum(scores)} of {number_of(count, 'layer')} exposed"
        if scores:
            content += f", {sum(scores)} of {len(scores)} with attention scores"
        signature = self.card.source.signature
        if signature:
            content = f"{number_of(count, 'output')} of the signature {signature!r}"
        lines = (
            f"wrote {self.path} ({self.size_bytes / 1e6:.1f} MB, {content}) "
            f"in {self.seconds:.0f} s",
            self.note,
            str(self.verification),
            *(f"note: {printable(note)}" for note in self.card.notes or ()),
        )
        return "\n".join(filter(None, lines))
