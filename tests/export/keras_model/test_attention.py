"""Which rows of scores a trace has, and why some have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layertap.format.layer import Attention, Layer

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`build:UserWarning"),  # of a model without it
]


def scores(model: Any) -> list[Layer]:
    from layertap_export.keras_model.tracing import trace

    return [row.layer for row in trace(model).rows if row.layer.attention is not None]


def why(model: Any) -> dict[str, str | None]:
    return {layer.name: layer.why_not for layer in scores(model)}


def attending(keras: Any, x: Any, **options: Any) -> Any:
    return keras.layers.MultiHeadAttention(2, 4, **options)(x, x)


def test_each_call_has_its_scores(keras: Any) -> None:
    x = keras.Input((6, 8))
    inner = keras.Model(x, attending(keras, x, name="heads"), name="inner")
    shared = keras.layers.MultiHeadAttention(2, 4, name="shared")
    y = inner(inner(x))
    assert {layer.name: layer.inbound[-1] for layer in scores(keras.Model(x, shared(y, x)))} == {
        "inner/heads/attention_scores": x.name,
        "inner#1/heads/attention_scores": "inner",
        "shared/attention_scores": x.name,
    }


def test_a_layer_of_keras_ops_has_scores(keras: Any) -> None:
    x = keras.Input((6, 2, 4), name="x")
    (layer,) = scores(keras.Model(x, keras.ops.dot_product_attention(x, x, x)))
    assert layer.name.endswith("/attention_scores")
    assert (layer.shape, layer.inbound) == ((None, 2, 6, 6), ("x",))
    assert layer.attention == Attention(of=layer.parent or "", heads=2)


def test_a_model_may_compute_attention_itself(keras: Any) -> None:
    class Net(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.unused = keras.layers.MultiHeadAttention(2, 4, name="unused")

        def call(self, x: Any) -> Any:
            attend = keras.ops.dot_product_attention
            return attend(x, x, x) + attend(x, -x, x)

    net = Net()
    net(np.zeros((2, 6, 2, 4), np.float32))
    assert why(net) == {
        "attention_scores": None,
        "attention_scores~2": None,
        "unused/attention_scores": "the model does not call it in inference",
    }
    assert [layer.parent for layer in scores(net)] == [None, None, "unused"]


def test_a_layer_without_scores_says_why(keras: Any) -> None:
    layers, ops = keras.layers, keras.ops

    class Own(layers.MultiHeadAttention):  # type: ignore[misc]
        """Leaves out the method of Keras."""

        def call(self, query: Any, value: Any, key: Any = None, training: Any = None) -> Any:
            return self._output_dense(ops.nn.relu(self._query_dense(query)))

    class Cell(layers.Layer):  # type: ignore[misc]
        state_size = 8

        def build(self, shape: Any) -> None:
            self.heads = layers.MultiHeadAttention(2, 4, name="heads")
            self.heads.build((None, 1, 8), (None, 1, 8))

        def call(self, x: Any, states: Any) -> Any:
            y = self.heads(x[:, None], states[0][:, None])[:, 0]
            return y, [y]

    x = keras.Input((6, 8))
    y = layers.RNN(Cell(), name="rnn", return_sequences=True)(Own(2, 4, name="own")(x, x))
    assert why(keras.Model(x, y)) == {
        "own/attention_scores": "the layer computes attention in its own way, and returns no "
        "scores",
        "rnn/cell/heads/attention_scores": "it runs in the loop of 'rnn', once for every step",
    }


def test_a_name_that_a_layer_has_stays_its_name(keras: Any) -> None:
    class Block(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="block")
            self.attention_scores = keras.layers.Dense(8, name="attention_scores")

        def build(self, shape: Any) -> None:
            self.attention_scores.build(shape)

        def call(self, x: Any) -> Any:
            y = keras.ops.reshape(self.attention_scores(x), (-1, 6, 2, 4))
            return keras.ops.dot_product_attention(y, y, y)

    x = keras.Input((6, 8))
    (layer,) = scores(keras.Model(x, Block()(x)))
    assert layer.name == "block/attention_scores~2"


@pytest.mark.parametrize("dtype", ["mixed_float16", "float64"])
def test_scores_have_the_dtype_that_keras_computes_in(keras: Any, dtype: str) -> None:
    x = keras.Input((6, 8))
    y = attending(keras, x, dtype=dtype, name="product")
    y = attending(keras, y, dtype=dtype, dropout=0.5, name="steps")
    expected = dtype.removeprefix("mixed_")
    assert [layer.dtype for layer in scores(keras.Model(x, y))] == [expected] * 2


def test_keras_2_has_scores_too(tf_keras: Any) -> None:
    layers = tf_keras.layers
    x = tf_keras.Input((6, 8), name="x")
    y = layers.MultiHeadAttention(2, 4, dropout=0.1, name="heads")(x, x, use_causal_mask=True)
    y = layers.AdditiveAttention(name="additive")([layers.Attention(name="dot")([y, x]), x])
    assert [(layer.name, layer.shape) for layer in scores(tf_keras.Model(x, y))] == [
        ("heads/attention_scores", (None, 2, 6, 6)),
        ("dot/attention_scores", (None, 6, 6)),
        ("additive/attention_scores", (None, 6, 6)),
    ]
