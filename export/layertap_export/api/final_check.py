"""The check of a finished file before it is renamed into place."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import layertap
from layertap._engine.library import supports_external_weights
from layertap.comparing.check import check
from layertap.format.card import Card
from layertap.format.limits import MAPPED_BYTES
from layertap.format.source import FileSource
from layertap.format.wire import fields
from layertap_export.errors import Report, VerificationError
from layertap_export.writing import METADATA

CHUNK = 1 << 20
"""Bytes that are read at once."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The bytes of a file that was verified, before its card is appended."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Verified:
        """Take note of a file's bytes."""
        size = path.stat().st_size
        return cls(size, _sha256(path, size))

    def begins(self, path: Path) -> bool:
        """Whether a file begins with these bytes, and nothing but metadata follows."""
        if path.stat().st_size < self.size or _sha256(path, self.size) != self.sha256:
            return False
        with FileSource(path).read(sparsely=True) as buffer:
            return all(field[0] == METADATA for field in fields(buffer, self.size, len(buffer)))


def check_finished(
    temporary: Path, path: Path, verified: Verified, card: Card, report: Report
) -> None:
    """Check that a finished file is what was verified, and open it as its users will.

    Args:
        temporary: the file.
        path: the name that it will have, for messages.
        verified: its bytes when it was verified.
        card: the card that was appended.
        report: the result of its verification.

    Raises:
        ModelFileError: layertap cannot open it.
        VerificationError: the file has other bytes than those that were verified, or another card,
            or the golden sample does not match.
    """
    if not verified.begins(temporary):
        raise VerificationError(f"{path} was changed after it was verified.", report)
    # Otherwise, the weights of a large model would be in memory once more.
    share = verified.size >= MAPPED_BYTES and supports_external_weights()
    opened = layertap.open(temporary, device="cpu", share_weights=share)
    if opened.card is None or opened.card.to_json() != card.to_json():
        raise VerificationError(f"the card in {path} is not the one that was made for it.", report)
    sampled = card.golden is not None and card.golden.layers  # not if all outputs are strings
    checked = check(opened) if sampled else True
    if not checked:
        raise VerificationError(
            f"{path} passed the comparison, but does not pass `layertap check`: {checked}", report
        )


def _sha256(path: Path, size: int) -> str:
    """The hash of the first `size` bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, size, CHUNK):
            digest.update(file.read(min(CHUNK, size - start)))
    return digest.hexdigest()
