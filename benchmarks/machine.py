"""The machine: its description, the cores in use, and the load from other processes."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import psutil

CORES = 2
"""Number of cores that the targets refer to."""


def settle() -> None:
    """Restrict this process and its children to two cores and no GPU, and silence libraries."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    quiet()


def quiet() -> None:
    """Hide the GPU from this process's children, and silence libraries."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # also for onnxruntime as a peer


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def description() -> str:
    """The processor, the number of cores in use, the memory, and the operating system."""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{_processor()}, {cores()} of {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.machine()}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def versions(names: Sequence[str]) -> str:
    """The versions of Python and of those distributions in `names` that are installed."""
    found = [f"Python {platform.python_version()}"]
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


class Others:
    """Measures the processor time of other processes, from the construction on."""

    def __init__(self) -> None:
        self._busy, self._all, self._own = _processor_seconds()

    def share(self) -> float:
        """Their share of the processor time, 0 to 1. Includes our children that still run."""
        busy, total, own = _processor_seconds()
        elapsed = total - self._all
        theirs = (busy - self._busy) - (own - self._own)
        return min(1.0, max(0.0, theirs / elapsed)) if elapsed > 0 else 0.0


def _processor_seconds() -> tuple[float, float, float]:
    """Processor time in seconds: busy, in total, and used by this process and its children."""
    every = psutil.cpu_times()
    total = float(sum(every)) - getattr(every, "guest", 0.0) - getattr(every, "guest_nice", 0.0)
    idle = every.idle + getattr(every, "iowait", 0.0)
    mine = os.times()
    own = mine.user + mine.system + mine.children_user + mine.children_system
    return total - idle, total, own
