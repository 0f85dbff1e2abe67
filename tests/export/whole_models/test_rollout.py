"""Rollouts and heat maps of a vision transformer, compared with Keras and GradientTape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import layertap
import layertap_export
from layertap.cam import heat_maps

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

GRID, WIDTH, HEADS, BLOCKS = (2, 3), 8, 2, 2
CLASS = 2


class Exported(NamedTuple):
    """A model, and its file with gradients."""

    keras: Any
    model: layertap.Model
    images: np.ndarray
    file: Path


def transformer(keras: Any) -> Any:
    """Images (n, 8, 12, 3) -> patches and a class token -> two blocks -> the class token -> logits.

    Its attention has dropout, so that Keras does not fuse it.
    """
    layers = keras.layers

    class Tokens(layers.Layer):  # type: ignore[misc, name-defined]
        def build(self, shape: Any) -> None:
            self.token = self.add_weight(shape=(1, 1, WIDTH), initializer="random_normal")

        def call(self, patches: Any) -> Any:
            token = keras.ops.repeat(self.token, keras.ops.shape(patches)[0], axis=0)
            return keras.ops.concatenate([token, patches], axis=1)

    image = keras.Input((8, 12, 3), name="image")
    x = layers.Conv2D(WIDTH, 4, strides=4, name="patches")(image)
    x = layers.Reshape((GRID[0] * GRID[1], WIDTH), name="sequence")(x)
    x = Tokens(name="tokens")(x)
    for at in range(BLOCKS):
        y = layers.LayerNormalization(name=f"norm_{at}")(x)
        attention = layers.MultiHeadAttention(
            HEADS, 4, dropout=0.1, name=f"mha_{at}", kernel_initializer="random_normal"
        )
        x = layers.Add(name=f"add_{at}")([x, attention(y, y)])
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(image, layers.Dense(3, name="logits")(x[:, 0]))
    generator = np.random.default_rng(0)
    for weight in model.weights:  # those of Keras attend evenly
        weight.assign(generator.normal(0, 0.6, weight.shape))
    return model


@pytest.fixture(scope="module")
def exported(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    keras.utils.set_random_seed(0)
    model = transformer(keras)
    file = tmp_path_factory.mktemp("vit") / "vit.onnx"
    layertap_export.export(model, file, gradients=["last-conv", "attention"])
    images = np.random.default_rng(1).normal(size=(3, 8, 12, 3)).astype(np.float32)
    return Exported(model, layertap.open(file), images, file)


def scores_and_gradients(exported: Exported) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What Keras's attention layers compute, and its gradient, `(n, heads, tokens, tokens)`."""
    import tensorflow as tf

    kept: list[Any] = []
    attentions = [exported.keras.get_layer(f"mha_{at}") for at in range(BLOCKS)]
    plain = [layer._masked_softmax for layer in attentions]
    with tf.GradientTape() as tape:

        def watching(softmax: Any) -> Any:
            def call(*args: Any, **options: Any) -> Any:
                scores = softmax(*args, **options)
                tape.watch(scores)
                kept.append(scores)
                return scores

            return call

        for layer, softmax in zip(attentions, plain, strict=True):
            layer._masked_softmax = watching(softmax)
        try:
            score = exported.keras(exported.images, training=False)[:, CLASS]
        finally:
            for layer, softmax in zip(attentions, plain, strict=True):
                layer._masked_softmax = softmax
    assert len(kept) == BLOCKS
    for scores, gradient in zip(kept, tape.gradient(score, kept), strict=True):
        yield scores.numpy().astype(np.float64), gradient.numpy().astype(np.float64)


def test_rollout_is_that_of_keras(exported: Exported) -> None:
    found = exported.model.cam(exported.images, method="rollout", normalize=False, resize=False)
    flow = np.eye(1 + GRID[0] * GRID[1])
    for scores, _ in scores_and_gradients(exported):
        flow = (scores.mean(axis=1) + np.eye(len(flow[-1]))) / 2 @ flow
    expected = flow[:, 0, 1:].reshape(3, *GRID)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-7)


def test_gradient_rollout_is_that_of_keras(exported: Exported) -> None:
    found = exported.model.cam(
        exported.images, target=CLASS, method="gradientrollout", normalize=False, resize=False
    )
    relevance = np.eye(1 + GRID[0] * GRID[1])
    for scores, gradient in scores_and_gradients(exported):
        relevance = relevance + np.maximum(scores * gradient, 0).mean(axis=1) @ relevance
    expected = relevance[:, 0, 1:].reshape(3, *GRID)
    assert expected.max() > 0.01
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-3, atol=1e-6)


def test_grad_cam_is_that_of_the_tape(exported: Exported, keras: Any) -> None:
    """Of what the last attention reads, without the class token."""
    import tensorflow as tf

    # From the tokens on: the attention reads them, and the sum has what was before.
    at = BLOCKS - 1
    before = exported.keras.get_layer(f"add_{at - 1}").output
    read = exported.keras.get_layer(f"norm_{at}").output
    start = keras.Model(exported.keras.input, [before, read])
    with tf.GradientTape() as tape:
        whole, tokens = start(exported.images, training=False)
        tape.watch(tokens)
        mixed = exported.keras.get_layer(f"mha_{at}")(tokens, tokens, training=False)
        last = exported.keras.get_layer("norm")(whole + mixed)
        score = exported.keras.get_layer("logits")(last[:, 0])[:, CLASS]
    gradient = tape.gradient(score, tokens).numpy().astype(np.float64)[:, 1:]
    weighted = (tokens.numpy()[:, 1:] * gradient.mean(axis=1, keepdims=True)).sum(axis=-1)
    maps = heat_maps(exported.model, exported.images, None, CLASS, normalize=False, resize=False)
    assert maps.layer == f"norm_{at}"
    np.testing.assert_allclose(maps.maps[:, 0], weighted.reshape(3, *GRID), rtol=1e-3, atol=1e-6)


def test_a_finished_file_folds_the_tokens(exported: Exported, tmp_path: Path) -> None:
    file = tmp_path / "finished.onnx"
    layertap_export.finish(exported.file, file, image_input=False, heat_map=True, top=None)
    found = layertap.open(file).cam(exported.images)
    np.testing.assert_allclose(found, exported.model.cam(exported.images), atol=1e-5)
