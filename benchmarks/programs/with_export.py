"""An export in a fresh process: prints its peak memory above that of the imports, before it
verifies and in all, and that of the model's weights, in MB."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil  # type: ignore[import-untyped]

import layertap_export

from .peak import peak_megabytes

assert layertap_export.export  # imports TensorFlow
import keras  # noqa: E402

before = psutil.Process().memory_info().rss / 1e6
model = keras.applications.VGG16(weights=None)
if Path("/proc/self/clear_refs").exists():
    # To draw weights takes Keras more than three times their memory for a moment: not counted.
    Path("/proc/self/clear_refs").write_text("5")
written = []


def look(stage: str) -> None:
    """Note the peak where the verification begins."""
    if stage.startswith("verifying"):
        written.append(peak_megabytes() - before)


with tempfile.TemporaryDirectory() as folder:
    layertap_export.export(model, Path(folder, "vgg16.onnx"), progress=look)
print(*written, peak_megabytes() - before, model.count_params() * 4 / 1e6)
