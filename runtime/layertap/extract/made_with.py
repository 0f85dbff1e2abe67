"""What a collection is computed with: versions, device and processor.

The last bits of the values may depend on them, and so may the pixels of a JPEG file.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from layertap._engine.library import import_onnxruntime
from layertap._engine.program import Program
from layertap._version import __version__
from layertap.images.load import image_libraries


def made_with(program: Program) -> Mapping[str, Any]:
    """Versions, device and processor, as JSON."""
    return {
        "layertap": __version__,
        "onnxruntime": import_onnxruntime().__version__,
        "numpy": np.__version__,
        **image_libraries(),
        "device": program.engine.device,
        "tf32": program.settings.tf32,
        "processor": _processor(),
    }


def _processor() -> str:
    """The name of the processor, as the system has it."""
    if sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.startswith("model name"):
                        return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()
