"""Every function of `keras.ops` can be exported in a model, or the error states why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import layertap_export
from cards import failed_in
from generators.ops_table import DIFFERENT, KERAS_REFUSES, OPS, REFUSED, WITHOUT_TENSORS, Op

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Raised by Keras's `tensordot` of symbolic tensors.
    pytest.mark.filterwarnings("ignore:NotImplemented should not be used:DeprecationWarning"),
]


def model_of(keras: Any, op: Op, free: bool = False) -> Any:
    """A model that calls one function on its inputs."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    inputs = [
        keras.Input(
            [None if free and axis in op.free else size for axis, size in enumerate(shape)],
            dtype=dtype,
            batch_size=op.batch,
        )
        for shape, dtype in op.inputs
    ]

    class Inside(keras.layers.Layer):
        def call(self, *tensors: Any) -> Any:
            return op.call(keras.ops, *tensors)

    result = Inside(name="inside")(*inputs) if op.inside else op.call(keras.ops, *inputs)
    outputs = keras.tree.flatten(result)
    return keras.Model(*(x if len(x) > 1 else x[0] for x in (inputs, outputs)))


def test_every_function_is_in_a_table(keras: Any) -> None:
    public = {name for name, value in vars(keras.ops).items() if callable(value)}
    public |= {f"image.{name}" for name, value in vars(keras.ops.image).items() if callable(value)}
    rows = [*OPS, *REFUSED, *DIFFERENT, *KERAS_REFUSES, *WITHOUT_TENSORS]
    listed = {name.partition(" ")[0] for name in rows}
    assert sorted(name for name in public - listed if not name.startswith("_")) == []
    assert sorted(listed - public) == []


QUICK = (
    *("argmax axis", "signbit", "log1p", "erfinv", "searchsorted", "digitize", "rfft", "irfft"),
    *("slice_update", "switch by tensor", "nanvar with nan", "linspace", "cross", "in_top_k"),
    *("image.affine_transform", "image.rgb_to_hsv", "floor_divide integers", "segment_max"),
    "inner",
)
"""Some that tf2onnx does not support or converts incorrectly, and one of unknown rank."""


@pytest.mark.parametrize("name", QUICK)
def test_some_functions_match(name: str, keras: Any, tmp_path: Path) -> None:
    report = layertap_export.export(model_of(keras, OPS[name]), tmp_path / "op.onnx")
    assert report.verification.worst.scaled < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_all_functions_match(name: str, keras: Any, tmp_path: Path) -> None:
    report = layertap_export.export(model_of(keras, OPS[name]), tmp_path / "op.onnx")
    assert report.verification.worst.scaled < 1e-5


FREE_REFUSED = {"irfft", "irfft odd"}
"""For free sizes TensorFlow pads complex numbers to a computed size, which is not supported."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.free])
def test_functions_of_free_sizes_match(name: str, keras: Any, tmp_path: Path) -> None:
    model = model_of(keras, OPS[name], free=True)
    if name in FREE_REFUSED:
        with pytest.raises(
            layertap_export.UnsupportedLayerError, match="numbers of type complex64"
        ):
            layertap_export.export(model, tmp_path / "op.onnx")
        return
    report = layertap_export.export(model, tmp_path / "op.onnx")
    assert report.verification.worst.scaled < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_functions_are_an_error(name: str, keras: Any, tmp_path: Path) -> None:
    op, message = REFUSED[name]
    with pytest.raises(layertap_export.UnsupportedLayerError) as caught:
        layertap_export.export(model_of(keras, op), tmp_path / "op.onnx")
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENT)
def test_functions_with_different_results_fail_verification(
    name: str, keras: Any, tmp_path: Path
) -> None:
    with pytest.raises(layertap_export.VerificationError) as caught:
        layertap_export.export(model_of(keras, DIFFERENT[name]), tmp_path / "op.onnx")
    assert failed_in(caught.value)[0] == name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", KERAS_REFUSES)
def test_functions_that_keras_rejects_are_an_error(name: str, keras: Any, tmp_path: Path) -> None:
    try:
        model = model_of(keras, KERAS_REFUSES[name])
    except (ValueError, TypeError, AttributeError):
        return  # Keras cannot build the model
    with pytest.raises(layertap_export.ExportError, match=r"^Keras cannot (trace|run) the model"):
        layertap_export.export(model, tmp_path / "op.onnx")
