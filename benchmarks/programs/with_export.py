"""An export in a new process. Prints three numbers in MB: the peak memory before the verification,
the total peak (both above the memory after the imports), and the size of the model's weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import psutil

import layertap_export

from .peak import peak_megabytes

_ = layertap_export.export  # imports TensorFlow
import keras  # noqa: E402

before = psutil.Process().memory_info().rss / 1e6
model = keras.applications.VGG16(weights=None)
if Path("/proc/self/clear_refs").exists():
    # Reset the peak: Keras briefly uses more than three times their memory to draw the weights.
    Path("/proc/self/clear_refs").write_text("5")
written: list[Any] = []


def record(stage: str) -> None:
    """Record the peak at the start of the verification."""
    if stage.startswith("verifying"):
        written.append(peak_megabytes() - before)


with tempfile.TemporaryDirectory() as folder:
    layertap_export.export(model, Path(folder, "vgg16.onnx"), progress=record)
print(*written, peak_megabytes() - before, model.count_params() * 4 / 1e6)
