"""Attention scores in exported files, compared with `return_attention_scores=True` in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import layertap
import layertap_export
from layertap.format.layer import Attention, Layer

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

Scores = dict[str, Any]


@contextmanager
def policy(keras: Any, name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def many(keras: Any, scores: Scores | None = None) -> Any:
    """A model with all ways in which Keras computes attention.

    Args:
        keras: the module.
        scores: is filled with the scores that the layers return when they are asked for them.
    """
    layers, ops = keras.layers, keras.ops

    class Returning(keras.layers.MultiHeadAttention):
        """Computes attention in its own way, and returns the scores."""

        def _compute_attention(
            self, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
        ) -> Any:
            weights = ops.softmax(ops.einsum("btnh,bsnh->bnts", query, key) * 3, axis=-1)
            return ops.einsum("bnts,bsnh->btnh", weights, value), weights

    class Product(keras.layers.Layer):
        """Calls `dot_product_attention` itself."""

        def call(self, x: Any) -> Any:
            x = ops.reshape(x, (-1, 6, 2, 4))
            return ops.reshape(ops.dot_product_attention(x, x, x, is_causal=True), (-1, 6, 8))

    def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if scores is None:
            return layer(*args, **kwargs)
        result, scores[layer.name] = layer(*args, **kwargs, return_attention_scores=True)
        return result

    heads, grouped = layers.MultiHeadAttention, layers.GroupQueryAttention
    x, memory = keras.Input((6, 8), name="x"), keras.Input((None, 8), name="memory")
    words = keras.Input((6,), dtype="int32", name="words")
    embedded = layers.Embedding(12, 8, mask_zero=True, name="embedding")(words)
    y = called(heads(2, 4, name="plain"), x, x)
    y = called(heads(2, 4, dropout=0.3, name="dropout"), y, x)
    y = called(heads(2, 4, name="causal"), y, x, use_causal_mask=True)
    y = called(heads(2, 4, dropout=0.3, name="causal_dropout"), y, y, use_causal_mask=True)
    padded = called(heads(2, 4, name="masked"), embedded, embedded, use_causal_mask=True)
    y = padded * 0 + y  # Keras's two ways differ for queries that may attend to no key
    y = called(heads(2, 4, value_dim=3, name="cross"), y, memory, memory)
    y = called(grouped(4, 4, 2, name="grouped"), y, x)
    y = called(grouped(4, 4, 2, dropout=0.3, name="grouped_dropout"), y, x, use_causal_mask=True)
    y = called(Returning(2, 4, name="returning"), y, x)
    folded = layers.Reshape((2, 3, 8), name="folded")(y)
    folded = called(heads(2, 4, attention_axes=(1, 2), name="two_axes"), folded, folded)
    folded = called(heads(2, 4, attention_axes=(2,), name="rows"), folded, folded)
    y = layers.Reshape((6, 8), name="flat")(folded)
    y = called(layers.Attention(use_scale=True, name="dot"), [y, embedded])
    y = called(layers.Attention(score_mode="concat", dropout=0.3, name="concat"), [y, memory])
    y = called(layers.AdditiveAttention(name="additive"), [y, x], use_causal_mask=True)
    return keras.Model([x, memory, words], Product(name="product")(y))


AXES = {
    "plain": (None, 2, 6, 6), "dropout": (None, 2, 6, 6), "causal": (None, 2, 6, 6),
    "causal_dropout": (None, 2, 6, 6), "masked": (None, 2, 6, 6), "cross": (None, 2, 6, None),
    "grouped": (None, 4, 6, 6), "grouped_dropout": (None, 4, 6, 6), "returning": (None, 2, 6, 6),
    "two_axes": (None, 2, 2, 3, 2, 3), "rows": (None, 2, 2, 3, 3), "dot": (None, 6, 6),
    "concat": (None, 6, None), "additive": (None, 6, 6), "product": (None, 2, 6, 6),
}  # fmt: skip
"""The shapes of the scores, by the name of their layer, in the order of the model."""

NO_HEADS = ("rows", "dot", "concat", "additive")
"""The layers in whose scores the second axis is none of heads."""


@pytest.fixture(scope="module")
def net(keras: Any) -> Any:
    keras.utils.set_random_seed(3)
    return many(keras)


@pytest.fixture(scope="module")
def trace(net: Any) -> Any:
    from layertap_export.keras_model.tracing import trace

    return trace(net)


@pytest.fixture(scope="module")
def report(net: Any, tmp_path_factory: pytest.TempPathFactory) -> layertap_export.ExportReport:
    return layertap_export.export(net, tmp_path_factory.mktemp("attention") / "many.onnx")


@pytest.fixture(scope="module")
def file(report: layertap_export.ExportReport) -> Path:
    return report.path


@pytest.fixture(scope="module")
def batch() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(3, 6, 8)).astype(np.float32),
        "memory": rng.normal(size=(3, 5, 8)).astype(np.float32),
        "words": np.array([[3, 1, 4, 1, 5, 9], [2, 6, 0, 0, 0, 0], [7, 8, 0, 1, 0, 2]], np.int32),
    }


def rows_of(layers: tuple[Layer, ...]) -> list[Layer]:
    return [layer for layer in layers if layer.attention is not None]


def test_scores_are_those_that_keras_returns(
    keras: Any, net: Any, file: Path, batch: dict[str, NDArray[Any]]
) -> None:
    found = layertap.open(file).activations(batch, "attention")
    expected: Scores = {}
    with policy(keras, "float64"):
        double = many(keras, expected)
        double.set_weights(net.get_weights())
        returned = keras.Model(double.inputs, expected)([batch[x.name] for x in double.inputs])
    assert len(returned) == len(AXES) - 1
    for name, values in returned.items():
        scores = found[f"{name}/attention_scores"]
        assert scores.dtype == np.float32
        if name == "masked":
            # Of a query that may attend to no key, Keras returns zeros, but computes with the mean.
            nowhere = np.asarray(values).sum(-1, keepdims=True) == 0
            assert nowhere.sum() == 2 * 6
            values = np.where(nowhere, 1 / 6, values)
        np.testing.assert_allclose(scores, values, rtol=1e-4, atol=1e-6, err_msg=name)


def test_scores_of_an_own_layer_are_the_softmax_of_its_products(
    net: Any, file: Path, batch: dict[str, NDArray[Any]]
) -> None:
    found = layertap.open(file).activations(batch, ["additive", "product/attention_scores"])
    x = found["additive"].astype(np.float64).reshape(3, 6, 2, 4)
    logits = np.einsum("btnh,bsnh->bnts", x, x) / 2
    logits = np.where(np.tri(6, dtype=bool), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(found["product/attention_scores"], weights, rtol=1e-4, atol=1e-6)


def test_rows_of_scores_come_after_all_layers(net: Any, file: Path) -> None:
    layers = layertap.open(file).layers
    rows = rows_of(layers)
    assert rows == list(layers[-len(AXES) :])
    assert {row.name: row.shape for row in rows} == {
        f"{name}/attention_scores": shape for name, shape in AXES.items()
    }
    by_name = {layer.name: layer for layer in layers}
    owners = [by_name[row.parent or ""].index for row in rows]
    assert owners == sorted(owners)
    for row in rows:
        name = row.name.removesuffix("/attention_scores")
        assert (row.type, row.parent, row.tensor) == ("AttentionScores", name, row.name)
        assert row.inbound == by_name[name].inbound
        assert row.axes == "N" + "?" * (len(row.shape) - 1)
        heads = 0 if name in NO_HEADS else row.shape[1] or 0
        assert row.attention == Attention(of=name, heads=heads)


def test_scores_are_computed_once(file: Path) -> None:
    """They are what the layer itself computes, not a second softmax."""
    nodes = onnx.load(file).graph.node
    # Over several axes, Keras computes a softmax in steps.
    assert sum(node.op_type == "Softmax" for node in nodes) == len(AXES) - 1


def test_a_layer_computes_the_same_bits_with_its_scores(
    file: Path, batch: dict[str, NDArray[Any]]
) -> None:
    model = layertap.open(file)
    for name in AXES:
        alone = model.activations(batch, name)
        both = model.activations(batch, [name, f"{name}/attention_scores"])
        assert np.array_equal(alone, both[name]), name


def test_scores_are_in_the_golden_sample_and_verified(net: Any, file: Path) -> None:
    model = layertap.open(file)
    assert model.card is not None
    assert model.card.verification is not None
    assert model.card.golden is not None
    names = {f"{name}/attention_scores" for name in AXES}
    assert names <= model.card.verification.layers.keys()
    assert names <= model.card.golden.layers.keys()
    assert model.check()


def test_the_report_counts_them_apart(report: layertap_export.ExportReport) -> None:
    count = len(report.card.layers) - len(AXES)
    assert f"{count} of {count} layers exposed, 15 of 15 with attention scores" in str(report)


@pytest.mark.parametrize(
    ("layers", "types", "scores"),
    [
        ("all", None, [*AXES]),
        (["causal", "embedding"], None, ["causal"]),
        ("grouped*", None, ["grouped", "grouped_dropout"]),
        ("embedding", None, []),
        ("attention", None, [*AXES]),
        ("dot/attention_scores", None, ["dot"]),
        ("all", "AdditiveAttention", ["additive"]),
        ("all", "EinsumDense", []),
    ],
)
def test_scores_come_with_the_layers_that_are_asked_for(
    trace: Any, layers: Any, types: str | None, scores: list[str]
) -> None:
    from layertap_export.api.arguments import chosen_layers

    found = {name for name in chosen_layers(trace, layers, types) if name.endswith("_scores")}
    assert found == {f"{name}/attention_scores" for name in scores}
