"""The most memory that this process has held."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_megabytes() -> float:
    """The largest resident size so far, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would tell the parent's there, when that is larger
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
