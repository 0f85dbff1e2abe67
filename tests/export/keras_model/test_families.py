"""Models of Keras 2 in memory: all of their layers are exposed, as for Keras 3."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
import layertap_export
from layertap_export.keras_model.families import family_of, is_a

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(find_spec("tf_keras") is None, reason="needs tf_keras"),
]


@pytest.fixture(scope="module")
def k(keras: Any) -> Any:
    """tf_keras, seeded."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    return tf_keras


def images(k: Any) -> Any:
    layers = k.layers
    image = k.Input((12, 10, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="a/conv")(image)
    x = layers.BatchNormalization(name="a/bn")(x)
    y = layers.LeakyReLU(0.2, name="leaky")(x)
    y = layers.SeparableConv2D(4, 3, padding="same", name="separable")(y)
    x = layers.Add(name="add")([x, y])
    x = layers.Dropout(0.5, name="drop")(layers.MaxPooling2D(name="pool")(x))
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return k.Model(image, layers.Dense(3, "softmax", name="scores")(x), name="images")


def words(k: Any) -> Any:
    layers = k.layers
    return k.Sequential(
        [
            k.Input((7,), dtype="int32", name="words"),
            layers.Embedding(11, 4, mask_zero=True, name="embed"),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both"),
            layers.GRU(4, name="gru"),
            layers.Dense(2, name="scores"),
        ],
        name="words",
    )


def nested(k: Any) -> Any:
    """An inner model that is called twice, and contains another model."""
    layers = k.layers
    inner = k.Sequential([layers.Dense(4, "relu", name="one")], name="inner")
    start = k.Input((5,))
    encoder = k.Model(start, layers.Dense(3, name="two")(inner(start)), name="encoder")
    left, right = k.Input((5,), name="left"), k.Input((5,), name="right")
    return k.Model([left, right], layers.Dot(1, name="dot")([encoder(left), encoder(right)]))


def operations(k: Any) -> Any:
    import tensorflow as tf

    x = k.Input((5,), name="x")
    y = k.layers.Dense(4, name="dense")(x)
    return k.Model(x, tf.nn.relu(y * 2.0 + y[:, :1]), name="operations")


def dicts(k: Any) -> Any:
    a, b = k.Input((2,), name="a"), k.Input((3,), name="b")
    both = k.layers.Concatenate(name="both")([a, b])
    return k.Model({"b": b, "a": a}, {"y": k.layers.Dense(2, name="out")(both), "both": both})


def states(k: Any) -> Any:
    x = k.Input((5, 4), name="x")
    return k.Model(x, k.layers.LSTM(3, return_state=True, name="lstm")(x))


def attention(k: Any) -> Any:
    x = k.Input((5, 8), name="x")
    return k.Model(x, k.layers.MultiHeadAttention(2, 4, name="mha")(x, x))


def subclassed(k: Any) -> Any:
    import tensorflow as tf

    class Block(k.layers.Layer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.dense = k.layers.Dense(4, name="dense")

        def call(self, x: Any) -> Any:
            return tf.nn.relu(self.dense(x))

    class Net(k.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.blocks = [Block(name="first"), Block(name="second")]

        def call(self, x: Any, training: bool | None = None) -> Any:
            for block in self.blocks:
                x = block(x, training=training)
            return x

    net = Net()
    net(np.zeros((1, 5), np.float32))
    return net


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (images, ["image", "a/conv", "a/bn", "leaky", "separable", "add", "pool", "drop", "gap",
                  "scores"]),
        (words, ["embed", "both", "both/forward_layer", "both/backward_layer", "gru", "scores"]),
        (nested, ["left", "right", "encoder", "encoder/inner", "encoder/inner/one", "encoder/two",
                  "encoder#1", "encoder#1/inner", "encoder#1/inner/one", "encoder#1/two", "dot"]),
        (operations, ["x", "dense", "tf.math.multiply", "tf.__operators__.getitem",
                      "tf.__operators__.add", "tf.nn.relu"]),
        (dicts, ["a", "b", "both", "out"]),
        (states, ["x", "lstm", "lstm:1", "lstm:2"]),
        (attention, ["x", "mha", "mha/query", "mha/key", "mha/value", "mha/softmax",
                     "mha/dropout_layer", "mha/attention_output"]),
        (subclassed, ["first", "first/dense", "second", "second/dense"]),
    ],
)  # fmt: skip
def test_all_layers_are_exposed(
    make: Callable[[Any], Any], names: list[str], k: Any, tmp_path: Path
) -> None:
    """The export compares each of them with tf_keras."""
    k.backend.clear_session()  # resets the numbers in the names of operations
    model = make(k)
    for weight in model.weights:  # so that neither biases nor statistics are neutral
        weight.assign_add(np.full(weight.shape, 0.1))
    report = layertap_export.export(model, tmp_path / "two.onnx")
    card = report.card
    exposed = [layer for layer in card.layers if layer.exposed]
    assert [layer.name for layer in exposed if layer.attention is None] == names
    assert (card.source.framework, card.source.version) == ("tf_keras", k.__version__)
    assert card.source.type == type(model).__name__


def test_activations_and_the_layer_table_match_tf_keras(k: Any, tmp_path: Path) -> None:
    model = images(k)
    report = layertap_export.export(model, tmp_path / "two.onnx")
    assert layertap_export.verify(report.path, model)
    x = np.random.default_rng(0).normal(size=(2, 12, 10, 3)).astype(np.float32)
    function = k.Model(model.input, model.get_layer("add").output)
    np.testing.assert_allclose(
        layertap.open(report.path).activations(x, "add"), np.asarray(function(x)), atol=1e-5
    )
    assert [layer.parameters for layer in report.card.layers] == [
        layer.count_params() for layer in model.layers
    ]
    assert report.card.layers[5].inbound == ("a/bn", "separable")


def test_a_model_that_was_never_called_is_an_error(k: Any, tmp_path: Path) -> None:
    class Net(k.Model):
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(layertap_export.ExportError) as caught:
        layertap_export.export(Net(name="bare"), tmp_path / "bare.onnx")
    assert str(caught.value) == (
        "the model 'bare' has never been called, so its inputs are not known. Call it once on a "
        "batch, give its first layer an input shape, or state its inputs with --input x=SHAPE (in "
        "Python: inputs={'x': shape}); for example --input x=?,224,224,3:float32, where ? is a "
        "free size."
    )


def test_both_families_can_be_used_in_one_process(
    k: Any, keras: Any, small: Any, tmp_path: Path
) -> None:
    ours, theirs = small, images(k)
    assert (family_of(ours), family_of(theirs)) == (keras, k)
    assert is_a(ours.layers[1], "layers.Conv2D")
    assert is_a(theirs.layers[1], "layers.Conv2D", "layers.Dense")
    assert not is_a(theirs.layers[1], "layers.Dense")
    report = layertap_export.export(ours, tmp_path / "three.onnx")
    assert report.card.source.framework == "keras"
