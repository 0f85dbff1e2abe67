"""One activation in a new process, with Keras: FILE.keras BATCH.npy OUTPUT.npy predict|call."""

from __future__ import annotations

import sys

import keras
import numpy as np

from .peak import peak_megabytes

file, batch, output, method = sys.argv[1:]
model = keras.saving.load_model(file, compile=False)
part = keras.Model(model.input, model.get_layer("conv5_block16_concat").output)
images = np.load(batch)
if method == "predict":
    activation = part.predict(images, verbose=0)
else:
    activation = np.asarray(part(images, training=False))
print(peak_megabytes(), flush=True)
np.save(output, activation)
