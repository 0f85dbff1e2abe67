"""One activation in a new process, with layertap: FILE.onnx BATCH.npy OUTPUT.npy."""

from __future__ import annotations

import sys

import numpy as np

import layertap

from .peak import peak_megabytes

file, batch, output = sys.argv[1:]
activation = layertap.open(file).activations(np.load(batch), "conv5_block16_concat")
print(peak_megabytes(), flush=True)
np.save(output, activation)
