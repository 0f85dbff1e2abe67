"""The peak memory of one request in MB, and that of the imports alone.

FILE.onnx BATCH.npy OUTPUT.npy LAYER|all [share_weights]
"""

from __future__ import annotations

import sys

import numpy as np

import layertap
from layertap._engine.library import import_onnxruntime

from .peak import peak_megabytes

import_onnxruntime()
imports = peak_megabytes()
file, batch, output, layer, *options = sys.argv[1:]
model = layertap.open(file, share_weights="share_weights" in options)
images = np.load(batch)
names = [item.name for item in model.layers if item.type != "InputLayer"]
activations = model.activations(images, names if layer == "all" else layer)
print(peak_megabytes(), imports, flush=True)
if layer != "all":
    np.save(output, activations)  # type: ignore[arg-type]
