"""The peak memory of this process."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_megabytes() -> float:
    """The largest resident set size so far, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, getrusage would include the parent's peak
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
