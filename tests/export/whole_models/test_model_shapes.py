"""Exports of models of every structure: each layer has its name, and matches Keras."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import layertap_export
from generators import zoo
from layertap.format.card import Card
from spying import layer_at, spied_on

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Warnings of Keras about unusual models.
    pytest.mark.filterwarnings("ignore:.*looks like it has unbuilt state:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not support masking and will:UserWarning"),
]

LAYERS = {
    "nested": "image backbone backbone/stem backbone/stage backbone/stage/block1 "
    "backbone/stage/block1/conv backbone/stage/block1/bn backbone/stage/block1/add "
    "backbone/stage/block2 backbone/stage/block2/conv backbone/stage/block2/bn "
    "backbone/stage/block2/add backbone/out gap head",
    "sequential_of_functional": "backbone backbone/conv backbone/bn backbone/add flat top "
    "top/dense top/relu",
    "mixed": "entry body body/first body/first/a body/first/b body/scale "
    "body/scale/dense body/scale/norm head",
    "shared_models": "left right encoder encoder/dense encoder/dense#1 encoder/dense#2 encoder/sum "
    "encoder#1 encoder#1/dense encoder#1/dense#1 encoder#1/dense#2 encoder#1/sum both score",
    "one_layer_in_two_models": "entry left left/shared left/relu right right/shared right/relu add",
    "branches_inside": "first second inner inner:1 inner/cat inner/p inner/q soft",
    "subclassed": "block0 block1 head head~2",
    "unused_layers": "dense aside (idle)",
    "several_arguments": "a b",
    "nested_argument": "dense",
    "token_classifier": "embed mha mha/query mha/key mha/value mha/attention_output pool head "
    "mha/attention_scores",
    "own_build": "a b",
    "functional_with_a_call": "entry hidden dense",
    "masks_and_arguments": "masking masked drop lstm (lstm/cell)",
    "tuples_and_dicts": "entry parts:right parts:left parts:left:1:z parts:left:1:y named:low "
    "named:high lists lists:0:1 lists:1 both",
    "dicts": "left right both m a",
    "nested_structures": "x y z both dense relu",
    "outputs_that_are_inputs": "entry hidden last",
    "outputs_called_like_inputs": "x y both d",
    "one_output_twice": "entry hidden relu",
    "output_of_an_inner_layer": "entry inner inner/dense drop",
    "identities": "entry first linear same spatial add noise",
    "constants": "constant query dense dense#1",
    "odd_returns": "(nothing) (number) some (some:1) (some:2:1) (array) (ragged) (sparse) dense",
    "operations": "entry dense inner inner/multiply inner/sigmoid inner/subtract tanh true_divide "
    "add split split:1 maximum moments moments:1 get_item concatenate softmax",
    "composites": "entry mha mha/query mha/key mha/value mha/attention_output gqa gqa/query "
    "gqa/key gqa/value gqa/attention_output both both/forward_layer "
    "(both/forward_layer/cell) both/backward_layer (both/backward_layer/cell) spectral "
    "spectral/conv mha/attention_scores gqa/attention_scores",
    "recurrent": "entry not_equal masking any gru gru:1 (gru/cell) stacked "
    "(stacked/cell) (stacked/cell/one) (stacked/cell/two) "
    "simple (simple/cell)",
    "each_step": "entry td td/layer td/layer#1 td/layer#2 frames frames/inner frames/inner/conv "
    "frames/inner/flat frames/inner#1 frames/inner#1/conv frames/inner#1/flat frames/inner#2 "
    "frames/inner#2/conv frames/inner#2/flat",
    "each_step_of_many": "entry td td/inner td/inner/dense",
    "loops_and_branches": "entry flow flow/step (flow/step#1) (flow/yes) flow/step#2",
    "functions": "entry compiled compiled/dense converted (converted/dense) made made/dense",
    "recomputed": "entry dense head",
    "with_state": "entry rnn (rnn/cell) counts",
    "tied": "entry embed tied",
    "paths_that_clash": "two:1 a a#1 a#1~2 output layer b two two:1~2 c",
    "twins": "dense dense#1 dense~2 dense~3 dense~3/relu",
}
"""The rows of each table of layers; those in parentheses cannot be exposed."""

UNROLLED = 36
"""Number of rows of the model `unrolled`, whose names follow the same pattern."""

INPUTS_AND_OUTPUTS = {
    "subclassed": ("x", "b a"),
    "several_arguments": ("left right weight", "output_0"),
    "nested_argument": ("one pair pair:1", "z a a:1:c a:1:b"),
    "token_classifier": ("tokens", "head"),
    "own_build": ("left right", "a b"),
    "functional_with_a_call": ("entry", "output_0"),
    "tuples_and_dicts": ("entry", "both parts:right named:low lists lists:1"),
    "dicts": ("left right", "z a"),
    "nested_structures": ("t:s u u:1", "q q:1:n p"),
    "outputs_that_are_inputs": ("entry", "output/entry hidden last"),
    "outputs_called_like_inputs": ("x y", "output/y output/x"),
    "one_output_twice": ("entry", "hidden relu hidden~2"),
    "output_of_an_inner_layer": ("entry", "drop"),
    "identities": ("entry", "noise linear"),
    "paths_that_clash": ("two:1", "b output/two:1 c"),
    "twins": ("x", "dense#1"),
}
"""Names of the model's inputs and outputs, in their order."""

Exported = Callable[[str], tuple[Any, Path]]


@pytest.fixture(scope="module")
def exported(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A function that returns a model of the zoo and its file. Each model is exported once, which
    also compares it with Keras."""
    folder, cache = tmp_path_factory.mktemp("zoo"), {}

    def export(name: str) -> tuple[Any, Path]:
        if name not in cache:
            model, path = zoo.make(keras, name), folder / f"{name}.onnx"
            layertap_export.export(model, path)
            cache[name] = (model, path)
        return cache[name]

    return export


def written(row: layertap.Layer) -> str:
    return row.name if row.exposed else f"({row.name})"


def card_of(path: Path) -> Card:
    card = layertap.open(path).card
    assert card is not None
    return card


def test_every_model_of_the_zoo_is_in_the_tables() -> None:
    assert zoo.ZOO.keys() == {*LAYERS, "unrolled", "odd_names"}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_in_the_table(name: str, exported: Exported) -> None:
    rows = layertap.open(exported(name)[1]).layers
    assert [written(row) for row in rows] == LAYERS[name].split()
    assert [row.index for row in rows] == list(range(len(rows)))
    assert all((row.why_not is None) == row.exposed for row in rows)


@pytest.mark.parametrize("name", INPUTS_AND_OUTPUTS)
def test_inputs_and_outputs_have_the_models_names_and_order(name: str, exported: Exported) -> None:
    card = card_of(exported(name)[1])
    inputs, outputs = INPUTS_AND_OUTPUTS[name]
    assert [info.name for info in card.inputs] == inputs.split()
    assert [info.name for info in card.outputs] == outputs.split()


# --- Compared with Keras, without the recorder --------------------------------------------------


def caller(model: Any, feeds: dict[str, np.ndarray]) -> Callable[[], Any]:
    """A function that runs the Keras model eagerly."""
    from layertap_export.keras_model.inputs import model_inputs

    inputs = model_inputs(model)
    return lambda: inputs.call(model, [feeds[info.name] for info in inputs.infos])


NOT_COMPARABLE = {
    "each_step_of_many": "its inner layers run all steps at once",
    "functions": "layers in compiled functions cannot be observed",
    "odd_names": "its names cannot be split into names of layers",
    "paths_that_clash": "its names cannot be split into names of layers",
    "unrolled": "Keras runs cells more often",
    "with_state": "each call changes the result of the next",
}


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in NOT_COMPARABLE])
def test_every_layer_matches_keras(name: str, exported: Exported, keras: Any) -> None:
    """On another batch, for which Keras runs eagerly. A row matches if a layer of its name returned
    the same values."""
    model, path = exported(name)
    tapped = layertap.open(path)
    feeds = zoo.batch(tapped.inputs)
    activations = tapped.activations(feeds, "*")
    call = caller(model, feeds)
    with spied_on(model) as returned:
        call()
    for row in tapped.select():
        if row.type == "InputLayer":
            continue
        values = keras.tree.flatten(returned[layer_at(model, row.name).name])
        expected = [np.asarray(x) for x in values if hasattr(x, "shape")]
        scale = max(np.abs(x).max() for x in expected)
        near = [
            x.shape == activations[row.name].shape
            and x.dtype == activations[row.name].dtype
            and np.allclose(activations[row.name], x, atol=1e-5 * scale, rtol=0)
            for x in expected
        ]
        assert any(near), row.name


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_models_own_outputs_match_keras(name: str, exported: Exported, keras: Any) -> None:
    """They are in Keras's order, which is that of a dict itself, without any inner layers."""
    model, path = exported(name)
    tapped = layertap.open(path)
    feeds = zoo.batch(tapped.inputs)
    with keras.StatelessScope():
        result = caller(model, feeds)()
    numbered = zoo.numbered(keras, result)
    flat = keras.tree.flatten(result)
    predicted = tapped.predict(feeds)
    outputs = list(predicted.values()) if isinstance(predicted, dict) else [predicted]
    assert len(outputs) == len(numbered)
    for ours, index in zip(outputs, numbered, strict=True):
        theirs = np.asarray(flat[index])
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


# --- Names --------------------------------------------------------------------------------------


def test_a_layer_may_have_any_name(exported: Exported, keras: Any) -> None:
    model, path = exported("odd_names")
    tapped = layertap.open(path)
    expected = ["in put.1", *zoo.ODD_NAMES, "dense", "dense#1~2"]
    assert [row.name for row in tapped.layers] == expected
    assert tapped.layers[-1].inbound == ("dense",)
    assert card_of(path).source.model == "ein großes Modell"
    feeds = zoo.batch(tapped.inputs)
    function = keras.Model(model.inputs, [model.get_layer(name).output for name in zoo.ODD_NAMES])
    for name, theirs in zip(zoo.ODD_NAMES, function([feeds["in put.1"]]), strict=True):
        # Found by its exact name, though that may look like a pattern.
        np.testing.assert_allclose(tapped.activations(feeds, name), theirs, rtol=1e-4, atol=1e-6)
    names = [output.name for output in onnx.load(path).graph.output]
    assert set(names) == set(expected[1:])


def test_an_input_an_output_and_a_layer_can_have_the_same_name(exported: Exported) -> None:
    """The input can be fed, `predict` returns the output, `activations` the layer."""
    _, path = exported("paths_that_clash")
    tapped = layertap.open(path)
    feeds = zoo.batch(tapped.inputs)
    by_name = {row.name: row.tensor for row in tapped.layers}
    assert by_name["two:1"] == "two:1"
    assert by_name["two:1~2"] == "two:1~2"
    assert by_name["b"] == "layer/b"  # the output `b` is the layer `two`
    predicted = tapped.predict(feeds)
    found = tapped.activations(feeds, ["two", "two:1~2", "b"])
    np.testing.assert_array_equal(predicted["b"], found["two"])
    np.testing.assert_array_equal(predicted["output/two:1"], found["two:1~2"])
    assert not np.allclose(predicted["b"], found["b"])


def test_a_layer_with_the_name_of_an_input_has_another_tensor(keras: Any, tmp_path: Path) -> None:
    entry = keras.Input((3,), name="entry")
    hidden = keras.layers.Dense(2, name="x")(entry)
    with pytest.warns(UserWarning, match="all keys in the dict must match"):
        model = keras.Model({"x": entry}, keras.layers.ReLU(name="relu")(hidden))
    layertap_export.export(model, tmp_path / "x.onnx")
    tapped = layertap.open(tmp_path / "x.onnx")
    assert [(row.name, row.tensor) for row in tapped.layers] == [
        ("entry", "x"),
        ("x", "layer/x"),
        ("relu", "relu"),
    ]
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(tapped.activations({"x": x}, "x"), model.layers[1](x), rtol=1e-5)


# --- Layers that cannot be exposed --------------------------------------------------------------


def test_export_and_activations_report_why_a_layer_is_not_available(
    exported: Exported, tmp_path: Path
) -> None:
    model, path = exported("recurrent")
    message = (
        "the layer 'gru/cell' is not available: it runs in the loop of 'gru', once for every "
        "step. Request 'gru', which contains it."
    )
    tapped = layertap.open(path)
    with pytest.raises(layertap.LayerNotFoundError) as caught:
        tapped.activations(zoo.batch(tapped.inputs), "gru/cell")
    assert str(caught.value) == message
    with pytest.raises(layertap.LayerNotFoundError) as caught:
        layertap_export.export(model, tmp_path / "x.onnx", layers=["gru", "gru/cell"])
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_the_table_states_why_a_layer_is_not_available(exported: Exported) -> None:
    reasons = {
        row.name: row.why_not
        for name in ("odd_returns", "loops_and_branches", "functions", "unused_layers")
        for row in layertap.open(exported(name)[1]).layers
        if row.why_not
    }
    not_dense = "it returns a value of the class {!r}, not a dense tensor"
    loop = "it runs inside a loop, once per iteration"
    assert reasons == {
        "nothing": "it returns nothing",
        "number": not_dense.format("int"),
        "some:1": not_dense.format("str"),
        "some:2:1": not_dense.format("float"),
        "array": not_dense.format("ndarray"),
        "ragged": not_dense.format("RaggedTensor"),
        "sparse": not_dense.format("SparseTensor"),
        "flow/step#1": loop,
        "flow/yes": "it runs inside one branch of a condition, which may not be taken",
        "converted/dense": loop,
        "idle": "the model does not call it in inference",
    }


def test_every_step_of_an_unrolled_loop_is_exposed(exported: Exported) -> None:
    tapped = layertap.open(exported("unrolled")[1])
    assert len(tapped.layers) == len(tapped.select()) == UNROLLED
    assert len(tapped.select("gru/cell*")) == 6  # an output and a state in each of three steps
    found = tapped.activations(zoo.batch(tapped.inputs), ["gru", "gru/cell#2"])
    np.testing.assert_allclose(found["gru"], found["gru/cell#2"], rtol=1e-6)


def test_the_first_axis_of_layers_without_a_batch_has_no_symbol(exported: Exported) -> None:
    """onnxruntime assumes that axes with the same symbol have the same size."""
    without_batch = {}
    for name in ("each_step_of_many", "constants", "nested"):
        path = exported(name)[1]
        dims = {
            output.name: output.type.tensor_type.shape.dim[0].dim_param
            for output in onnx.load(path).graph.output
        }
        for row in layertap.open(path).layers:
            if row.type != "InputLayer":
                assert (dims[str(row.tensor)] == "batch") == (row.per_sample is None)
            if row.per_sample is False:
                without_batch[row.name] = row.shape
    assert without_batch == {
        "td/inner": (None, 3),
        "td/inner/dense": (None, 3),
        "constant": (4,),
        "query": (1, 4),
        "dense#1": (1, 4),
    }


def test_the_layer_in_a_time_distributed_runs_all_steps_as_one_batch(exported: Exported) -> None:
    """In a graph, Keras 3.15 itself would run as many steps as there are samples."""
    model, path = exported("each_step_of_many")
    tapped = layertap.open(path)
    x = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(np.float32)
    found = tapped.activations(x, ["td", "td/inner/dense"])
    np.testing.assert_allclose(found["td"], model(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["td/inner/dense"].reshape(2, 7, 3), found["td"])


# --- Side effects -------------------------------------------------------------------------------


def test_an_export_does_not_change_the_state_of_the_model(keras: Any, tmp_path: Path) -> None:
    """The file starts from the current state."""
    model = zoo.make(keras, "with_state")
    x = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)
    model(x)
    before = [variable.numpy() for variable in model.variables]
    layertap_export.export(model, tmp_path / "state.onnx")
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    ours = layertap.open(tmp_path / "state.onnx").predict(x)
    np.testing.assert_allclose(ours, model(x), rtol=1e-5)  # this call changes the state
    assert any((v.numpy() != old).any() for v, old in zip(model.variables, before, strict=True))


def test_an_export_does_not_affect_other_threads_or_a_tape(keras: Any, tmp_path: Path) -> None:
    """The other thread runs a model, also in a compiled function, while another is exported."""
    import tensorflow as tf

    model, other = zoo.make(keras, "nested"), zoo.make(keras, "functions")
    x = tf.ones((2, 3))
    expected = other(x).numpy()
    calls: list[tf.Tensor] = []

    @tf.function
    def traced_once(x: tf.Tensor) -> tf.Tensor:
        calls.append(x)  # runs only when the function is traced
        return other(x)

    traced_once(x)
    stop, results = threading.Event(), []

    def run() -> None:
        while not stop.is_set():
            results.append((other(x).numpy(), traced_once(x).numpy()))

    thread = threading.Thread(target=run)
    with tf.GradientTape() as tape:
        y = other(x)
        thread.start()
        try:
            layertap_export.export(model, tmp_path / "nested.onnx")
        finally:
            stop.set()
            thread.join()
        loss = tf.reduce_sum(y)
    assert all(np.array_equal(value, expected) for pair in results for value in pair)
    assert len(results) > 0
    assert len(calls) == 1
    gradients = tape.gradient(loss, other.trainable_variables)
    with tf.GradientTape() as alone:
        loss = tf.reduce_sum(other(x))
    for one, two in zip(gradients, alone.gradient(loss, other.trainable_variables), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.filterwarnings("ignore:the model's weights are not those")
def test_the_first_layer_to_diverge_is_the_innermost(keras: Any, tmp_path: Path) -> None:
    model = zoo.make(keras, "nested")
    layertap_export.export(model, tmp_path / "nested.onnx")
    bn = model.get_layer("backbone").get_layer("stage").get_layer("block1").get_layer("bn")
    bn.gamma.assign(2 * bn.gamma)
    report = layertap_export.verify(tmp_path / "nested.onnx", model)
    assert [layer.name for layer in report.failed][:2] == [
        "backbone/stage/block1/bn",
        "backbone/stage/block1/add",
    ]
    assert [layer.name for layer in report.layers][-3:] == ["backbone", "gap", "head"]


def test_a_layer_that_changes_a_tf_variable_is_an_error(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    class Counts(keras.layers.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.calls = tf.Variable(0.0)

        def call(self, x: Any) -> Any:
            self.calls.assign_add(1.0)
            return x + self.calls

    entry = keras.Input((3,))
    model = keras.Model(entry, Counts(name="counts")(entry))
    with pytest.raises(layertap_export.UnsupportedLayerError) as caught:
        layertap_export.export(model, tmp_path / "counts.onnx")
    assert str(caught.value) == (
        "layer 'counts' changes a tf.Variable while it runs, which an ONNX file cannot. Make it a "
        "weight of the layer with add_weight (its changes are ignored), or change it only in "
        "training."
    )


def test_a_layer_with_an_empty_name_is_named_by_its_class(keras: Any, tmp_path: Path) -> None:
    entry = keras.Input((3,), name="entry")
    model = keras.Model(entry, keras.layers.Dense(2, name="")(entry))
    report = layertap_export.export(model, tmp_path / "unnamed.onnx")
    assert report.exposed == ("entry", "Dense")


# --- Inputs whose dtypes Keras does not keep -----------------------------------------------------


def test_the_error_suggests_a_symbolic_call_if_the_assumed_dtype_is_wrong(
    keras: Any, tmp_path: Path
) -> None:
    class Pick(keras.Model):
        def build(self, shape: Any) -> None:
            self.table = self.add_weight(shape=(5, 3), name="table")

        def call(self, indices: Any) -> Any:
            return keras.ops.take(self.table, keras.ops.bitwise_and(indices, 3), axis=0)

    model = Pick(name="pick")
    model(np.ones((2, 4), np.int32))
    with pytest.raises(layertap_export.ExportError) as caught:
        layertap_export.export(model, tmp_path / "pick.onnx")
    message = str(caught.value)
    assert message.startswith("Keras cannot trace the model 'pick': ")
    assert message.endswith(
        " Its inputs were assumed to be floating point, because it was only called on data. If "
        "they are not, say so with --input NAME=SHAPE:DTYPE (in Python: inputs=)."
    )
    stated = {"indices": ((None, 4), "int32")}
    report = layertap_export.export(model, tmp_path / "pick.onnx", inputs=stated)
    assert report.card.inputs[0].shape == (None, 4)
    model(keras.Input((4,), dtype="int32"))
    report = layertap_export.export(model, tmp_path / "pick.onnx")
    assert [(info.name, info.dtype) for info in report.card.inputs] == [("indices", "int32")]


def test_a_subclassed_model_from_a_file_can_be_exported(keras: Any, tmp_path: Path) -> None:
    """Keras builds it with the shapes in the file."""

    @keras.saving.register_keras_serializable("layertap_tests")
    class Saved(keras.Model):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(3, name="dense")

        def call(self, inputs: Any) -> Any:
            return {"double": self.dense(inputs["x"]) * 2, "same": inputs["y"]}

    model = Saved(name="saved")
    model({"x": np.ones((2, 4), np.float32), "y": np.ones((2, 2), np.float32)})
    model.save(tmp_path / "saved.keras")
    report = layertap_export.export(tmp_path / "saved.keras", tmp_path / "saved.onnx")
    assert [(info.name, info.shape) for info in report.card.inputs] == [
        ("x", (None, 4)),
        ("y", (None, None)),  # it is returned as it is
    ]
    assert [info.name for info in report.card.outputs] == ["double", "same"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            lambda tf, x: tf.RaggedTensor.from_tensor(x),
            "the model 'odd' returns a RaggedTensor, which ONNX does not support. Export a model "
            "that returns a dense tensor.",
        ),
        (lambda tf, x: None, "the model 'odd' returns no tensor."),
        (
            lambda tf, x: tf.squeeze(x),
            "TensorFlow does not know how many axes the model's output 'output_0' has. Set its "
            "shape in a layer, for example with keras.ops.reshape.",
        ),
    ],
)
def test_models_that_do_not_return_dense_tensors_of_known_rank_are_an_error(
    result: Callable[[Any, Any], Any], message: str, keras: Any, tmp_path: Path
) -> None:
    import tensorflow as tf

    class Odd(keras.Model):
        def call(self, x: Any) -> Any:
            return result(tf, x)

    model = Odd(name="odd")
    model.build((None, 3))
    with pytest.raises(layertap_export.ExportError) as caught:
        layertap_export.export(model, tmp_path / "odd.onnx")
    assert str(caught.value) == message
