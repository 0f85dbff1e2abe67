"""The peak memory of one request in a new process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from . import models
from .fresh_process import environment


def peak(files: models.Files, layer: str, output: Path | None = None, *options: str) -> float:
    """The peak memory in MB, above the 50 MB of Python with numpy and onnxruntime.

    It includes the parts of the file that are mapped into memory.

    Args:
        files: the model, and the batch for it.
        layer: the layer to fetch; `all` for all layers.
        output: the `.npy` file to write the activations to.
        options: `share_weights`, or nothing.
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
