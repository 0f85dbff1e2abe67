"""One layer near the end of the network: a tap compared with Keras and plain onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import layertap

from . import models
from .timing import PAUSE, Row, alternate, compare, timed

ROUNDS = 60


def measure() -> list[Row]:
    """Time repeated calls, with all models, functions and sessions prepared."""
    import keras
    import tensorflow as tf

    files, batch = models.files(), models.batch()
    tap = layertap.open(files.onnx).tap(models.LATE)

    model = models.keras_model()
    part = keras.Model(model.input, model.get_layer(models.LATE).output)
    function = models.compiled(part)
    tensor = tf.constant(batch)

    session = models.plain_session()
    feed = {session.get_inputs()[0].name: batch}

    cases: dict[str, Callable[[], Any]] = {
        "ours": lambda: tap(batch),
        "function": lambda: function(tensor).numpy(),
        "predict": lambda: part.predict(batch, verbose=0),
        "plain": lambda: session.run([models.LATE], feed)[0],
    }
    seconds = alternate({name: timed(call, PAUSE) for name, call in cases.items()}, ROUNDS, 3)
    values = {name: call() for name, call in cases.items()}
    for name in ("function", "predict", "plain"):
        models.check_equal(f"{models.LATE}, {name}", values["ours"], values[name])

    peers = {
        "function": ("tf.function over the Keras sub-model", 0.75),
        "predict": ("the Keras sub-model's predict", None),
        "plain": ("onnxruntime, by name from the all-layers file", 0.55),
    }
    return compare(f"one layer, {models.LATE}", seconds, peers)
