"""Networks that magnify rounding pass where the file is as close to float64 as Keras is, and fail
where it is worse."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import layertap
import layertap_export
from cards import verification_of
from layertap.cli import main
from layertap.comparing.check import check

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Files that were changed on purpose: `verify`, `open` and `check` warn of that.
    pytest.mark.filterwarnings("ignore::layertap.LayertapWarning"),
]


def wild(keras: Any, units: int = 16, spread: float = 3.0, tokens: bool = False) -> Any:
    """An LSTM with weights so large that it magnifies rounding thousands of times."""
    keras.utils.set_random_seed(0)
    layers, normal = keras.layers, keras.initializers.RandomNormal
    if tokens:
        entry = keras.Input((40,), dtype="int32")
        x = layers.Embedding(50, 8, normal(stddev=1.0), name="embed")(entry)
    else:
        x = entry = keras.Input((40, 8))
    lstm = layers.LSTM(
        units,
        kernel_initializer=normal(stddev=4.0),
        recurrent_initializer=normal(stddev=spread),
        name="lstm",
    )
    return keras.Model(entry, layers.Dense(3, name="dense")(lstm(x)))


def deep(keras: Any) -> Any:
    """60 times convolution, normalisation, relu, as they are before training."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = entry = keras.Input((16, 16, 3))
    for index in range(60):
        x = layers.Conv2D(8, 3, padding="same", name=f"conv{index}")(x)
        x = layers.ReLU(name=f"relu{index}")(layers.BatchNormalization(name=f"bn{index}")(x))
    return keras.Model(entry, layers.GlobalAveragePooling2D(name="gap")(x))


def rnn(keras: Any) -> Any:
    """A SimpleRNN that magnifies even the rounding of float64."""
    keras.utils.set_random_seed(0)
    layers, normal = keras.layers, keras.initializers.RandomNormal
    entry = keras.Input((40, 8))
    x = layers.SimpleRNN(
        64,
        kernel_initializer=normal(stddev=4.0),
        recurrent_initializer=normal(stddev=2.0),
        name="rnn",
    )(entry)
    return keras.Model(entry, layers.Dense(3, name="dense")(x))


def logistic(keras: Any) -> Any:
    """Steps of the logistic map, whose numbers float32 rounds."""
    keras.utils.set_random_seed(0)

    class Logistic(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            y = keras.ops.sigmoid(x)
            for _ in range(40):
                y = 3.9 * y * (1 - y) + 1 / 3000
            return y

    entry = keras.Input((5,))
    x = Logistic(name="map")(keras.layers.Dense(4, name="before")(entry))
    return keras.Model(entry, keras.layers.Dense(2, name="dense")(x))


MODELS: dict[str, Callable[[Any], Any]] = {
    "wild": wild,
    "chaotic": lambda keras: wild(keras, 64, 2.0),
    "chaotic tokens": lambda keras: wild(keras, 64, 2.0, tokens=True),
    "deep": deep,
    "rnn": rnn,
    "logistic": logistic,
}


@pytest.fixture(scope="module")
def exported(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Gives a model by its name, and the report of its export; each is made once."""
    folder = tmp_path_factory.mktemp("unsteady")
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            model = MODELS[name](keras)
            made[name] = model, layertap_export.export(model, folder / f"{name}.onnx")
        return made[name]

    return get


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=[] if x in ("wild", "rnn", "logistic") else pytest.mark.slow)
        for x in MODELS
    ],
)
def test_what_keras_cannot_hold_itself_passes_with_that_said(
    name: str, exported: Callable[[str], Any]
) -> None:
    _, report = exported(name)
    verification = report.verification
    assert verification.unsteady, "the model shall be one that is over the tolerance"
    for layer in verification.unsteady:
        assert layer.scaled > verification.tolerance
        assert layer.from_float64 <= max(verification.tolerance, 10 * layer.keras_from_float64)
        noted = verification_of(report.card).layers[layer.name]
        assert noted.reference == float(f"{layer.reference_error:.2g}")
    steady = {x.name for x in verification.layers} - {x.name for x in verification.unsteady}
    assert all(verification_of(report.card).layers[x].reference is None for x in steady)
    if steady:
        assert verification.worst.name in steady
        assert verification.worst.scaled <= verification.tolerance
    said = r"\n\d+ of these differs? by more than 1e-04, up to \S+ in '\w+': Keras is not more"
    assert re.search(said, str(verification))
    assert check(layertap.open(report.path))


def test_info_says_it_too(
    exported: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _, report = exported("wild")
    main(["info", str(report.path)])
    count = len(report.verification.unsteady)
    assert f"; more in {count}, where Keras itself is less exact" in capsys.readouterr().out


def swapped(path: Path, words: str) -> Path:
    """A copy of a file with two channels swapped in the largest weight that has these words."""
    model = onnx.load(path)
    items = [x for x in model.graph.initializer if words in x.name and len(x.dims) > 1]
    item = max(items, key=lambda x: np.prod(x.dims))
    value = numpy_helper.to_array(item).copy()
    value[:, [0, 1]] = value[:, [1, 0]]
    item.CopyFrom(numpy_helper.from_array(value, item.name))
    onnx.save(model, path.with_name("swapped.onnx"))
    return path.with_name("swapped.onnx")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wild", "lstm"),
        ("chaotic", "lstm"),
        ("rnn", "rnn"),
        ("logistic", "dense"),
        pytest.param("chaotic tokens", "lstm", marks=pytest.mark.slow),
        pytest.param("deep", "conv50", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_weight_in_such_a_network_fails(
    name: str, words: str, exported: Callable[[str], Any]
) -> None:
    """In a chaotic one it shows in float64 alone: both errors are as large as the values."""
    model, report = exported(name)
    bad = layertap_export.verify(swapped(report.path, words), model)
    assert not bad
    first = bad.failed[0]
    assert first.name.startswith(words)
    assert first.worse
    assert first.from_float64 is not None
    assert first.keras_from_float64 is not None
    if name in ("wild", "deep"):
        assert first.from_float64 > 3 * first.keras_from_float64
    assert f"from float64: {first.from_float64:.1e}, Keras " in str(bad)
    assert "against Keras in float64 the file's largest scaled error is" in str(bad)


def test_without_float64_keras_is_compared_with_itself(
    keras: Any, exported: Callable[[str], Any], tmp_path: Path
) -> None:
    """A SavedModel cannot be built again. Its input can be changed by a millionth."""
    model, _ = exported("wild")
    model.export(tmp_path / "saved", verbose=False)
    report = layertap_export.export(tmp_path / "saved", tmp_path / "wild.onnx").verification
    (output,) = report.layers
    assert output.reference_error is not None
    assert output.scaled <= 1.5 * output.reference_error
    assert output.from_float64 is None
    assert "if the input changes by 1e-06" in str(report)
    assert not layertap_export.verify(swapped(tmp_path / "wild.onnx", ""), tmp_path / "saved")


def test_a_copy_that_is_another_model_is_no_reference(keras: Any, tmp_path: Path) -> None:
    """A layer that loses a number in its configuration: in float64 it would be as wrong as the
    file, so the file may not be excused by it."""

    @keras.saving.register_keras_serializable("test")
    class Scale(keras.layers.Layer):
        factor = 1.0

        def call(self, x: Any) -> Any:
            return x * self.factor

    entry = keras.Input((5,))
    scale = Scale(name="scale")
    model = keras.Model(entry, scale(keras.layers.Dense(4, name="dense")(entry)))
    scale.factor = 2.0
    report = layertap_export.export(model, tmp_path / "good.onnx")
    assert not report.verification.unsteady
    bad = onnx.load(report.path)
    (two,) = [x for x in bad.graph.initializer if numpy_helper.to_array(x).size == 1]
    two.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(two) / 2, two.name))
    onnx.save(bad, tmp_path / "bad.onnx")
    assert [x.name for x in layertap_export.verify(tmp_path / "bad.onnx", model).failed] == [
        "scale"
    ]
    np.testing.assert_array_equal(numpy_helper.to_array(two), 1.0)


def test_without_float64_the_file_is_compared_with_its_own_graph_in_float64(
    keras: Any, tmp_path: Path
) -> None:
    """A sum of large numbers that do not depend on the input: Keras does not move with that."""

    class Large(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.large = self.add_weight(shape=(3000, 4), name="large")

        def call(self, x: Any) -> Any:
            ones = keras.ops.ones_like(x[:, :1]) * keras.ops.ones((1, 3000))
            return keras.ops.matmul(ones, self.large)

        def get_config(self) -> Any:
            raise NotImplementedError("it cannot be built again")

    entry = keras.Input((3,))
    layer = Large(name="large")
    model = keras.Model(entry, keras.layers.Dense(4, name="after")(layer(entry)))
    generator = np.random.default_rng(0)
    large = generator.normal(size=(1500, 4)) * 1e3
    layer.set_weights([generator.permutation(np.concatenate([large, -large])) + 1e-2])
    report = layertap_export.export(model, tmp_path / "x.onnx")
    assert report.verification.unsteady
    assert all(x.from_float64 is None for x in report.verification.unsteady)
    assert "or sums are rounded otherwise" in str(report)
    bad = onnx.load(report.path)
    item = max(bad.graph.initializer, key=lambda x: np.prod(x.dims))
    value = numpy_helper.to_array(item).copy()
    value[7] += 3
    item.CopyFrom(numpy_helper.from_array(value, item.name))
    onnx.save(bad, tmp_path / "bad.onnx")
    assert not layertap_export.verify(tmp_path / "bad.onnx", model)


def test_an_operator_that_onnxruntime_computes_wrongly_is_not_excused(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its graph in float64 is right, and so is Keras."""
    from layertap_export.convert import tf_ops

    class Crops(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            import tensorflow as tf

            return tf.image.crop_and_resize(x, [[0.0, 0.0, 0.5, 0.7]], [0], (3, 3))

        def get_config(self) -> Any:
            raise NotImplementedError("it cannot be built again")

    # That of tf2onnx is a Resize to the size of the image.
    others = {k: v for k, v in tf_ops.HANDLERS.items() if k != "CropAndResize"}
    entry = keras.Input((3, 3, 2))
    model = keras.Model(entry, Crops(name="crops")(entry))
    with monkeypatch.context() as patch:
        patch.setattr(tf_ops, "HANDLERS", others)
        with pytest.raises(layertap_export.VerificationError, match="crops"):
            layertap_export.export(model, tmp_path / "x.onnx")
    assert layertap_export.export(model, tmp_path / "x.onnx").verification
