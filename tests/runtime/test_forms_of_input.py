"""What people type at a model: pixels, truth values, `all`, `with`, and notebooks."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
from generators import tiny
from layertap.errors import LayertapWarning, UsageError
from layertap.format.text import Text

TinyFile = Callable[[str], Path]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 16, 12, 3), dtype=np.uint8)


# --- Pixels -------------------------------------------------------------------------------------


def entries(model: layertap.Model, x: Any) -> Iterator[Any]:
    """The results of every entry that takes images."""
    yield model.predict(x)
    yield model.activations(x, "last")
    yield model.tap("last")(x)
    yield model.gradients(x, "last", 0)
    yield model.cam(x, "last", [0])
    yield model.attribute(x, "saliency", 0)
    yield model.edit(x, {"conv": lambda values: values})


def test_a_batch_of_pixels_is_prepared_everywhere(tiny_file: TinyFile, pixels: np.ndarray) -> None:
    model = layertap.open(tiny_file("differentiable"))
    listed = list(entries(model, list(pixels)))
    for given in (pixels, pixels.astype(np.int64)):
        for wanted, found in zip(listed, entries(model, given), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_batch_that_was_not_prepared_is_noticed_once(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("differentiable"))
    x = np.full((1, 8, 6, 3), 255, np.float32)
    with pytest.warns(LayertapWarning) as caught:
        for _ in entries(model, x):
            pass
    assert [str(item.message) for item in caught] == [
        "input 'image': the batch has values from 255 to 255, but the model's preprocessing "
        "returns values from 0 to 1. A batch of dtype float32 is used as it is; to have pixels "
        "prepared, give images or a batch of integers: x.astype('uint8')."
    ]
    assert caught[0].filename == __file__
    with pytest.warns(LayertapWarning):  # for each model
        layertap.open(tiny_file("differentiable")).tap("last")(x)


def test_a_ready_batch_is_no_reason_to_warn(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("differentiable"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in entries(model, tiny.images()):
            pass


def test_a_batch_needs_no_recipe_even_if_it_is_damaged(tmp_path: Path) -> None:
    made = tiny.image_classifier()
    for entry in made.metadata_props:
        entry.value = entry.value.replace('"rescale"', '"unheard of"')
    model = layertap.open(tiny.save(made, tmp_path / "m.onnx"))
    assert model.tap("probs")(tiny.images()).shape == (2, 2)


# --- Layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [True, False, np.True_, [True], 3.5, np.float32(1), b"conv"])
def test_what_selects_no_layer(classifier: layertap.Model, what: Any) -> None:
    calls: list[Callable[[Any], Any]] = [
        classifier.select,
        classifier.tap,
        lambda what: classifier.activations(tiny.images(), what),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"^cannot select a layer by"):
            call(what)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16])
def test_integers_of_numpy_are_indices(classifier: layertap.Model, kind: Any) -> None:
    x = tiny.images()
    for index in (1, 2):
        wanted = classifier.activations(x, index)
        np.testing.assert_array_equal(classifier.activations(x, kind(index)), wanted)
        np.testing.assert_array_equal(classifier.tap(kind(index))(x), wanted)
        assert classifier.select(kind(index)) == classifier.select(index)
    found = classifier.activations(x, np.array([1, 2], kind))
    assert list(found) == ["conv", "relu"]


def test_all_selects_all(classifier: layertap.Model) -> None:
    x = tiny.images()
    assert list(classifier.activations(x, "all")) == list(classifier.activations(x))
    assert next(iter(classifier.activations(x, ["probs", "all"]))) == "probs"
    assert list(classifier.activations(x, {"all": None})) == list(classifier.activations(x))


# --- Devices and threads -------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["CPU", " cpu ", "Cpu"])
def test_devices_in_capitals(tiny_file: TinyFile, device: str) -> None:
    assert layertap.open(tiny_file("image_classifier"), device=device).device == "cpu"


def test_gpu_is_the_nvidia_card(tiny_file: TinyFile) -> None:
    def message(device: str) -> str:
        with pytest.raises(layertap.DeviceError) as caught:
            layertap.open(tiny_file("image_classifier"), device=device)
        return str(caught.value)

    if layertap.open(tiny_file("image_classifier"), device="auto").device == "cpu":
        assert message("gpu") == message("cuda")
        assert message("GPU:1") == message("cuda:1")


def test_threads(tiny_file: TinyFile) -> None:
    path = tiny_file("image_classifier")
    assert layertap.open(path, threads=np.int64(1)).predict(tiny.images()).shape == (2, 2)
    for wrong in (0, True, 1.0):
        with pytest.raises(UsageError, match=rf"at least 1, got {wrong!r}"):
            layertap.open(path, threads=wrong)  # type: ignore[arg-type]


# --- Closing ------------------------------------------------------------------------------------


def test_a_closed_model_says_so(tiny_file: TinyFile) -> None:
    path, x = tiny_file("differentiable"), tiny.images()
    with layertap.open(path) as model:
        tap = model.tap("last")
        wanted = tap(x)
        assert wanted.any()
    assert [layer.name for layer in model.layers][:2] == ["image", "conv"]  # what was read stays
    for run in (tap, model.predict, lambda x: model.activations(x, "last"), model.cam):
        with pytest.raises(UsageError) as caught:
            run(x)
        assert str(caught.value) == (
            f"the model {str(path)!r} is closed. Open the file again, or use it inside its `with` "
            "block."
        )
    model.close()
    np.testing.assert_array_equal(layertap.open(path).activations(x, "last"), wanted)


# --- Notebooks ----------------------------------------------------------------------------------


def test_tables_in_a_notebook(tmp_path: Path) -> None:
    row = tiny.layer(0, "<b>&", "Lambda", (None, 2))
    made = tiny.linear_chain()
    model = layertap.open(tiny.save(made, tmp_path / "<i>.onnx"))
    table = model.summary()
    assert repr(table) == str(table)
    assert isinstance(table, Text)
    shown = model._repr_html_()
    assert "<i>" not in shown
    assert "&lt;i&gt;.onnx" in shown
    assert str(table).splitlines()[0] in shown
    assert layertap.format.text.as_html(row.name) == (
        '<pre style="white-space: pre; overflow-x: auto">&lt;b&gt;&amp;</pre>'
    )


# --- Times and parts -----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [np.float32(9), np.int64(9), Decimal(9), 1e12, 1e30])
def test_a_timeout_is_any_number(tiny_file: TinyFile, seconds: Any) -> None:
    """None of them ends the thread that stops runs."""
    model = layertap.open(tiny_file("differentiable"))
    assert model.predict(tiny.images(), timeout=seconds).shape == (2, 3)
    assert "layertap-stopping" in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "a", True, 10**400])
def test_what_is_no_timeout(classifier: layertap.Model, seconds: Any) -> None:
    with pytest.raises(UsageError, match=r"^timeout must be a number of seconds greater than 0"):
        classifier.predict(tiny.images(), timeout=seconds)


@pytest.mark.parametrize("what", [b"conv", [b"conv"], 3.5])
def test_what_selects_no_gradient(tiny_file: TinyFile, what: Any) -> None:
    with pytest.raises(UsageError, match=r"^cannot select a layer by"):
        layertap.open(tiny_file("differentiable")).gradients(tiny.images(), what)


def test_a_part_cannot_start_from_a_sequence(tmp_path: Path) -> None:
    nodes = [
        tiny.node("Relu", "x", "r"),
        tiny.node("SequenceConstruct", "r x", "sq"),
        tiny.node("ConcatFromSequence", "sq", "y", axis=1),
    ]
    made = tiny.model(nodes, [tiny.value("x", ["n", 2])], [tiny.value("y", ["n", 4])])
    model = layertap.open(tiny.save(made, tmp_path / "m.onnx"))
    with pytest.raises(UsageError, match=r"^'sq' is a sequence, and a part can only start from"):
        model.cut(tmp_path / "part.onnx", start="sq")
    assert not (tmp_path / "part.onnx").exists()
