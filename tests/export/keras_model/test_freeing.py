"""The sizes of models that were only called on data: free where Keras takes any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime import InferenceSession

import layertap
import layertap_export
from shell import layertap as shell

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*looks like it has unbuilt state:UserWarning"),
]

Shape = tuple[Any, ...]
OTHER = "because Keras does not run the model with another size"


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def sequential(keras: Any, *layers: Any, data: Shape) -> Any:
    model = keras.Sequential(list(layers))
    model.predict(zeros(*data), verbose=0, batch_size=data[0])
    return model


def subclassed(keras: Any, data: Shape, call: Callable[..., Any], **attributes: Any) -> Any:
    """A model that calls itself on zeros in its constructor, as is usual to load weights."""

    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            for name, value in attributes.items():
                setattr(self, name, value)
            self(zeros(*data))

        def call(self, x: Any) -> Any:
            return call(self, x)

    return Net()


def vectors(k: Any) -> Any:
    return sequential(k, k.layers.Dense(4), k.layers.Dense(2), data=(32, 6))


def images(k: Any) -> Any:
    pool = k.layers.GlobalAveragePooling2D()
    return sequential(k, k.layers.Conv2D(4, 3), pool, k.layers.Dense(2), data=(5, 16, 20, 3))


def flattened(k: Any) -> Any:
    layers = (k.layers.Conv2D(2, 3), k.layers.Flatten(), k.layers.Dense(2))
    return sequential(k, *layers, data=(5, 9, 8, 3))


def steps(k: Any) -> Any:
    return sequential(k, k.layers.LSTM(3), k.layers.Dense(2), data=(4, 7, 2))


def stateful(k: Any) -> Any:
    return sequential(k, k.layers.LSTM(3, stateful=True), k.layers.Dense(2), data=(2, 7, 3))


def given_batch(k: Any) -> Any:
    return k.Sequential([k.Input(batch_shape=(3, 6)), k.layers.Dense(2)])


def given_batch_size(k: Any) -> Any:
    return k.Sequential([k.Input((6,), batch_size=3), k.layers.Dense(2)])


def in_constructor(k: Any) -> Any:
    layers = k.layers
    body = k.Sequential([layers.Conv2D(4, 3, padding="same"), layers.ReLU(), layers.MaxPooling2D()])
    return subclassed(
        k,
        (1, 64, 64, 3),
        lambda self, x: self.head(self.pool(self.body(x))),
        body=body,
        pool=layers.GlobalAveragePooling2D(),
        head=layers.Dense(3),
    )


def square(k: Any) -> Any:
    return subclassed(
        k, (1, 6, 6), lambda self, x: self.dense(k.ops.transpose(x, (0, 2, 1)) + x)[..., :1],
        dense=k.layers.Activation("tanh"),
    )  # fmt: skip


def positions(k: Any) -> Any:
    table = k.ops.ones((1, 10, 4))
    return subclassed(k, (1, 10, 4), lambda self, x: self.dense(x + table), dense=k.layers.Dense(2))


def limited(k: Any) -> Any:
    """Learned positions: 20, of which the first are taken."""
    table = k.layers.Embedding(20, 4)

    def call(model: Any, x: Any) -> Any:
        return model.dense(x + model.table(k.ops.arange(k.ops.shape(x)[1])))

    return subclassed(k, (1, 16, 4), call, table=table, dense=k.layers.Dense(3))


def regrouped(k: Any) -> Any:
    """Twice the steps would be taken for twice the samples."""
    return subclassed(
        k,
        (1, 6, 4),
        lambda self, x: self.dense(k.ops.reshape(x, (-1, 24))),
        dense=k.layers.Dense(2),
    )


def reshaped(k: Any) -> Any:
    """Keras knows the size while it runs on data, and not in a trace."""
    return subclassed(
        k, (1, 6, 4), lambda self, x: self.dense(k.ops.reshape(x, (-1, 4 * x.shape[1])))[:, :1],
        dense=k.layers.Activation("tanh"),
    )  # fmt: skip


def samples_fixed(k: Any) -> Any:
    return subclassed(
        k, (4, 6), lambda self, x: self.dense(x) + k.ops.ones((4, 1)), dense=k.layers.Dense(2)
    )


@pytest.mark.parametrize(
    ("make", "expected", "notes"),
    [
        (vectors, (None, 6), [f"axis 1 is fixed at 6, {OTHER}"]),
        (images, (None, None, None, 3), [f"axis 3 is fixed at 3, {OTHER}"]),
        (flattened, (None, 9, 8, 3), [
            f"the axes 1 and 2 and 3 are fixed at 9 and 8 and 3, {OTHER}"]),
        (steps, (None, None, 2), [f"axis 2 is fixed at 2, {OTHER}"]),
        (stateful, (2, None, 3), ["the batch size is fixed at 2: the model has stateful layers",
                                  f"axis 2 is fixed at 3, {OTHER}"]),
        (given_batch, (3, 6), []),
        (given_batch_size, (3, 6), []),
        (in_constructor, (None, None, None, 3), [f"axis 3 is fixed at 3, {OTHER}"]),
        (square, (None, None, None), []),
        (positions, (None, 10, 4), [f"the axes 1 and 2 are fixed at 10 and 4, {OTHER}"]),
        (limited, (None, None, 4), [f"axis 2 is fixed at 4, {OTHER}"]),
        (regrouped, (None, 6, 4), [f"the axes 1 and 2 are fixed at 6 and 4, {OTHER}"]),
        (reshaped, (None, 6, 4), [
            "axis 1 is fixed at 6, because Keras cannot trace the model with a free size",
            f"axis 2 is fixed at 4, {OTHER}"]),
        (samples_fixed, (4, 6), [
            "the batch size is fixed at 4: Keras does not run the model with another size",
            f"axis 1 is fixed at 6, {OTHER}"]),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)  # fmt: skip
def test_every_size_is_free_that_keras_takes(
    make: Callable[[Any], Any], expected: Shape, notes: list[str], keras: Any, tmp_path: Path
) -> None:
    model = make(keras)
    report = layertap_export.export(model, tmp_path / "x.onnx")
    (info,) = report.card.inputs
    assert info.shape == expected
    assert [
        note.removeprefix(f"input {info.name!r}: ") for note in report.card.notes or ()
    ] == notes
    for note in notes:
        assert note in str(report)
    if "stateful" not in make.__name__:
        compare_at_other_sizes(model, report)


def compare_at_other_sizes(model: Any, report: Any) -> None:
    """Batches of 1, 2 and 5, and two other sizes, by onnxruntime alone against Keras; all layers
    that are exposed have a size that the file states."""
    session = InferenceSession(report.path, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    (info,) = report.card.inputs
    for seed, (batch, free) in enumerate([(1, 12), (2, 15), (5, 9)]):
        shape = [free if size is None else size for size in info.shape]
        shape[0] = info.shape[0] or batch
        x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        expected = np.asarray(model(x))
        found = session.run([report.card.outputs[0].name], {entry.name: x})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        names = [output.name for output in session.get_outputs()]
        for output, value in zip(
            session.get_outputs(), session.run(names, {entry.name: x}), strict=True
        ):
            declared = [size if isinstance(size, int) else None for size in output.shape]
            fits = [
                size in (None, actual) for size, actual in zip(declared, value.shape, strict=True)
            ]
            assert all(fits), (output.name, output.shape, value.shape)


def reading_batch(k: Any, data: int | None) -> Any:
    """A model that reads the size of its batch as a Python number, and was called on data of a
    batch, or on a symbol."""

    class Doubled(k.layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x if x.shape[0] == 1 else 3 * x

    if data is None:
        entry = k.Input((6,))
        return k.Model(entry, k.layers.Dense(2)(Doubled()(entry)))
    return sequential(k, k.layers.Dense(6), Doubled(), k.layers.Dense(2), data=(data, 6))


@pytest.mark.parametrize(("data", "batch"), [(None, 1), (1, 1), (2, 2), (5, 5)])
def test_a_batch_that_the_model_reads_is_fixed(
    data: int | None, batch: int, keras: Any, tmp_path: Path
) -> None:
    model = reading_batch(keras, data)
    report = layertap_export.export(model, tmp_path / "x.onnx")
    assert report.card.inputs[0].shape == (batch, 6)
    note = (
        f"the batch size is fixed at {batch}: the model reads it as a Python number, and computes "
        "something else for others"
    )
    assert (report.card.notes or ())[-1] == note
    assert note in str(report)
    x = np.random.default_rng(0).normal(size=(batch, 6)).astype(np.float32)
    found = layertap.open(report.path).predict(x)
    np.testing.assert_allclose(found, np.asarray(model(x)), rtol=1e-4, atol=1e-5)
    assert layertap_export.verify(report.path, model)


@pytest.mark.parametrize("make", [vectors, images, steps, stateful], ids=lambda f: f.__name__)
def test_saving_and_loading_changes_nothing(
    make: Callable[[Any], Any], keras: Any, tmp_path: Path
) -> None:
    model = make(keras)
    model.save(tmp_path / "x.keras")
    layertap_export.export(model, tmp_path / "before.onnx")
    layertap_export.export(tmp_path / "x.keras", tmp_path / "after.onnx")
    before, after = ((tmp_path / f"{name}.onnx").read_bytes() for name in ("before", "after"))
    assert before == after


def test_rows_inside_declare_the_free_sizes(keras: Any, tmp_path: Path) -> None:
    report = layertap_export.export(in_constructor(keras), tmp_path / "x.onnx")
    shapes = {row.type: row.shape for row in report.card.layers if row.parent}
    assert shapes == {
        "Conv2D": (None, None, None, 4),
        "ReLU": (None, None, None, 4),
        "MaxPooling2D": (None, None, None, 4),
    }


def test_a_fixed_batch_inside_is_not_that_of_the_model(keras: Any, tmp_path: Path) -> None:
    """The inner model was built by data; the outer one states its input."""
    inner = sequential(keras, keras.layers.Dense(4), keras.layers.Dense(6), data=(2, 6))
    entry = keras.Input((6,))
    report = layertap_export.export(keras.Model(entry, inner(entry)), tmp_path / "x.onnx")
    assert {row.shape for row in report.card.layers if row.parent} == {(None, 4), (None, 6)}
    assert report.card.notes is None


# --- Stated by the user -------------------------------------------------------------------------


class Stated:
    """Exports with `inputs=`, and the shape that the file has."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, model: Any, inputs: Any) -> dict[str, tuple[Shape, str]]:
        self.report = layertap_export.export(model, self.path, inputs=inputs)
        return {info.name: (info.shape, info.dtype) for info in self.report.card.inputs}


@pytest.fixture
def stated(tmp_path: Path) -> Stated:
    return Stated(tmp_path / "x.onnx")


def functional(k: Any, size: Any = 16) -> Any:
    entry = k.Input((size, size, 3), name="image")
    x = k.layers.Conv2D(4, 3, padding="same", name="conv")(entry)
    return k.Model(entry, k.layers.GlobalMaxPooling2D(name="max")(x))


def test_sizes_of_a_functional_model_are_fixed_and_freed(keras: Any, stated: Stated) -> None:
    free, fixed = (None, None, None, 3), (1, 8, 12, 3)
    model = functional(keras)
    assert stated(model, {"image": free}) == {"image": (free, "float32")}
    assert stated.report.card.layers[1].shape == (None, None, None, 4)
    x = np.random.default_rng(0).normal(size=(2, 20, 9, 3)).astype(np.float32)
    same = functional(keras, None)
    same.set_weights(model.get_weights())
    found = layertap.open(stated.path).predict(x)
    np.testing.assert_allclose(found, same(x), rtol=1e-4, atol=1e-5)
    assert layertap_export.verify(stated.path, model)
    assert layertap_export.verify(stated.path, same)

    assert stated(same, {"image": fixed}) == {"image": (fixed, "float32")}
    assert stated.report.card.layers[1].shape == (1, 8, 12, 4)
    assert layertap_export.verify(stated.path, same)
    assert stated(same, fixed) == {"image": (fixed, "float32")}


def test_gradients_of_a_functional_model_with_freed_sizes(keras: Any, tmp_path: Path) -> None:
    inputs, path = {"image": (None, None, None, 3)}, tmp_path / "x.onnx"
    report = layertap_export.export(functional(keras), path, inputs=inputs, gradients="conv")
    assert "grad/conv" in [layer.name for layer in report.verification.layers]


def test_a_dtype_is_stated(keras: Any, stated: Stated) -> None:
    assert stated(functional(keras), {"image": "uint8"}) == {"image": ((None, 16, 16, 3), "uint8")}


def unbuilt(k: Any) -> Any:
    class Net(k.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.embed, self.dense = k.layers.Embedding(20, 4), k.layers.Dense(3)

        def call(self, tokens: Any, scale: Any) -> Any:
            return self.dense(self.embed(tokens)) * scale

    return Net()


def test_a_model_that_was_never_called(keras: Any, stated: Stated) -> None:
    with pytest.raises(layertap_export.ExportError) as caught:
        stated(unbuilt(keras), None)
    assert "has never been called" in str(caught.value)
    assert "--input tokens=SHAPE --input scale=SHAPE" in str(caught.value)
    with pytest.raises(layertap_export.ExportError, match="state 'scale' too"):
        stated(unbuilt(keras), {"tokens": ((None, None), "int32")})
    with pytest.raises(layertap.UsageError, match=r"no input 'token'. Did you mean 'tokens'\?"):
        stated(unbuilt(keras), {"token": (None, 3)})
    wanted = {"tokens": ((None, None), "int32"), "scale": ((None, 1, 1), "float32")}
    assert stated(unbuilt(keras), wanted) == wanted


def test_a_sequential_model_that_was_never_called(keras: Any, stated: Stated) -> None:
    model = keras.Sequential([keras.layers.Embedding(9, 4), keras.layers.LSTM(3)])
    wanted = {"words": ((None, None), "int32")}
    assert stated(model, wanted) == wanted


def test_nested_arguments_are_stated_as_they_are(keras: Any, stated: Stated) -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.dense = keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(keras.ops.concatenate([x["left"], *x["rest"]], -1))

    shapes = {"x": {"left": (None, 2), "rest": [(None, 3), (None, 4)]}}
    assert {k: v[0] for k, v in stated(Net(), shapes).items()} == {
        "left": (None, 2),
        "rest": (None, 3),
        "rest:1": (None, 4),
    }


def test_what_is_stated_stands(keras: Any, stated: Stated) -> None:
    shape = (None, 32, None, 3)
    assert stated(in_constructor(keras), {"x": shape}) == {"x": (shape, "float32")}
    assert stated.report.card.notes is None


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"imgae": (None, 8, 8, 3)}, "no input 'imgae'. Did you mean 'image'? Its inputs are"),
        ({"image": (None, 8, 8)}, "the input 'image' has the axes"),
        ({"image": {"a": (None, 3)}}, "state a shape for each input of the model"),
    ],
)
def test_inputs_that_the_model_does_not_have(
    inputs: Any, words: str, keras: Any, stated: Stated
) -> None:
    with pytest.raises(layertap.UsageError) as caught:
        stated(functional(keras), inputs)
    assert words in str(caught.value)
    assert not stated.path.exists()


def test_a_size_that_the_model_cannot_have_is_an_error(keras: Any, stated: Stated) -> None:
    entry = keras.Input((6,), name="x")
    model = keras.Model(entry, keras.layers.Dense(2)(entry))
    with pytest.raises(layertap_export.ExportError):
        stated(model, {"x": (None, None)})
    assert not stated.path.exists()


def test_sizes_of_a_signature_are_fixed(keras: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.w = tf.Variable(tf.ones((3, 2)))

    @tf.function(input_signature=[tf.TensorSpec((None, None, 3), name="x")])
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.linalg.matvec(module.w, x, transpose_a=True)}

    tf.saved_model.save(module, str(tmp_path / "saved"), {"serving_default": serve})
    path = tmp_path / "x.onnx"
    report = layertap_export.export(tmp_path / "saved", path, inputs={"x": (1, 5, 3)})
    assert report.card.inputs[0].shape == (1, 5, 3)
    assert layertap_export.verify(path, tmp_path / "saved")
    with pytest.raises(layertap.UsageError, match="only its free sizes can be fixed"):
        layertap_export.export(tmp_path / "saved", path, inputs={"x": (1, 5, 4)})
    with pytest.raises(layertap.UsageError, match=r"no input 'xx'. Did you mean 'x'\?"):
        layertap_export.export(tmp_path / "saved", path, inputs={"xx": (1, 5, 3)})


def test_the_command_line_states_inputs(keras: Any, tmp_path: Path) -> None:
    functional(keras, None).save(tmp_path / "x.keras")
    argv = ["export", str(tmp_path / "x.keras"), "-o", str(tmp_path / "x.onnx"), "--input"]
    done = shell(*argv, "image=?,8,?,3:float32")
    assert (done.code, done.err) == (0, "")
    assert card_of(tmp_path / "x.onnx") == {"image": ((None, 8, None, 3), "float32")}
    for text, words in (("image", "cannot read the input 'image'"), ("x=?,8,8,3", "no input 'x'")):
        done = shell(*argv, text)
        assert done.code == 2
        assert words in done.err


def card_of(path: Path) -> dict[str, tuple[Shape, str]]:
    card = layertap.open(path).card
    assert card is not None
    return {info.name: (info.shape, info.dtype) for info in card.inputs}


def test_one_of_two_inputs_is_stated(keras: Any, stated: Stated) -> None:
    class Net(keras.Model):
        def build(self, left_shape: Any, right_shape: Any) -> None:
            pass

        def call(self, left: Any, right: Any) -> Any:
            return keras.ops.mean(left, 1) + keras.ops.mean(right, 1)

    model = Net(name="net")
    model(zeros(2, 4, 3), zeros(2, 5, 3))
    assert stated(model, {"left": (None, 4, 3)}) == {
        "left": ((None, 4, 3), "float32"),
        "right": ((None, None, 3), "float32"),
    }
    assert layertap_export.verify(stated.path, model)


# --- Keras 2 ------------------------------------------------------------------------------------


@pytest.fixture
def k() -> Any:
    return pytest.importorskip("tf_keras")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
def test_models_of_keras_2_that_were_only_called_on_data(k: Any, stated: Stated) -> None:
    chain = k.Sequential([k.layers.Dense(4), k.layers.Dense(2)])
    chain(zeros(5, 6))
    assert [shape for shape, _ in stated(chain, None).values()] == [(None, 6)]
    chain.save(stated.path.with_suffix(".h5"))
    assert [x for x, _ in stated(stated.path.with_suffix(".h5"), None).values()] == [(None, 6)]

    class Net(k.Model):
        def __init__(self) -> None:
            super().__init__(name="net")
            self.conv, self.pool = k.layers.Conv2D(2, 3), k.layers.GlobalMaxPooling2D()
            self(zeros(1, 32, 32, 3))

        def call(self, x: Any) -> Any:
            return self.pool(self.conv(x))

    assert stated(Net(), None) == {"x": ((None, None, None, 3), "float32")}
