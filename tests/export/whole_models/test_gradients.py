"""Exports with gradients: the outputs in the file, their verification, and the card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import layertap_export
from cards import failed_in, gradients_of, verification_of
from layertap._engine.session import plain_session
from layertap.cli import main
from layertap_export.gradients import backprop, registry

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def report(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("gradients") / "small.onnx"
    return layertap_export.export(small, path, gradients=["relu", "last-conv", "input"])


def by_tensorflow(keras: Any, model: Any, layer: str, x: np.ndarray, weights: np.ndarray) -> Any:
    """The gradient of the weighted logits with respect to a layer; the model ends in a Dense."""
    import tensorflow as tf

    last = model.layers[-1]
    part = keras.Model(model.input, [model.get_layer(layer).output, last.input])
    kernel, bias = last.get_weights()
    with tf.GradientTape() as tape:
        activation, features = part(x, training=False)
        score = tf.reduce_sum((features @ kernel + bias) * weights)
    return tape.gradient(score, activation).numpy()


def test_each_selected_layer_has_a_gradient(report: Any, small: Any, keras: Any) -> None:
    gradients = gradients_of(report.card)
    # `last-conv`: the last feature maps of the size of the last convolution's output.
    assert gradients.tensors == {
        "relu": "grad/relu",
        "drop": "grad/drop",
        "image": "grad/image",
    }
    assert (gradients.output, gradients.score, gradients.broadcasts) == ("dense", "logits", True)
    x = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype(np.float32)
    mix = np.array([[1, 0, 0], [0, -1, 2]], np.float32)
    (found,) = plain_session(report.path).run(["grad/relu"], {"image": x, "score_weights": mix})
    expected = by_tensorflow(keras, small, "relu", x, mix)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_gradients_are_verified_like_layers(report: Any) -> None:
    checked = verification_of(report.card).layers
    names = {"grad/relu", "grad/drop", "grad/image"}
    assert {name for name in checked if name.startswith("grad/")} == names
    assert all(0 < checked[name].scaled < 1e-5 for name in names)
    assert "verified 8 layers and 3 gradients against Keras on 6 batches" in str(report)


def test_the_golden_sample_contains_gradients(report: Any, small: Any, keras: Any) -> None:
    golden = report.card.golden
    assert {"grad/relu", "grad/drop", "grad/image"} <= golden.layers.keys()
    from layertap.comparing.golden import indices, seeded

    item = golden.inputs[0]
    x = seeded(item.shape, "float32", item.low, item.high, golden.seed)
    expected = by_tensorflow(keras, small, "relu", x, np.ones((1, 3), np.float32)).ravel()
    kept = golden.layers["grad/relu"]
    np.testing.assert_allclose(kept.values, expected[indices(expected.size, 5)], rtol=1e-4)
    np.testing.assert_allclose(kept.norm, np.linalg.norm(expected), rtol=1e-5)


def test_check_and_verify_compare_gradients(
    report: Any, small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(report.path)]) == 0
    assert capsys.readouterr().out.startswith("8 layers and 3 gradients agree with the golden ")
    assert layertap_export.verify(report.path, small)
    # A file in which only the backward pass is wrong: the weights of the classes are doubled.
    broken = onnx.load(report.path)
    seed = next(x for x in broken.graph.node if "score_weights" in x.input)
    broken.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2, np.float32), "two"))
    double = onnx.helper.make_node("Mul", ["score_weights", "two"], ["double"])
    broken.graph.node.insert(list(broken.graph.node).index(seed), double)
    seed.input[0] = "double"
    path = tmp_path / "broken.onnx"
    onnx.save(broken, path)
    assert main(["check", str(path)]) == 1
    assert "The first to diverge is 'grad/" in capsys.readouterr().out + capsys.readouterr().err


def test_gradients_do_not_change_the_layers(report: Any, small_file: Path) -> None:
    """Activations, names and order are those of an export without gradients."""
    plain, extended = layertap.open(small_file), layertap.open(report.path)
    assert extended.layers == plain.layers
    assert extended.outputs == plain.outputs
    names = [x.name for x in onnx.load(report.path).graph.output]
    plain_names = [x.name for x in onnx.load(small_file).graph.output]
    assert names == [*plain_names, "grad/relu", "grad/drop", "grad/image"]
    x = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype(np.float32)
    np.testing.assert_equal(extended.activations(x), plain.activations(x))


# --- Which layers, which score --------------------------------------------------------------------


def test_layers_with_a_gradient_are_exposed(small: Any, tmp_path: Path) -> None:
    """Other layers that the verification needs are not."""
    report = layertap_export.export(
        small, tmp_path / "small.onnx", layers="gap", gradients=["conv", "last-conv"]
    )
    assert report.exposed == ("image", "conv", "drop", "gap", "dense")
    outputs = [x.name for x in onnx.load(report.path).graph.output]
    assert outputs == ["dense", "conv", "drop", "gap", "grad/conv", "grad/drop"]
    assert report.verification.layers[-1].name == "grad/drop"
    assert layertap_export.verify(report.path, small)


def test_all_selects_the_layers_that_the_logits_depend_on(small: Any, tmp_path: Path) -> None:
    """Not the last Dense, which ends in a softmax."""
    report = layertap_export.export(small, tmp_path / "small.onnx", gradients="all")
    names = ["image", "conv", "bn", "relu", "add", "drop", "pool", "gap"]
    assert list(gradients_of(report.card).tensors) == names


def test_a_layer_that_does_not_affect_the_score_has_the_gradient_0(
    small: Any, tmp_path: Path
) -> None:
    with pytest.warns(layertap.LayertapWarning) as caught:
        report = layertap_export.export(small, tmp_path / "small.onnx", gradients="dense")
    assert [str(x.message) for x in caught] == [
        "no gradient flows from the scores of 'dense' to 'dense': it is 0 there."
    ]
    x = np.zeros((2, 7, 9, 3), np.float32)
    (found,) = plain_session(report.path).run(["grad/dense"], {"image": x})
    np.testing.assert_array_equal(found, np.zeros((2, 3)))


def test_the_score_can_be_the_probability(small: Any, keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    report = layertap_export.export(
        small, tmp_path / "small.onnx", gradients="gap", score="probability"
    )
    assert gradients_of(report.card).score == "output"
    x = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype(np.float32)
    mix = np.array([[1, 0, 0]], np.float32)
    (found,) = plain_session(report.path).run(["grad/gap"], {"image": x, "score_weights": mix})
    part = keras.Model(small.input, [small.get_layer("gap").output, small.output])
    with tf.GradientTape() as tape:
        activation, output = part(x, training=False)
        score = tf.reduce_sum(output * mix)
    expected = tape.gradient(score, activation).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def two_heads(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="stem")(image)
    age = layers.Dense(1, name="age")(layers.Flatten(name="flat")(x))
    kind = layers.Conv2D(5, 1, name="kinds")(x)
    kind = layers.Activation("softmax", name="kind")(kind)
    return keras.Model(image, [age, kind], name="heads")


def test_one_of_several_outputs_must_be_named(keras: Any, tmp_path: Path) -> None:
    """One is a number, the other has classes for every pixel."""
    keras.utils.set_random_seed(0)
    model = two_heads(keras)
    target = tmp_path / "heads.onnx"
    with pytest.raises(layertap.UsageError) as caught:
        layertap_export.export(model, target, gradients="stem")
    assert str(caught.value) == (
        "the model has 2 outputs, 'age', 'kind'. Name the one to differentiate, as in score='age'."
    )
    report = layertap_export.export(model, target, gradients=["stem", "last-conv"], score="kind")
    gradients = gradients_of(report.card)
    assert (gradients.output, gradients.score) == ("kind", "logits")
    assert list(gradients.tensors) == ["stem"]
    # The scores are channels last, like the output.
    entry = next(x for x in onnx.load(target).graph.input if x.name == "score_weights")
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim] == [0, 0, 0, 5]
    report = layertap_export.export(model, target, gradients="flat", score="age")
    assert gradients_of(report.card).score == "output"


def test_a_padding_layer_has_a_gradient(keras: Any, tmp_path: Path) -> None:
    """tf2onnx merges padding into the convolution; then nothing would read the layer's output."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.ZeroPadding2D(name="pad"),
            layers.Conv2D(4, 3, strides=2, name="conv"),
            layers.GlobalAveragePooling2D(name="gap"),
            layers.Dense(2, name="scores"),
        ]
    )
    report = layertap_export.export(model, tmp_path / "pad.onnx", gradients="pad")
    assert report.verification
    x = np.ones((1, 8, 8, 3), np.float32)
    (found,) = plain_session(report.path).run(["grad/pad"], {report.card.inputs[0].name: x})
    assert found.shape == (1, 10, 10, 3)
    assert np.abs(found[:, 0]).max() > 0


def test_gradients_of_free_sizes_are_verified(keras: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="one")(image)
    y = layers.AveragePooling2D(3, strides=1, padding="same", name="mean")(x)
    x = layers.Concatenate(name="join")([x, y])
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="max")(x)
    x = layers.UpSampling2D(2, name="up")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    model = keras.Model(image, layers.Dense(2, "sigmoid", name="dense")(x))
    report = layertap_export.export(model, tmp_path / "free.onnx", gradients=["all", "input"])
    assert gradients_of(report.card).broadcasts
    assert report.verification.worst.scaled < 1e-5


def custom_softmax(keras: Any) -> Any:
    """A custom layer that calls TensorFlow's softmax."""
    import tensorflow as tf

    class Head(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="head")
            self.dense = keras.layers.Dense(3, name="dense")

        def call(self, x: Any) -> Any:
            return tf.nn.softmax(self.dense(x))

    keras.utils.set_random_seed(0)
    entry = keras.Input((5,), name="x")
    return keras.Model(entry, Head()(keras.layers.Dense(4, activation="tanh", name="first")(entry)))


def nested(keras: Any) -> Any:
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, "relu", name="dense")], name="backbone"
    )
    outer = keras.Input((5,), name="x")
    return keras.Model(outer, keras.layers.Dense(3, "softmax", name="head")(inner(outer)))


def reshaped(keras: Any) -> Any:
    """The probabilities are reshaped, so the logits do not have the shape of the output."""
    keras.utils.set_random_seed(0)
    entry = keras.Input((5,), name="x")
    x = keras.layers.Dense(4, activation="tanh", name="first")(entry)
    x = keras.layers.Dense(6, activation="softmax", name="second")(x)
    return keras.Model(entry, keras.layers.Reshape((3, 2), name="last")(x))


def words(keras: Any) -> Any:
    keras.utils.set_random_seed(0)
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(20, 5, trainable=False, name="first")(tokens)
    x = keras.layers.MultiHeadAttention(2, 4, name="heads")(x, x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(tokens, keras.layers.Dense(3, "softmax", name="last")(x))


@pytest.mark.parametrize(
    ("make", "layers", "score"),
    [
        (custom_softmax, "first", "logits"),
        (nested, "backbone/dense", "logits"),
        (words, "first", "logits"),
        (reshaped, "first", "logits"),
    ],
    ids=["custom softmax", "nested", "words", "reshaped"],
)
def test_gradients_of_models_of_all_kinds_are_verified(
    make: Callable[[Any], Any], layers: str, score: str, keras: Any, tmp_path: Path
) -> None:
    model = make(keras)
    report = layertap_export.export(model, tmp_path / "model.onnx", gradients=layers)
    assert gradients_of(report.card).score == score
    shape = report.card.inputs[0].shape[1:]
    batch = np.ones([2, *(size or 1 for size in shape)], report.card.inputs[0].dtype)
    # If the tape does not know the scores, gradients are compared with central differences.
    from layertap_export.verification.against_tape import Tape

    assert Tape(model, report.card, report.card.layers, [batch]).knows_scores == (
        make is not reshaped
    )
    checked = verification_of(report.card).layers[f"grad/{layers}"]
    assert checked.scaled < 1e-5


def test_without_logits_in_tensorflow_gradients_are_compared_with_differences(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong rule is found too."""
    wrong = {**registry.RULES, "Tanh": lambda step: [step.gradient]}
    monkeypatch.setattr(backprop, "RULES", wrong)
    with pytest.raises(layertap_export.VerificationError) as caught:
        layertap_export.export(
            reshaped(keras), tmp_path / "model.onnx", gradients=["input", "first"]
        )
    assert failed_in(caught.value) == ["grad/x"]


def test_the_gradient_of_a_layer_that_keras_runs_step_by_step_is_verified(
    keras: Any, tmp_path: Path
) -> None:
    """The file runs all steps as one batch, so the gradient is compared with differences."""
    keras.utils.set_random_seed(0)
    entry = keras.Input((None, 4), name="x")
    inner = keras.layers.Dense(5, activation="tanh", name="inner")
    x = keras.layers.TimeDistributed(inner, name="steps")(entry)
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    model = keras.Model(entry, keras.layers.Dense(2, "softmax", name="last")(x))
    report = layertap_export.export(
        model, tmp_path / "model.onnx", gradients=["steps", "steps/inner"]
    )
    from layertap_export.verification.against_tape import Tape

    tape = Tape(model, report.card, report.card.layers, [np.ones((2, 3, 4), np.float32)])
    assert set(tape.knows) == {"steps"}
    checked = verification_of(report.card).layers
    assert checked["grad/steps"].scaled < 1e-5
    assert checked["grad/steps/inner"].scaled < 1e-5


def test_a_signature_has_gradients_of_its_inputs(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    weights = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 5), name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": tf.nn.softmax(tf.tanh(x) @ weights)}

    tf.saved_model.save(Module(), tmp_path / "saved")
    report = layertap_export.export(tmp_path / "saved", tmp_path / "saved.onnx", gradients="input")
    assert "verified 1 output and 1 gradient against TensorFlow" in str(report)
    x = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    mix = np.array([[1, 0, -2]], np.float32)
    (found,) = plain_session(report.path).run(["grad/x"], {"x": x, "score_weights": mix})
    expected = (mix @ weights.T) * (1 - np.tanh(x) ** 2)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


# --- Large weights, which are kept outside of the graph until the file is written -----------------


def wide(keras: Any) -> Any:
    keras.utils.set_random_seed(0)
    entry = keras.Input((300,), name="x")
    x = keras.layers.Dense(400, activation="relu", name="first")(entry)
    x = keras.layers.Dense(300, activation="relu", name="second")(x)
    return keras.Model(entry, keras.layers.Dense(4, "softmax", name="last")(x))


def test_both_passes_share_the_weights(keras: Any, tmp_path: Path) -> None:
    model = wide(keras)
    plain = layertap_export.export(model, tmp_path / "plain.onnx")
    report = layertap_export.export(model, tmp_path / "model.onnx", gradients=["all", "input"])
    assert set(gradients_of(report.card).tensors) == {"x", "first", "second"}
    assert plain.size_bytes < report.size_bytes < 1.02 * plain.size_bytes


@pytest.mark.parametrize("mapped", [False, True])
def test_a_model_beyond_what_one_file_holds(
    mapped: bool, keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = layertap_export.export(wide(keras), tmp_path / "whole.onnx", gradients="first")
    monkeypatch.setattr("layertap_export.writing.INLINE_BYTES", 400_000)
    if mapped:
        monkeypatch.setattr("layertap_export.verification.written_file.MAPPED_BYTES", 0)
    report = layertap_export.export(wide(keras), tmp_path / "model.onnx", gradients="first")
    (data,) = tmp_path.glob("model-*.data")
    assert report.size_bytes == report.path.stat().st_size + data.stat().st_size
    assert report.card.verification == whole.card.verification
    assert report.card.golden == whole.card.golden
    again = layertap_export.add_gradients(report.path, tmp_path / "again.onnx", "second")
    assert len(list(tmp_path.glob("again-*.data"))) == 1
    assert again.compared.keys() == {"second"}
    x = np.random.default_rng(0).normal(size=(2, 300)).astype(np.float32)
    mix = np.eye(4, dtype=np.float32)[[1, 2]]
    found = layertap.open(again.path).gradients(x, "second", mix)
    expected = by_tensorflow(keras, wide(keras), "second", x, mix)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


# --- The command line ---------------------------------------------------------------------------


def test_the_command_line_selects_layers_and_the_score(
    small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = tmp_path / "small.keras", tmp_path / "small.onnx"
    small.save(model)
    command = ["export", str(model), "-o", str(file)]
    options = ["--gradients", "last-conv", "--gradients", "re:re.u", "--score", "dense"]
    assert main([*command, *options]) == 0
    printed = capsys.readouterr()
    assert "verified 8 layers and 2 gradients against Keras" in printed.out
    assert printed.err == ""


def test_the_command_line_finishes_an_export(
    small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file, app = (tmp_path / name for name in ("small.keras", "small.onnx", "app.onnx"))
    small.save(model)
    recipe = tmp_path / "recipe.json"
    height, width = small.input_shape[1:3]
    size = [height or 16, width or 16]
    recipe.write_text(json.dumps({"size": size, "scaling": {"mode": "tf"}}))
    command = ["export", str(model), "-o", str(file)]
    more = ["--preprocess", str(recipe), "--finish", str(app), "--heat-map", "--top", "1"]
    assert main([*command, *more]) == 0
    printed = capsys.readouterr().out
    assert "gradient" in printed
    assert f"wrote {app}" in printed
    card = layertap.open(app).card
    assert card is not None
    assert card.finished is not None
    assert card.finished.heat_map == "heat_map"
    assert main([*command, "--top", "2"]) == 2
    assert "give --finish APP.onnx as well" in capsys.readouterr().err
    assert main([*command, "--finish", str(app)]) == 2
    assert "--finish needs --preprocess" in capsys.readouterr().err
