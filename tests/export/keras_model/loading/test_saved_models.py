"""SavedModel folders: with layers if Keras 2 wrote them, else their signatures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
import layertap_export
from layertap.cli import main
from layertap_export import ModelLoadError, UnsafeModelError, load_model

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

X = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


# --- With layers --------------------------------------------------------------------------------


def functional(tf_keras: Any) -> Any:
    tf_keras.backend.clear_session()  # resets the numbers in the names of operations
    k = tf_keras.layers
    x = tf_keras.Input((5,), name="x")
    return tf_keras.Model(x, k.Dense(2, name="out")(k.Dense(4, "relu", name="first")(x) * 2.0))


@pytest.fixture
def saved(tf_keras: Any, tmp_path: Path) -> Callable[[Any], Path]:
    def save(model: Any) -> Path:
        model.save(tmp_path / "saved")
        return tmp_path / "saved"

    return save


def test_all_layers_of_a_model_that_keras_2_saved_are_exposed(
    tf_keras: Any, saved: Callable[[Any], Path], tmp_path: Path
) -> None:
    model = functional(tf_keras)
    report = layertap_export.export(saved(model), tmp_path / "saved.onnx")
    assert report.card.source.framework == "tf_keras"
    names = ["x", "first", "tf.math.multiply", "out"]
    assert [layer.name for layer in report.card.layers if layer.exposed] == names
    predicted = layertap.open(report.path).predict(X)
    np.testing.assert_allclose(predicted, np.asarray(model(X)), rtol=1e-5, atol=1e-6)
    assert layertap_export.verify(report.path, tmp_path / "saved")


OWN = """
import numpy as np
import tf_keras

class Block(tf_keras.layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = tf_keras.layers.Dense(4, name="dense")
    def call(self, x):
        return self.dense(x) * 2
    def get_config(self):
        return super().get_config()

class Net(tf_keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.block = Block(name="block")
    def call(self, x):
        return self.block(x)
    def get_config(self):
        return {"name": self.name}

def functional():
    x = tf_keras.Input((5,), name="x")
    return tf_keras.Model(x, Block(name="block")(x))

def subclassed():
    net = Net(name="net")
    net(np.zeros((1, 5), np.float32))
    return net
"""


@pytest.mark.parametrize("what", ["functional", "subclassed"])
def test_custom_layers_need_their_code(
    what: str,
    tf_keras: Any,
    module: Callable[[str], str],
    saved: Callable[[Any], Path],
    tmp_path: Path,
) -> None:
    name = module(OWN)
    path = saved(load_model(f"{name}:{what}"))
    objects = [f"{name}:Block", f"{name}:Net"]
    report = layertap_export.export(path, tmp_path / "own.onnx", custom_objects=objects)
    own = [layer.name for layer in report.card.layers if layer.exposed and layer.name != "x"]
    assert own == ["block", "block/dense"]
    if what == "functional":
        with pytest.warns(layertap.LayertapWarning) as warned:
            report = layertap_export.export(path, tmp_path / "own.onnx")
        assert [str(item.message) for item in warned] == [
            "the layers inside 'block' are not included, because a SavedModel does not contain the "
            "code of its class 'Block'. To include them, say where it is: --custom-objects "
            "package.module:Block (custom_objects= in Python)."
        ]
        assert [layer.name for layer in report.card.layers] == ["x", "block"]
        return
    with pytest.raises(ModelLoadError) as caught:
        layertap_export.export(path, tmp_path / "own.onnx")
    assert str(caught.value) == (
        f"{str(path)!r} contains a model of the class 'Net', but not the code of the class. Say "
        "where it is: --custom-objects package.module:Net (custom_objects= in Python). Without it, "
        "--signature serving_default (signature=) exports only the outputs."
    )


def test_lambda_layers_need_unsafe(tf_keras: Any, saved: Callable[[Any], Path]) -> None:
    double = tf_keras.layers.Lambda(lambda x: x * 2, name="double")
    inner = tf_keras.Sequential([tf_keras.Input((5,)), double])
    path = saved(tf_keras.Sequential([tf_keras.Input((5,)), inner]))
    with pytest.raises(UnsafeModelError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{str(path)!r} has a Lambda layer ('double'): loading it would run Python code from the "
        "file. If you trust the file, export it with --unsafe (unsafe=True in Python)."
    )
    assert load_model(path, unsafe=True).layers[0].layers[0].name == "double"
    # A signature is a TensorFlow graph: it contains no Python code.
    assert load_model(path, signature="serving_default").inputs


def test_missing_tf_keras_is_an_error(
    tf_keras: Any, saved: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(functional(tf_keras))
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(layertap.DependencyError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{str(path)!r} was saved by Keras 2, and Keras 3 cannot load layers from a SavedModel; "
        "--signature serving_default (signature= in Python) exports only the outputs. This needs "
        'Keras 2, the package tf_keras: install it with `pip install ".[tf-keras]"` in a checkout '
        "of layertap, or, if you use tensorflow-cpu, with `pip install --no-deps tf_keras`."
    )


# --- Signatures ---------------------------------------------------------------------------------


@pytest.fixture
def signatures(keras: Any, tmp_path: Path) -> Path:
    """A tf.Module with two signatures: two inputs and two outputs, and one of each."""
    import tensorflow as tf

    class Module(tf.Module):
        def __init__(self) -> None:
            self.w = tf.Variable(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 5], tf.float32, name="x"),
                tf.TensorSpec([], tf.float32, name="factor"),
            ]
        )
        def two(self, x: Any, factor: Any) -> Any:
            return {"scores": tf.matmul(x, self.w) * factor, "sums": tf.reduce_sum(x, -1)}

        @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, name="x")])
        def relu(self, x: Any) -> Any:
            return tf.nn.relu(tf.matmul(x, self.w))

    module = Module()
    path = tmp_path / "module"
    tf.saved_model.save(
        module, str(path), signatures={"serving_default": module.two, "relu": module.relu}
    )
    return path


def called(path: Path, key: str, **inputs: Any) -> dict[str, np.ndarray]:
    """The outputs of a signature, computed by TensorFlow."""
    import tensorflow as tf

    function = tf.saved_model.load(str(path)).signatures[key]
    results = function(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in results.items()}


def test_the_outputs_of_a_signature_can_be_exported(
    signatures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "module.onnx"
    assert main(["export", str(signatures), "-o", str(path)]) == 0
    first, why, verified = capsys.readouterr().out.splitlines()
    assert "MB, 2 outputs of the signature 'serving_default') in " in first
    assert why == (
        "There are no layers: only SavedModels that Keras 2's `save` wrote contain them, others "
        "contain only functions (signatures). For layers, export the .keras file, or the code that "
        "builds the model."
    )
    assert verified.startswith("verified 2 outputs against TensorFlow on 6 batches (")
    model = layertap.open(path)
    assert model.card is not None
    assert model.card.source.framework == "tensorflow"
    assert (model.card.source.model, model.card.source.type) == ("module", "serving_default")
    assert [info.name for info in model.inputs] == ["factor", "x"]
    assert [info.name for info in model.outputs] == ["scores", "sums"]
    predicted = model.predict({"x": X, "factor": np.float32(3)})
    expected = called(signatures, "serving_default", x=X, factor=np.float32(3))
    for name, value in expected.items():
        np.testing.assert_allclose(predicted[name], value, rtol=1e-5, atol=1e-6)
    for command in (["verify", path, signatures], ["check", path], ["layers", path]):
        assert main([str(word) for word in command]) == 0
    assert main(["info", str(path)]) == 0
    assert "layers        none: exported from a signature, which only has outputs" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(("dtype", "value"), [("int32", 3), ("bool", True), ("float16", 1.5)])
def test_a_scalar_of_any_dtype_is_an_input(
    dtype: str, value: Any, keras: Any, tmp_path: Path
) -> None:
    import tensorflow as tf

    module = tf.Module()
    specs = [tf.TensorSpec([None, 5], name="x"), tf.TensorSpec([], dtype, name="factor")]
    module.call = tf.function(
        lambda x, factor: {"y": x * tf.cast(factor, "float32")}, input_signature=specs
    )
    path = tmp_path / "module"
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.call})
    report = layertap_export.export(path, tmp_path / "module.onnx")
    kinds = [label.rpartition(", ")[2] for label in report.verification.batches]
    assert kinds == ["seeded", "seeded", "seeded", "zeros", "negative", "times 100"]
    assert main(["check", str(report.path)]) == 0
    given = {"x": X, "factor": np.array(value, dtype)}
    predicted = layertap.open(report.path).predict(given)
    np.testing.assert_allclose(predicted, X * np.float32(value), rtol=1e-6)


def test_any_signature_can_be_exported(signatures: Path, tmp_path: Path) -> None:
    report = layertap_export.export(signatures, tmp_path / "relu.onnx", signature="relu")
    assert str(report).splitlines()[1] == (
        "Layers are not included, because a signature was requested."
    )
    (value,) = called(signatures, "relu", x=X).values()
    predicted = layertap.open(report.path).predict(X)
    np.testing.assert_allclose(predicted, value, rtol=1e-5, atol=1e-6)
    assert layertap_export.verify(report.path, signatures)
    assert main(["verify", str(report.path), str(signatures)]) == 0
    with pytest.raises(layertap_export.ExportError, match="was made from another model"):
        layertap_export.verify(report.path, signatures, signature="serving_default")


def test_a_signature_has_no_float64_reference(signatures: Path, tmp_path: Path) -> None:
    with pytest.raises(layertap_export.ExportError) as caught:
        layertap_export.export(signatures, tmp_path / "out.onnx", reference="float64")
    assert str(caught.value) == (
        "the signature 'serving_default' cannot be computed in float64: a SavedModel keeps its "
        "operations with their number types. Compare with reference='keras'."
    )


def test_a_saved_model_of_keras_3_has_no_layers(small: Any, tmp_path: Path) -> None:
    small.export(tmp_path / "exported", verbose=False)
    report = layertap_export.export(tmp_path / "exported", tmp_path / "exported.onnx")
    assert [layer.type for layer in report.card.layers] == ["Output"]
    x = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype(np.float32)
    predicted = layertap.open(report.path).predict(x)
    np.testing.assert_allclose(predicted, small.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


def test_a_signature_of_a_saved_model_of_keras_2_has_no_layers(
    tf_keras: Any, saved: Callable[[Any], Path], tmp_path: Path
) -> None:
    report = layertap_export.export(
        saved(functional(tf_keras)), tmp_path / "out.onnx", signature="serving_default"
    )
    assert [layer.name for layer in report.card.layers] == ["out"]


def test_an_unknown_signature_is_an_error(signatures: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_model(signatures, signature="rel")
    assert str(caught.value) == (
        f"{str(signatures)!r} has no signature 'rel'. It has 'serving_default', 'relu'. Did you "
        "mean 'relu'?"
    )


def test_a_saved_model_without_signatures_is_an_error(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    tf.saved_model.save(tf.Module(), str(tmp_path / "bare"))
    with pytest.raises(ModelLoadError) as caught:
        load_model(tmp_path / "bare")
    assert str(caught.value) == (
        f"{str(tmp_path / 'bare')!r} has no signature 'serving_default'. It has no signatures."
    )


# --- Damage -------------------------------------------------------------------------------------


def test_an_empty_graph_is_an_error(signatures: Path) -> None:
    graph = signatures / "saved_model.pb"
    graph.write_bytes(b"")
    with pytest.raises(ModelLoadError) as caught:
        load_model(signatures)
    assert str(caught.value) == f"{str(graph)!r} is empty. Copy or save it again."


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
def test_truncated_files_are_an_error(name: str, signatures: Path) -> None:
    file = signatures / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelLoadError) as caught:
        load_model(signatures)
    message = str(caught.value)
    assert " cannot load " in message
    assert message.startswith("TensorFlow ")
    assert "\n" not in message


def test_damaged_metadata_is_an_error(tf_keras: Any, saved: Callable[[Any], Path]) -> None:
    path = saved(functional(tf_keras))
    metadata = path / "keras_metadata.pb"
    metadata.write_bytes(metadata.read_bytes()[:200])
    with pytest.raises(ModelLoadError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{str(metadata)!r} is damaged: ")
    assert str(caught.value).endswith(". Copy or save it again.")
