"""The check of a finished file before it is renamed into place."""

from __future__ import annotations

from pathlib import Path

import layertap
from layertap.compare.check import check
from layertap_export.errors import Report, VerificationError


def check_finished(temporary: Path, path: Path, report: Report) -> None:
    """Open a finished file as its users will, and check its golden sample.

    Args:
        temporary: the file.
        path: the name that it will have, for messages.
        report: the result of its verification.

    Raises:
        ModelFileError: layertap cannot open it.
        VerificationError: the golden sample does not match.
    """
    checked = check(layertap.open(temporary, device="cpu"))
    if not checked:
        raise VerificationError(
            f"{path} passed the comparison, but does not pass `layertap check`: {checked}", report
        )
