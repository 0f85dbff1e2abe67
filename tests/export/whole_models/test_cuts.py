"""Exported models cut in two, reduced to one layer, and edited: the same numbers as the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
from layertap_export.graph.graph import attribute

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def digits_file(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits CNN with its seeded, untrained weights."""
    import layertap_export
    from layertap_models import digits

    assert keras
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    layertap_export.export(digits.build(), path)
    return path


def batch(model: layertap.Model, n: int = 2) -> np.ndarray:
    shape = (n, *(size or 1 for size in model.inputs[0].shape[1:]))
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


SEPARATING = ["stem_conv", "res_add", "concat"]


@pytest.mark.parametrize("layer", SEPARATING)
def test_two_parts_of_digits_match_the_whole(digits_file: Path, tmp_path: Path, layer: str) -> None:
    compare_two_parts(digits_file, tmp_path, [layer])


@pytest.mark.parametrize("layers", [["stem_relu", "res_pointwise"], ["narrow_conv", "wide_relu"]])
def test_two_parts_of_digits_cut_through_two_branches_match_the_whole(
    digits_file: Path, tmp_path: Path, layers: list[str]
) -> None:
    compare_two_parts(digits_file, tmp_path, layers)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:input .* the batch has values from")  # noise
@pytest.mark.parametrize("layer", ["pool2_conv", "conv4_block24_concat", "bn"])
def test_two_parts_of_the_chest_model_match_the_whole(
    chest_file: Path, tmp_path: Path, layer: str
) -> None:
    compare_two_parts(chest_file, tmp_path, [layer])


def compare_two_parts(path: Path, folder: Path, layers: list[str]) -> None:
    """Resuming from the layers, and the two parts as files, match the whole bit for bit."""
    whole = layertap.open(path, reproducible=True)
    x = batch(whole)
    expected = whole.predict(x)
    between = whole.activations(x, layers)
    np.testing.assert_array_equal(whole.resume(between), expected, strict=True)

    whole.cut(folder / "head.onnx", end=layers)
    whole.cut(folder / "tail.onnx", start=layers)
    head = layertap.open(folder / "head.onnx", reproducible=True)
    tail = layertap.open(folder / "tail.onnx", reproducible=True)
    from_head = head.activations(x, layers)
    for name in layers:
        np.testing.assert_array_equal(from_head[name], between[name], strict=True)
    np.testing.assert_array_equal(tail.predict(from_head), expected, strict=True)
    for part in ("head.onnx", "tail.onnx"):
        onnx.checker.check_model(onnx.load(folder / part), full_check=True)


def test_each_layer_alone_matches_all_layers_at_once(digits_file: Path) -> None:
    model = layertap.open(digits_file, reproducible=True)
    x = batch(model)
    together = model.activations(x)
    assert len(together) == 20
    for name, expected in together.items():
        np.testing.assert_array_equal(model.activations(x, name), expected, strict=True)


def test_separable_convolutions_that_are_filled_up_can_be_cut_and_differentiated(
    keras: Any, tmp_path: Path
) -> None:
    """Of 10 channels, which are 12 inside: the layers beside them have the axes of Keras."""
    import layertap_export

    k = keras.layers
    steps = [k.Conv2D(10, 3, activation="relu", name="first"), k.SeparableConv2D(10, 3, name="sep")]
    model = keras.Sequential([keras.Input((9, 8, 3)), *steps, k.Flatten(), k.Dense(3, name="top")])
    report = layertap_export.export(model, tmp_path / "sep.onnx", gradients="all")
    assert report.card.gradients is not None
    assert len(report.card.gradients.tensors) >= 4  # each was compared with the tape's
    groups = [
        attribute(node, "group", 1)
        for node in onnx.load(tmp_path / "sep.onnx").graph.node
        if node.op_type == "Conv"
    ]
    assert 12 in groups
    opened = layertap.open(tmp_path / "sep.onnx")
    axes = [(layer.shape[-1], layer.axes) for layer in opened.layers if len(layer.shape) == 4]
    assert axes[-2:] == [(10, "NHWC"), (10, "NHWC")]
    compare_two_parts(tmp_path / "sep.onnx", tmp_path, ["first"])
