"""What a file declares is what it gives, and what Keras declares wrongly is free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import layertap_export
from layertap._engine.session import plain_session
from layertap.format.card import KEY
from layertap_export.verification.declared_shapes import freed

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Files that were changed on purpose: `verify`, `open` and `check` warn of that.
    pytest.mark.filterwarnings("ignore::layertap.LayertapWarning"),
]


@pytest.mark.parametrize(
    ("shape", "other", "expected"),
    [
        ((None, 3), (2, 3), (None, 3)),
        ((2, 3), (2, 3), (2, 3)),
        ((2, 3), (3, 3), (None, 3)),
        ((2, 3), (None, 4), (None, None)),
        ((), (2, 3), (None, None)),
        ((2,), (), ()),
    ],
)
def test_sizes_that_differ_are_freed(shape: Any, other: Any, expected: Any) -> None:
    assert freed(shape, other) == expected


def stated(path: Path) -> dict[str, list[Any]]:
    return {x.name: list(x.shape) for x in plain_session(path).get_outputs()}


def test_a_size_that_keras_declares_and_does_not_keep_is_free(keras: Any, tmp_path: Path) -> None:
    """Also in the gradient of that layer."""

    @keras.saving.register_keras_serializable("test")
    class Half(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x[:, : keras.ops.shape(x)[1] // 2]

        def compute_output_shape(self, shape: Any) -> Any:
            return (shape[0], 6, shape[2])

    entry = keras.Input((None, 3))
    x = keras.layers.ReLU(name="relu")(Half(name="half")(entry))
    x = keras.layers.GlobalMaxPooling1D(name="pool")(x)
    model = keras.Model(entry, keras.layers.Dense(2, name="dense")(x))
    path = tmp_path / "half.onnx"
    report = layertap_export.export(model, path, gradients="half")
    assert stated(path)["half"][1:] == [None, 3]
    assert stated(path)["grad/half"][1:] == [None, 3]
    opened = layertap.open(path)
    assert [x.shape for x in opened.layers if x.name in ("half", "relu")] == [(None, None, 3)] * 2
    assert report.card.outputs[0].shape == (None, 2)
    x = np.random.default_rng(0).normal(size=(2, 10, 3)).astype(np.float32)
    assert opened.activations(x, "half").shape == (2, 5, 3)


def test_verify_says_what_a_file_declares_wrongly(
    small: Any, small_file: Path, tmp_path: Path
) -> None:
    """In the card alone; the graph is right."""
    model = onnx.load(small_file)
    (card,) = [x for x in model.metadata_props if x.key == KEY]
    assert '"name":"relu"' in card.value
    before, _, after = card.value.partition('"name":"relu"')
    after = after.replace("[null,7,9,8]", "[1,7,9,8]", 1)
    card.value = f'{before}"name":"relu"{after}'
    onnx.save(model, tmp_path / "wrong.onnx")
    report = layertap_export.verify(tmp_path / "wrong.onnx", small)
    assert not report
    assert report.failed == ()
    assert dict(report.misdeclared) == {"relu": (None, 7, 9, 8)}
    assert str(report) == (
        f"{tmp_path / 'wrong.onnx'} declares sizes of 'relu' that its arrays do not have; these "
        "are free: (None, 7, 9, 8)."
    )
    with pytest.raises(layertap_export.VerificationError):
        report.raise_if_failed()


@pytest.mark.parametrize("order", ["channels_last", "channels_first"])
def test_a_crop_enlarges_what_is_smaller(order: str, keras: Any, tmp_path: Path) -> None:
    """Of images of free sizes too: then Keras's own trace would only cut, and not give the declared
    shape; so does `predict`, from its second size on."""
    first = order == "channels_first"
    entry = keras.Input((3, None, None) if first else (None, None, 3), name="image")
    crop = keras.layers.CenterCrop(6, 8, data_format=order, name="crop")(entry)
    model = keras.Model(entry, crop)
    path = tmp_path / "crop.onnx"
    layertap_export.export(model, path)
    assert stated(path)["crop"][1:] == ([3, 6, 8] if first else [6, 8, 3])
    for height, width in ((12, 11), (6, 8), (3, 20), (20, 5), (4, 4), (7, 7)):
        x = np.random.default_rng(0).uniform(size=(2, height, width, 3)).astype(np.float32)
        x = np.moveaxis(x, 3, 1) if first else x
        (found,) = plain_session(path).run(["crop"], {"image": x})
        expected = model(x).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=f"{height} x {width}")


def test_a_number_of_axes_that_varies_is_said(keras: Any, tmp_path: Path) -> None:
    """TensorFlow's squeeze drops the axis of the batch too, where that is 1."""
    entry = keras.Input((5, 6), name="x")
    squeezed = keras.ops.squeeze(entry)
    report = layertap_export.export(keras.Model(entry, squeezed), tmp_path / "x.onnx")
    assert report.card.outputs[0].shape == (None, 5, 6)
    assert report.verification.notes == (
        "'squeeze' has 2 or 3 axes, depending on the sizes of the inputs",
    )
    opened = layertap.open(report.path)
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(opened.predict(x), x)
    np.testing.assert_array_equal(opened.predict(x[:1]), x[0])
    assert layertap_export.verify(report.path, keras.Model(entry, squeezed))
