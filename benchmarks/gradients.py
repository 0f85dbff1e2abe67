"""Gradients in the file: what they cost beside the forward pass, and beside TensorFlow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import layertap

from . import chest
from .timing import PAUSE, Row, alternate, timed

ROUNDS = 40
MIDDLE = "conv3_block12_concat"
"""The end of the second dense block, about a third of the way from the scores to the image."""


def measure() -> list[Row]:
    """Steady calls; models, functions and sessions are ready before.

    The score is the sum of all logits, which is what the file differentiates by default.
    """
    import layertap_export

    batch = chest.batch()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "gradients.onnx")
        layertap_export.add_gradients(
            chest.files().onnx, file, [chest.LATE, MIDDLE, "input"], seconds=0
        )
        model = layertap.open(file)
        card = model.card
        assert card is not None
        assert card.gradients is not None
        gradients = card.gradients
        (entry,), (output,) = model.inputs, model.outputs

        def run(names: Sequence[str]) -> Callable[[], dict[str, Any]]:
            fetch = model._fetch(names)
            return lambda: fetch({entry.name: batch})

        late, middle, image = (gradients.tensors[x] for x in (chest.LATE, MIDDLE, entry.name))
        together = run([chest.LATE, late])
        function = _tensorflow()
        cases: dict[str, Callable[[], Any]] = {
            "late": run([chest.LATE, late, output.name]),
            "late, forward": run([chest.LATE, output.name]),
            "middle": run([MIDDLE, middle, output.name]),
            "middle, forward": run([MIDDLE, output.name]),
            "grad-cam": lambda: grad_cam(*together().values()),
            "tape": lambda: function().numpy()[0],
            "whole": run([chest.LATE, late, image]),
        }
        seconds = alternate({name: timed(call, PAUSE) for name, call in cases.items()}, ROUNDS, 3)
        chest.check_equal("Grad-CAM", cases["grad-cam"](), cases["tape"]())
        for name in (chest.LATE, late):
            chest.check_equal(name, cases["late"]()[name], cases["whole"]()[name])

    def row(what: str, name: str, peer: str, other: str, most: float | None) -> Row:
        return Row(
            what=what,
            peer=peer,
            unit="s",
            ours=seconds[name],
            theirs=seconds[other],
            most=most,
        )

    forward = "the same without the gradient"
    both = "activations, gradient and prediction"
    return [
        row(f"{both}, {chest.LATE}", "late", forward, "late, forward", 1.10),
        row(f"{both}, {MIDDLE}", "middle", forward, "middle, forward", 2.2),
        row(f"Grad-CAM, {chest.LATE}", "grad-cam", "tf.function, GradientTape", "tape", 0.75),
        row(
            f"Grad-CAM, {chest.LATE}",
            "grad-cam",
            "a pass forward and a whole pass back, to the image",
            "whole",
            None,
        ),
    ]


def grad_cam(activation: Any, gradient: Any) -> Any:
    """The map of Selvaraju et al., ICCV 2017, of one image: `(h, w)`."""
    import numpy as np

    return np.maximum((activation[0] * gradient[0].mean((0, 1))).sum(-1), 0)


def _tensorflow() -> Callable[[], Any]:
    """The same in Keras, as people write it, compiled."""
    import keras
    import tensorflow as tf

    model = chest.keras_model()
    last = model.layers[-1]
    part = keras.Model(model.input, [model.get_layer(chest.LATE).output, last.input])
    kernel, bias = last.get_weights()
    image = tf.constant(chest.batch())

    @tf.function
    def explain(images: Any) -> Any:
        with tf.GradientTape() as tape:
            activation, features = part(images, training=False)
            score = features @ kernel + bias
        gradient = tape.gradient(score, activation)
        shares = tf.reduce_mean(gradient, (1, 2), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(activation * shares, -1))

    return lambda: explain(image)
