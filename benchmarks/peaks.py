"""The peak memory of one request in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from . import models
from .fresh_process import environment


def peak(files: models.Files, layer: str, output: Path | None = None, *options: str) -> float:
    """MB at the most, beyond the 50 that Python takes with numpy and onnxruntime; what is mapped
    of the file counts.

    Args:
        files: the model, and what to feed it.
        layer: which one to fetch; `all` for all.
        output: where to write the activations, as `.npy`.
        options: `share_weights`.
    """
    program = [sys.executable, "-m", "benchmarks.programs.memory"]
    command = [*program, str(files.onnx), str(files.batch), str(output or "-"), layer, *options]
    done = subprocess.run(
        command,
        cwd=models.REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    most, imports = map(float, done.stdout.split())
    return most - imports
