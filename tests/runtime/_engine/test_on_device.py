"""Results that stay on the device, and inputs that are there.

The computer's own memory is such a place, too: `OrtValue`s and DLPack work there as on a card.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import layertap
from generators import tiny
from layertap._engine import devices, on_device, probe
from layertap._engine import feeds as feeds_module
from layertap._engine.devices import HOST, DeviceMemory
from layertap._engine.library import import_onnxruntime
from layertap._engine.program import Program, program_of
from layertap.errors import DeviceError, InputError
from layertap.format.graph import TensorType

ort = import_onnxruntime()
TinyFile = Callable[[str], Path]
Array = npt.NDArray[Any]

needs_dlpack = pytest.mark.skipif(
    not hasattr(ort.capi.onnxruntime_pybind11_state.OrtValue, "__dlpack__"),
    reason="needs onnxruntime 1.21",
)


@pytest.fixture(scope="module")
def model(tiny_file: TinyFile) -> layertap.Model:
    return layertap.open(tiny_file("image_classifier"))


@pytest.fixture(scope="module")
def batch() -> Array:
    return np.random.default_rng(0).random((2, 8, 6, 3)).astype(np.float32)


def cuda() -> str:
    """Why CUDA is not available here; empty if it is."""
    try:
        probe.check(ort, devices.CUDA, "0")
    except DeviceError as exc:
        return str(exc)
    return ""


needs_cuda = pytest.mark.skipif(bool(cuda()), reason=cuda())


# --- Outputs ------------------------------------------------------------------------------------


def test_one_layer_is_one_ortvalue_in_keras_order(model: layertap.Model, batch: Array) -> None:
    value = model.activations(batch, "relu", on_device=True)
    assert isinstance(value, ort.OrtValue)
    assert value.device_name() == "cpu"
    assert value.shape() == [2, 8, 6, 4]
    np.testing.assert_allclose(value.numpy(), model.activations(batch, "relu"), rtol=1e-5)


def test_several_layers_are_a_dict(model: layertap.Model, batch: Array) -> None:
    values = model.activations(batch, ["probs", "conv", "image", "pool"], on_device=True)
    expected = model.activations(batch, ["probs", "conv", "image", "pool"])
    assert list(values) == list(expected)
    for name, value in values.items():
        assert isinstance(value, ort.OrtValue)
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-5, atol=1e-6)


def test_an_input_alone_needs_no_session(
    model: layertap.Model, batch: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Program, "_start", lambda *_: pytest.fail("a session was made"))
    value = model.activations(batch, "image", on_device=True)
    assert value.numpy().tolist() == batch.tolist()


def test_predictions_stay_on_the_device(
    model: layertap.Model, batch: Array, tiny_file: TinyFile
) -> None:
    value = model.predict(batch, on_device=True)
    assert isinstance(value, ort.OrtValue)
    np.testing.assert_allclose(value.numpy(), model.predict(batch), rtol=1e-5)
    several = layertap.open(tiny_file("two_inputs"))
    feeds = tiny.feeds(tiny.two_inputs())
    values, expected = several.predict(feeds, on_device=True), several.predict(feeds)
    assert list(values) == list(expected)
    for name, one in values.items():
        np.testing.assert_allclose(one.numpy(), expected[name], rtol=1e-5)


@pytest.mark.parametrize("how", ["mean", "max", "mean_l2", "flatten"])
def test_reductions_stay_on_the_device(model: layertap.Model, batch: Array, how: str) -> None:
    value: Any = model.activations(batch, {"relu": how}, on_device=True)["relu"]
    expected = model.activations(batch, {"relu": how})["relu"]
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_top_channels(model: layertap.Model, batch: Array) -> None:
    found = model.activations(batch, {"relu": "top2"}, on_device=True)["relu"]
    expected = model.activations(batch, {"relu": "top2"})["relu"]
    assert isinstance(found, layertap.TopChannels)
    assert found.channels.numpy().tolist() == expected.channels.tolist()
    np.testing.assert_allclose(found.values.numpy(), expected.values, rtol=1e-5)


def test_a_cast(model: layertap.Model, batch: Array) -> None:
    """Its axes, too, are in Keras's order."""
    value = model.activations(batch, "conv", dtype="float16", on_device=True)
    expected = model.activations(batch, "conv", dtype="float16")
    assert value.numpy().dtype == np.float16
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-3, atol=1e-3)


@needs_dlpack
def test_numpy_takes_it_over_without_a_copy(model: layertap.Model, batch: Array) -> None:
    value = model.activations(batch, "relu", on_device=True)
    array = np.from_dlpack(value)
    assert array.shape == (2, 8, 6, 4)
    assert array.ctypes.data == value.data_ptr()
    assert array.flags.c_contiguous
    del value
    np.testing.assert_allclose(array, model.activations(batch, "relu"), rtol=1e-5)


@needs_dlpack
def test_torch_takes_it_over_without_a_copy(model: layertap.Model, batch: Array) -> None:
    torch = pytest.importorskip("torch")
    value = model.activations(batch, "relu", on_device=True)
    tensor = torch.from_dlpack(value)
    assert tensor.data_ptr() == value.data_ptr()
    np.testing.assert_allclose(tensor.numpy(), model.activations(batch, "relu"), rtol=1e-5)


@needs_dlpack
def test_an_ortvalue_of_old_gets_its_dlpack() -> None:
    """As up to onnxruntime 1.23: only what is inside has it."""

    class Old:
        def __init__(self, inner: Any) -> None:
            self._ortvalue = inner

    inner = ort.OrtValue.ortvalue_from_numpy(np.arange(3, dtype=np.float32))._ortvalue
    value = on_device.shareable(Old(inner))
    assert isinstance(value, Old)
    assert np.from_dlpack(value).tolist() == [0, 1, 2]  # type: ignore[arg-type]
    assert type(on_device.shareable(Old(inner))) is type(value)
    newer = ort.OrtValue.ortvalue_from_numpy(np.arange(3, dtype=np.float32))
    if hasattr(newer, "__dlpack__"):
        assert on_device.shareable(newer) is newer


def test_a_tap_is_reusable_and_pickles(model: layertap.Model, batch: Array) -> None:
    tap = model.tap(["relu", "probs"], on_device=True)
    first, second = tap(batch), tap(batch[:1])
    assert first["relu"].shape() == [2, 8, 6, 4]
    assert second["relu"].shape() == [1, 8, 6, 4]
    again = pickle.loads(pickle.dumps(tap))(batch)
    assert isinstance(again["relu"], ort.OrtValue)
    np.testing.assert_array_equal(again["probs"].numpy(), first["probs"].numpy())


def test_arrays_and_ortvalues_of_one_layer_have_sessions_of_their_own(
    model: layertap.Model, batch: Array
) -> None:
    """One is a view on channels first, the other is channels last."""
    values = [model.activations(batch, "relu", on_device=flag) for flag in (True, False, True)]
    assert [isinstance(value, ort.OrtValue) for value in values] == [True, False, True]
    assert not values[1].flags.c_contiguous


def test_a_file_without_a_card(tiny_file: TinyFile) -> None:
    made = layertap.open(tiny_file("residual"))
    feeds = tiny.feeds(tiny.residual())
    for name in ("a", "d", "y"):
        value = made.activations(feeds, name, on_device=True)
        np.testing.assert_allclose(value.numpy(), made.activations(feeds, name), rtol=1e-5)


# --- Contiguous arrays --------------------------------------------------------------------------


# --- Inputs -------------------------------------------------------------------------------------


def test_an_ortvalue_goes_in(model: layertap.Model, batch: Array) -> None:
    fed = ort.OrtValue.ortvalue_from_numpy(batch)
    for given in (fed, {"image": fed}):
        np.testing.assert_array_equal(
            model.activations(given, "relu"), model.activations(batch, "relu")
        )
    assert model.activations(fed, "image").tolist() == batch.tolist()


@needs_dlpack
def test_an_ortvalue_goes_in_without_a_copy(model: layertap.Model, batch: Array) -> None:
    fed = ort.OrtValue.ortvalue_from_numpy(batch)
    prepared = feeds_module.prepare(fed, program_of(model).graph.inputs, ["image"])["image"]
    assert prepared.ctypes.data == fed.data_ptr()


def test_one_model_s_result_goes_into_the_next(model: layertap.Model, batch: Array) -> None:
    middle = model.activations(batch, "relu", on_device=True)
    resumed = model.resume({"relu": middle}, "probs")
    np.testing.assert_allclose(resumed, model.activations(batch, "probs"), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:input .* the batch has values from")
def test_an_edit_of_what_was_fed(model: layertap.Model, batch: Array) -> None:
    fed = ort.OrtValue.ortvalue_from_numpy(batch)
    edited = model.edit(fed, {"image": lambda image: image * 2}, "conv")
    np.testing.assert_allclose(edited, model.activations(batch * 2, "conv"), rtol=1e-5)
    np.testing.assert_array_equal(fed.numpy(), batch)


@needs_dlpack
def test_an_object_that_has_dlpack_alone(model: layertap.Model, batch: Array) -> None:
    class Tensor:
        def __dlpack__(self, **options: Any) -> Any:
            return batch.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return batch.__dlpack_device__()

    given: Any = Tensor()
    np.testing.assert_array_equal(
        model.activations(given, "relu"), model.activations(batch, "relu")
    )


class Sulking:
    """As torch's tensors that need a gradient: in main memory, and not available."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class Lost(Sulking):
    """As torch's tensors on `meta`."""

    def __dlpack_device__(self) -> tuple[int, int]:
        raise ValueError("meta")


@pytest.mark.parametrize("kind", [Sulking, Lost])
def test_what_cannot_be_made_an_array(model: layertap.Model, kind: type[Sulking]) -> None:
    with pytest.raises(InputError) as caught:
        model.activations(kind(), "relu")
    assert str(caught.value) == (
        f"input 'image': cannot convert a {kind.__name__} to an array (Can't call numpy() on "
        "Tensor that requires grad.)."
    )


class Elsewhere:
    """A tensor on a card, as far as one can tell."""

    shape = (2, 8, 6, 3)

    def __init__(self, kind: int, unit: int) -> None:
        self.where = kind, unit

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("strides")

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.where


@pytest.mark.parametrize(
    ("kind", "unit", "where"), [(2, 0, "cuda:0"), (2, 1, "cuda:1"), (10, 3, "rocm:3")]
)
def test_what_is_on_a_card_does_not_go_to_the_cpu(
    model: layertap.Model, kind: int, unit: int, where: str
) -> None:
    with pytest.raises(InputError) as caught:
        model.activations(Elsewhere(kind, unit), "relu")
    assert str(caught.value) == (
        f"input 'image' is on {where}, but the model runs on cpu. Move it there first, or open "
        f"the model with device={where!r}."
    )


def test_what_is_on_the_card_but_not_to_be_shared() -> None:
    with pytest.raises(InputError) as caught:
        on_device.take(
            "input 'x'", Elsewhere(2, 0), DeviceMemory("cuda", 0), DeviceMemory("cuda", 0)
        )
    assert str(caught.value) == (
        "input 'x': onnxruntime cannot use this Elsewhere (strides). Give one that is contiguous "
        "(x.contiguous()) and does not require a gradient (x.detach())."
    )


@needs_dlpack
def test_what_is_on_the_card_is_checked_there(batch: Array) -> None:
    """`take` with the host for a card: what it gives is an `OrtValue`, which is not converted."""
    card = DeviceMemory("cuda", 0)
    value = on_device._from_dlpack(batch.__dlpack__())
    assert on_device.take("x", value, card, card) is value
    spec = TensorType("float32", ("n", 8, 6, 3))
    assert feeds_module._checked("input 'x'", value, spec) is value
    with pytest.raises(InputError, match=re.escape("axis 1 must be 9, got 8.")):
        feeds_module._checked("input 'x'", value, TensorType("float32", ("n", 9, 6, 3)))
    with pytest.raises(InputError) as caught:
        feeds_module._checked("input 'x'", value, TensorType("float16", ("n", 8, 6, 3)))
    assert str(caught.value) == (
        "input 'x' has dtype float32, expected float16. A value on a device is not converted; "
        "convert it there."
    )


@pytest.mark.parametrize(
    ("shape", "words"),
    [((2, 8, 6), "4 axes, got 3"), ((2, 8, 5, 3), "axis 2 must be 6, got 5")],
)
def test_an_ortvalue_that_does_not_fit(
    model: layertap.Model, shape: tuple[int, ...], words: str
) -> None:
    fed = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match=words):
        model.activations(fed, "relu")


def test_an_ortvalue_of_another_dtype_is_converted_on_the_host(
    model: layertap.Model, batch: Array
) -> None:
    fed = ort.OrtValue.ortvalue_from_numpy(batch.astype(np.float64))
    np.testing.assert_array_equal(model.activations(fed, "relu"), model.activations(batch, "relu"))


def test_a_bound_run_has_its_outputs_in_order(model: layertap.Model, batch: Array) -> None:
    """And words its errors like any other."""
    fetch = program_of(model).fetch(["conv", "probs"], peeled=False, on_device=True)
    session = fetch.session
    assert session is not None
    fed = ort.OrtValue.ortvalue_from_numpy(batch)
    forth = session.run(fetch.outputs, {"image": fed})
    back = session.run(fetch.outputs[::-1], {"image": fed})
    assert all(isinstance(value, np.ndarray) for value in forth)
    assert [value.shape for value in forth] == [value.shape for value in back[::-1]]
    with pytest.raises(InputError, match="onnxruntime could not run"):
        session.run(fetch.outputs, {"nothing": fed}, True)


# --- Devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "unit", "place"),
    [
        (devices.CPU, "", HOST),
        (devices.CUDA, "0", DeviceMemory("cuda", 0)),
        (devices.CUDA, "3", DeviceMemory("cuda", 3)),
        (devices.TENSORRT, "1", DeviceMemory("cuda", 1)),
        (devices.OPENVINO, "gpu", HOST),
    ],
)
def test_where_results_are(device: devices.Device, unit: str, place: DeviceMemory) -> None:
    assert devices.memory(devices.providers(device, unit, 1)) == place


def test_places_by_name() -> None:
    assert (str(HOST), str(DeviceMemory("cuda", 1))) == ("cpu", "cuda:1")


@needs_cuda
def test_on_a_card_nothing_passes_the_host(tiny_file: TinyFile, batch: Array) -> None:
    made = layertap.open(tiny_file("image_classifier"), device="cuda")
    expected = layertap.open(tiny_file("image_classifier")).activations(batch, "relu")
    fed = ort.OrtValue.ortvalue_from_numpy(batch, "cuda", 0)
    value = made.activations(fed, "relu", on_device=True)
    assert value.device_name().lower() == "cuda"
    assert value.__dlpack_device__() == (2, 0)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-4, atol=1e-5)
    again = made.resume({"relu": value}, "probs")
    np.testing.assert_allclose(again, made.predict(batch), rtol=1e-4, atol=1e-5)
    torch = pytest.importorskip("torch")
    tensor = torch.from_dlpack(value)
    assert tensor.data_ptr() == value.data_ptr()
    back = made.activations(torch.from_numpy(batch).cuda(), "relu", on_device=True)
    np.testing.assert_allclose(back.numpy(), expected, rtol=1e-4, atol=1e-5)
