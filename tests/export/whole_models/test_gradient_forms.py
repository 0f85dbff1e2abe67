"""Gradients of models in many forms, each verified against `tf.GradientTape` in the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import layertap_export
from cards import gradients_of, verification_of
from layertap._engine.session import plain_session
from layertap_export import GradientError

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def tape_gradient(model: Any, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The gradient of the weighted output by the input."""
    import tensorflow as tf

    entry = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(entry)
        score = tf.reduce_sum(model(entry, training=False) * weights)
    return np.asarray(tf.convert_to_tensor(tape.gradient(score, entry)))


def file_gradient(path: Path, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    feeds = {"x": x, "score_weights": weights}
    return np.asarray(plain_session(path).run(["grad/x"], feeds)[0])


def check_against_the_tape(model: Any, path: Path, x: np.ndarray) -> None:
    """Beside the export's own verification: other values, at the input."""
    shape = np.asarray(model(x)).shape
    weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = tape_gradient(model, x, weights)
    found = file_gradient(path, x, weights)
    assert found.shape == expected.shape
    assert np.any(expected)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


# --- Slices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "take",
    [
        pytest.param(lambda x: x[..., None], marks=pytest.mark.slow),
        pytest.param(lambda x: x[:, None], marks=pytest.mark.slow),
        pytest.param(lambda x: x[:, ::2], marks=pytest.mark.slow),
        pytest.param(lambda x: x[:, ::-1], marks=pytest.mark.slow),
        lambda x: x[..., ::-2, 1:],
        lambda x: x[:, 1:4, None, -1],
        pytest.param(lambda x: x[:, -3:-1], marks=pytest.mark.slow),
    ],
    ids=["last", "second", "step", "reverse", "both", "mixed", "from the end"],
)
def test_slices(take: Callable[[Any], Any], keras: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    entry = keras.Input((6, 4), name="x")
    x = keras.layers.Dense(4, activation="tanh", name="first")(entry)
    x = keras.layers.Flatten(name="flat")(take(x))
    model = keras.Model(entry, keras.layers.Dense(3, name="last")(x))
    path = tmp_path / "model.onnx"
    report = layertap_export.export(model, path, gradients=["input", "first"])
    assert verification_of(report.card).layers["grad/first"].scaled < 1e-5
    check_against_the_tape(model, path, np.random.default_rng(0).normal(size=(3, 6, 4)).astype("f"))


def test_slices_of_samples(keras: Any, tmp_path: Path) -> None:
    """The result has other samples than the input."""

    class Reversed(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x[::-1]

    keras.utils.set_random_seed(0)
    entry = keras.Input((4,), name="x")
    y = Reversed(name="turn")(keras.layers.Dense(3, activation="tanh", name="first")(entry))
    model = keras.Model(entry, keras.layers.Dense(2, name="last")(y))
    path = tmp_path / "model.onnx"
    layertap_export.export(model, path, gradients="input")
    check_against_the_tape(model, path, np.random.default_rng(0).normal(size=(5, 4)).astype("f"))


# --- stop_gradient --------------------------------------------------------------------------------


def stopping(keras: Any) -> Any:
    keras.utils.set_random_seed(0)
    entry = keras.Input((4, 5, 3), name="x")
    a = keras.layers.Conv2D(3, 3, padding="same", activation="tanh", name="a")(entry)
    b = keras.layers.Conv2D(3, 1, activation="sigmoid", name="b")(entry)
    x = a * keras.ops.stop_gradient(b)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(entry, keras.layers.Dense(2, name="last")(x))


def test_no_gradient_flows_through_stop_gradient(keras: Any, tmp_path: Path) -> None:
    model, path = stopping(keras), tmp_path / "model.onnx"
    with pytest.warns(layertap.errors.LayertapWarning, match="no gradient flows") as caught:
        report = layertap_export.export(model, path, gradients=["input", "a", "b"])
    assert "to 'b': it is 0 there." in str(caught[0].message)
    assert verification_of(report.card).layers["grad/a"].scaled < 1e-5
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    check_against_the_tape(model, path, x)
    (by_b,) = plain_session(path).run(["grad/b"], {"x": x})
    assert not np.any(by_b)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}


def test_the_mark_outlives_a_file(keras: Any, tmp_path: Path) -> None:
    """`layertap gradients` finds it, and compares with differences that hold it constant."""
    model, plain, path = stopping(keras), tmp_path / "plain.onnx", tmp_path / "model.onnx"
    layertap_export.export(model, plain)
    report = layertap_export.add_gradients(plain, path, ["input", "a"])
    assert report.compared.keys() == {"x", "a"}
    assert max(slopes.scaled for slopes in report.compared.values()) < 1e-5
    check_against_the_tape(
        model, path, np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    )


@pytest.mark.slow
def test_a_straight_through_estimator(keras: Any, tmp_path: Path) -> None:
    """x + stop_gradient(round(x) - x): the values are rounded, the gradient passes."""
    keras.utils.set_random_seed(0)
    entry = keras.Input((4,), name="x")
    x = keras.layers.Dense(3, name="first")(entry)
    x = x + keras.ops.stop_gradient(keras.ops.round(x) - x)
    model = keras.Model(entry, keras.layers.Dense(2, name="last")(x))
    path = tmp_path / "model.onnx"
    layertap_export.export(model, path, gradients=["input"])
    check_against_the_tape(model, path, np.random.default_rng(0).normal(size=(2, 4)).astype("f"))


# --- Ties in volumes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "strides", "padding"),
    [
        pytest.param(2, None, "valid", marks=pytest.mark.slow),
        pytest.param(2, 1, "same", marks=pytest.mark.slow),
        pytest.param(3, 2, "same", marks=pytest.mark.slow),
        pytest.param(3, 2, "valid", marks=pytest.mark.slow),
        ((1, 3, 2), (2, 1, 2), "same"),
    ],
    ids=str,
)
def test_ties_in_volumes(size: Any, strides: Any, padding: str, keras: Any, tmp_path: Path) -> None:
    """A relu before the pooling makes many zeros, which are equal."""
    keras.utils.set_random_seed(0)
    entry = keras.Input((4, 6, 5, 2), name="x")
    options = {
        "padding": "same",
        "activation": "relu",
        "bias_initializer": keras.initializers.Constant(-0.7),
    }
    x = keras.layers.Conv3D(3, 3, name="conv", **options)(entry)
    x = keras.layers.MaxPooling3D(size, strides=strides, padding=padding, name="pool")(x)
    x = keras.layers.Flatten(name="flat")(x)
    model = keras.Model(entry, keras.layers.Dense(3, name="last")(x))
    path = tmp_path / "model.onnx"
    report = layertap_export.export(model, path, gradients=["conv", "input"])
    assert verification_of(report.card).layers["grad/conv"].scaled < 1e-5
    x = np.random.default_rng(0).integers(-1, 2, (2, 4, 6, 5, 2)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    conv = np.asarray(keras.Model(entry, model.get_layer("conv").output)(x))
    assert np.mean(conv == 0) > 0.8
    tail = keras.Sequential([keras.Input(conv.shape[1:]), *model.layers[2:]])
    expected = tape_gradient(tail, conv, weights)
    found = layertap.open(path).gradients(x, "conv", weights[:, None])[:, 0]
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_volumes_of_free_sizes(keras: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    entry = keras.Input((None, None, None, 2), name="x")
    x = keras.layers.Conv3D(3, 3, padding="same", activation="relu", name="conv")(entry)
    x = keras.layers.MaxPooling3D(3, strides=2, padding="same", name="pool")(x)
    x = keras.layers.GlobalAveragePooling3D(name="mean")(x)
    model = keras.Model(entry, keras.layers.Dense(3, name="last")(x))
    report = layertap_export.export(model, tmp_path / "model.onnx", gradients=["conv", "input"])
    assert verification_of(report.card).layers["grad/conv"].scaled < 1e-5


# --- Recurrent layers -----------------------------------------------------------------------------


def recurrent(keras: Any, *layers: Any) -> Any:
    keras.utils.set_random_seed(0)
    entry = keras.Input((5, 3), name="x")
    x = keras.layers.Dense(4, activation="tanh", name="first")(entry)
    for layer in layers:
        x = layer(x)
    return keras.Model(entry, keras.layers.Dense(2, name="last")(x))


RECURRENT: dict[str, Callable[[Any], list[Any]]] = {
    "lstm": lambda layers: [layers.LSTM(4)],
    "two": lambda layers: [layers.LSTM(4, return_sequences=True), layers.LSTM(3)],
    "lstm both ways": lambda layers: [layers.Bidirectional(layers.LSTM(4))],
    "lstm backwards": lambda layers: [layers.LSTM(4, go_backwards=True, use_bias=False)],
    "gru": lambda layers: [layers.GRU(4)],
    "gru before": lambda layers: [layers.GRU(4, reset_after=False)],
    "gru both ways": lambda layers: [layers.Bidirectional(layers.GRU(4), merge_mode="sum")],
    "rnn": lambda layers: [layers.SimpleRNN(4, activation="relu")],
    "masked": lambda layers: [layers.ReLU(), layers.Masking(), layers.LSTM(4)],
    "lstm both ways and gru, masked": lambda layers: [
        *(layers.ReLU(), layers.Masking()),
        *(layers.Bidirectional(layers.LSTM(2, return_sequences=True)), layers.GRU(3)),
    ],
}
*OTHERS, QUICK = RECURRENT


@pytest.mark.parametrize(
    "name", [*(pytest.param(x, marks=pytest.mark.slow) for x in OTHERS), QUICK]
)
def test_recurrent_layers(name: str, keras: Any, tmp_path: Path) -> None:
    model = recurrent(keras, *RECURRENT[name](keras.layers))
    path = tmp_path / "model.onnx"
    report = layertap_export.export(model, path, gradients=["input", "first"])
    assert verification_of(report.card).layers["grad/first"].scaled < 1e-5
    assert {"LSTM", "GRU", "RNN"} & {node.op_type for node in onnx.load(path).graph.node}
    check_against_the_tape(model, path, np.random.default_rng(0).normal(size=(3, 5, 3)).astype("f"))


@pytest.mark.slow
def test_masked_words(keras: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    entry = keras.Input((6,), dtype="int32", name="x")
    x = keras.layers.Embedding(10, 4, mask_zero=True, name="first")(entry)
    x = keras.layers.Bidirectional(keras.layers.GRU(4))(x)
    model = keras.Model(entry, keras.layers.Dense(2, name="last")(x))
    report = layertap_export.export(model, tmp_path / "model.onnx", gradients="first")
    assert verification_of(report.card).layers["grad/first"].scaled < 1e-5


# --- Layers that have none ------------------------------------------------------------------------


def with_a_loop(keras: Any) -> Any:
    keras.utils.set_random_seed(0)
    entry = keras.Input((3, 6, 6, 2), name="x")
    x = keras.layers.Conv3D(2, 1, activation="tanh", name="first")(entry)
    x = keras.layers.ConvLSTM2D(3, 3, name="loop")(x)
    x = keras.layers.Conv2D(2, 3, activation="relu", name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(entry, keras.layers.Dense(2, name="last")(x))


def test_all_leaves_out_layers_before_a_loop(keras: Any, tmp_path: Path) -> None:
    report = layertap_export.export(with_a_loop(keras), tmp_path / "model.onnx", gradients="all")
    assert list(gradients_of(report.card).tensors) == ["loop", "conv", "mean", "last"]
    note = (
        "no gradient with respect to 'x', 'first': layertap has no rule for the operator Loop, in "
        "the layer 'loop'."
    )
    assert note in (report.card.notes or ())
    assert f"note: {note}" in str(report)


def test_a_named_layer_before_a_loop_is_refused(keras: Any, tmp_path: Path) -> None:
    with pytest.raises(GradientError) as caught:
        layertap_export.export(
            with_a_loop(keras), tmp_path / "model.onnx", gradients=["all", "first"]
        )
    assert str(caught.value) == (
        "'first' has no gradient: layertap has no rule for the operator Loop, in the layer 'loop' "
        "between it and the score. Choose 'loop' or a layer after it."
    )


# --- What people give as gradients= ---------------------------------------------------------------


@pytest.mark.parametrize(
    "none",
    [False, *(pytest.param(x, marks=pytest.mark.slow) for x in (None, np.False_, ()))],
    ids=str,
)
def test_none_at_all(none: Any, small: Any, tmp_path: Path) -> None:
    report = layertap_export.export(small, tmp_path / "model.onnx", gradients=none)
    assert report.card.gradients is None


def test_true_is_all(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    every = layertap_export.export(small, path, gradients="all").card.gradients
    assert layertap_export.export(small, path, gradients=True).card.gradients == every


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradients": [True]}, "cannot select layers for gradients by True: give names,"),
        ({"gradients": 1.5}, "cannot select layers for gradients by 1.5: give names,"),
        ({"gradients": "last-cnv"}, "Did you mean 'last-conv'?"),
        ({"score": "dense"}, "score was given without gradients"),
        ({"class_input": "required"}, "class_input was given without gradients"),
        ({"gradients": "relu", "class_input": "never"}, "class_input must be 'optional' or"),
    ],
    ids=str,
)
def test_arguments_that_are_refused(
    options: dict[str, Any], message: str, small: Any, tmp_path: Path
) -> None:
    with pytest.raises(layertap.errors.LayertapError) as caught:
        layertap_export.export(small, tmp_path / "model.onnx", **options)
    assert message in str(caught.value)


def test_a_required_class_input(small: Any, tmp_path: Path) -> None:
    """All else is as in a file with the optional form."""
    paths = [tmp_path / f"{form}.onnx" for form in ("optional", "required")]
    reports = [
        layertap_export.export(small, path, gradients=["relu"], class_input=path.stem)
        for path in paths
    ]
    one, other = reports
    assert gradients_of(other.card).class_input == "required"
    assert verification_of(one.card) == verification_of(other.card)
    assert one.card.golden == other.card.golden
    graph = onnx.load(paths[1]).graph
    assert [value.name for value in graph.input] == ["image", "score_weights"]
    assert "score_weights" not in {item.name for item in graph.initializer}
    from layertap.comparing.check import check

    assert check(layertap.open(paths[1]))
    assert layertap_export.verify(paths[1], small)


# --- Places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rank", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_places_of_a_segmentation_have_the_gradient_of_the_tape(rank: int, tmp_path: Path) -> None:
    """A net with a way down and up and a skip, over sequences, images and volumes."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    sizes = (8, 4, 4)[:rank]
    conv, up = (getattr(keras.layers, f"{kind}{rank}D") for kind in ("Conv", "UpSampling"))
    x = keras.Input((*sizes, 2), name="x")
    skip = conv(3, 3, padding="same", activation="tanh", name="skip")(x)
    deep = conv(4, 3, strides=2, padding="same", activation="tanh", name="deep")(skip)
    joined = keras.layers.Concatenate()([skip, up(2)(deep)])
    scores = conv(3, 1, name="scores")(joined)
    model = keras.Model(x, keras.layers.Softmax(name="probabilities")(scores))
    path = tmp_path / "net.onnx"
    layertap_export.export(model, path, gradients=["deep"])

    values = np.random.default_rng(0).normal(size=(2, *sizes, 2)).astype(np.float32)
    mask = np.random.default_rng(1).random(sizes).astype(np.float32)
    box = np.zeros(sizes, np.float32)
    box[(slice(1, 3),) * rank] = 1
    for at, weights in ((mask, mask), ((1,) * rank + (3,) * rank, box)):
        with tf.GradientTape() as tape:
            head = keras.Model([skip, deep], scores)
            kept = keras.Model(x, [skip, deep])(values, training=False)
            tape.watch(kept[1])
            score = tf.reduce_sum(head(kept)[..., 1] * weights)
        expected = np.asarray(tape.gradient(score, kept[1]))
        found = layertap.open(path).gradients(values, "deep", target=1, at=at)
        assert np.any(expected)
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
        whole = np.zeros((*sizes, 3), np.float32)
        whole[..., 1] = weights
        same = layertap.open(path).gradients(values, "deep", target=whole)
        np.testing.assert_allclose(same, expected, atol=2e-5 * np.abs(expected).max())
