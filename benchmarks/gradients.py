"""Gradients in the file: their time compared with the forward pass, and with TensorFlow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import layertap
from layertap._engine.program import program_of

from . import models
from .timing import PAUSE, Row, alternate, compare, timed

ROUNDS = 40
MIDDLE = "conv3_block12_concat"
"""The end of the second dense block, about a third of the way from the scores to the image."""
TARGET = 0


def measure() -> list[Row]:
    """Time repeated calls, with all models, functions and sessions prepared."""
    import layertap_export

    batch = models.batch()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "gradients.onnx")
        requested = [models.LATE, MIDDLE, "input"]
        layertap_export.add_gradients(models.files().onnx, file, requested, seconds=0)
        model = layertap.open(file)
        card = model.card
        assert card is not None
        assert card.gradients is not None
        (source,), (output,) = model.inputs, model.outputs
        names = (models.LATE, MIDDLE, source.name)
        late, middle, image = (card.gradients.tensors[name] for name in names)

        def run(names: Sequence[str]) -> Callable[[], dict[str, Any]]:
            fetch = program_of(model).fetch(names)
            return lambda: fetch({source.name: batch})

        explain = _tensorflow()
        cases: dict[str, Callable[[], Any]] = {
            "late": run([models.LATE, late, output.name]),
            "late, forward": run([models.LATE, output.name]),
            "middle": run([MIDDLE, middle, output.name]),
            "middle, forward": run([MIDDLE, output.name]),
            "grad-cam": lambda: model.cam(batch, models.LATE, TARGET)[0, 0],
            "tape": lambda: explain().numpy(),
            "back to the image": run([models.LATE, late, image, output.name]),
        }
        models.check_equal("Grad-CAM", cases["grad-cam"](), cases["tape"]())
        for name in (models.LATE, late):
            models.check_equal(name, cases["late"]()[name], cases["back to the image"]()[name])
        seconds = alternate({name: timed(call, PAUSE) for name, call in cases.items()}, ROUNDS, 3)

    forward = "the same without the gradient"
    rows = []
    for name, layer, most in (("late", models.LATE, 1.10), ("middle", MIDDLE, 2.2)):
        taken = {"ours": seconds[name], "forward": seconds[f"{name}, forward"]}
        what = f"activations, gradient and prediction, {layer}"
        rows += compare(what, taken, {"forward": (forward, most)})
    peers = {
        "tape": ("tf.function, GradientTape", 0.75),
        "back to the image": (
            "pytorch-grad-cam's way: a pass forward, and one back to the image",
            None,
        ),
    }
    taken = {**seconds, "ours": seconds["grad-cam"]}
    return rows + compare(f"Grad-CAM at {models.LATE}", taken, peers)


def grad_cam(activation: Any, gradient: Any, size: Any) -> Any:
    """The heat map `(h, w)` of one image in TensorFlow, in the usual way."""
    import tensorflow as tf

    shares = tf.reduce_mean(gradient, (1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(activation * shares, -1, keepdims=True))
    large = tf.image.resize(heat, size)[0, ..., 0]
    return large / tf.reduce_max(large)


def _tensorflow() -> Callable[[], Any]:
    """A compiled function that computes the heat map `(h, w)` in Keras in the usual way."""
    import keras
    import tensorflow as tf

    model = models.keras_model()
    last = model.layers[-1]
    part = keras.Model(model.input, [model.get_layer(models.LATE).output, last.input])
    kernel, bias = last.get_weights()
    image = tf.constant(models.batch())

    @tf.function
    def explain(images: Any) -> Any:
        with tf.GradientTape() as tape:
            activation, features = part(images, training=False)
            score = (features @ kernel + bias)[:, TARGET]
        gradient = tape.gradient(score, activation)
        return grad_cam(activation, gradient, images.shape[1:3])

    return lambda: explain(image)
