"""A collection in a new process: METHOD MODEL LAYER[=REDUCTION] RECIPE OUT IMAGE ...

METHOD is `layertap`; `predict`, a loop over Keras's `predict` that saves each batch; or `kept`, the
way of thingsvision: the same loop keeps all batches, and saves them joined. Prints the seconds of
the work, without imports and the opening of the model; and the peak memory in MB, at the end and
of the imports alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .peak import peak_megabytes

BATCH = 32
"""Images in one call of `predict`, its default."""

method, file, layer, recipe, out, *images = sys.argv[1:]


def with_layertap() -> tuple[float, float]:
    """Extract; its own default sizes."""
    import layertap
    from layertap._engine.library import import_onnxruntime

    import_onnxruntime()
    imports = peak_megabytes()
    model = layertap.open(file)
    began = time.perf_counter()
    model.extract(images, [layer], out, preprocess=json.loads(recipe))
    return time.perf_counter() - began, imports


def with_keras() -> tuple[float, float]:
    """A loop; the first call of `predict`, which makes the graph, is not counted."""
    import keras

    imports = peak_megabytes()
    model = keras.saving.load_model(file, compile=False)
    part = keras.Model(model.input, model.get_layer(layer).output)
    how = json.loads(recipe)
    size, scaling = how["size"], how["scaling"]

    def prepared(path: str) -> Any:
        image = keras.utils.load_img(path, target_size=size, interpolation=how["interpolation"])
        return (keras.utils.img_to_array(image) - scaling["mean"]) / scaling["std"]

    part.predict(np.zeros((BATCH, *size, 3), np.float32), verbose=0)
    Path(out).mkdir()
    began = time.perf_counter()
    kept = []
    for start in range(0, len(images), BATCH):
        batch = np.stack([prepared(path) for path in images[start : start + BATCH]])
        found = part.predict(batch, verbose=0)
        if method == "kept":
            kept.append(found)
        else:
            np.save(Path(out, f"{start:06d}.npy"), found)
    if kept:
        np.save(Path(out, "features.npy"), np.vstack(kept))
    return time.perf_counter() - began, imports


seconds, before = with_layertap() if method == "layertap" else with_keras()
print(seconds, peak_megabytes(), before, flush=True)
