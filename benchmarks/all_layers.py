"""All layers at once: a tap compared with Keras and plain onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import layertap

from . import models
from .peaks import peak
from .timing import PAUSE, Row, alternate, compare, timed

ROUNDS = 30


def measure() -> list[Row]:
    """Time repeated calls, with all models, functions and sessions prepared."""
    import keras
    import tensorflow as tf

    files, batch = models.files(), models.batch()
    opened = layertap.open(files.onnx)
    # Without the input layer: it computes nothing.
    names = [layer.name for layer in opened.layers if layer.type != "InputLayer"]
    tap = opened.tap(names)

    model = models.keras_model()
    many = keras.Model(model.input, [model.get_layer(name).output for name in names])
    function = models.compiled(many)
    tensor = tf.constant(batch)

    session = models.plain_session()
    feed = {session.get_inputs()[0].name: batch}

    cases: dict[str, Callable[[], Any]] = {
        "ours": lambda: list(tap(batch).values()),
        "predict": lambda: many.predict(batch, verbose=0),
        "function": lambda: [value.numpy() for value in function(tensor)],
        "plain": lambda: session.run(names, feed),
    }
    seconds = alternate({name: timed(call, PAUSE) for name, call in cases.items()}, ROUNDS, 3)
    values = {name: call() for name, call in cases.items()}
    for peer in ("predict", "function", "plain"):
        for name, ours, theirs in zip(names, values["ours"], values[peer], strict=True):
            models.check_equal(f"{name}, {peer}", ours, theirs)

    peers = {
        "predict": ("Keras predict on the multi-output model", 0.25),
        "function": ("tf.function over the multi-output model", None),
        "plain": ("onnxruntime, all outputs of the file", None),
    }
    return [
        _memory(opened, batch.shape[0]),
        *compare(f"all {len(names)} layers at once", seconds, peers),
    ]


def _memory(opened: layertap.Model, count: int) -> Row:
    """The peak memory of a new process that fetches all layers, compared with their size."""
    peaks = tuple(peak(models.files(), "all") for _ in range(3))
    activations = sum(layer.nbytes(count) or 0 for layer in opened.layers)
    weights = 4 * sum(layer.parameters for layer in opened.layers)
    return Row(
        what="all of them in a fresh process: peak memory beyond the imports",
        peer="the activations and the weights together",
        unit="MB",
        ours=peaks,
        theirs=((activations + weights) / 1e6,) * len(peaks),
        most=1.3,
    )
