"""Exported models in two parts, and with nothing but one layer asked for: the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap

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


SEPARATING = ["stem_conv", "stem_relu", "res_add", "pool", "concat", "last_bn", "dropout"]


@pytest.mark.parametrize("layer", SEPARATING)
def test_digits_in_two_parts(digits_file: Path, tmp_path: Path, layer: str) -> None:
    in_two_parts(digits_file, tmp_path, [layer])


@pytest.mark.parametrize("layers", [["stem_relu", "res_pointwise"], ["narrow_conv", "wide_relu"]])
def test_digits_cut_through_two_branches(
    digits_file: Path, tmp_path: Path, layers: list[str]
) -> None:
    in_two_parts(digits_file, tmp_path, layers)


def test_a_branch_alone_does_not_do(digits_file: Path) -> None:
    model = layertap.open(digits_file)
    with pytest.raises(layertap.InputError) as caught:
        model.resume({"res_bn": model.activations(batch(model), "res_bn")})
    assert str(caught.value) == (
        "the requested layers cannot be computed from 'res_bn' alone: 'stem_relu' is missing. "
        "Give it as well."
    )


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["pool2_conv", "conv4_block24_concat", "bn"])
def test_the_chest_model_in_two_parts(chest_file: Path, tmp_path: Path, layer: str) -> None:
    in_two_parts(chest_file, tmp_path, [layer])


def in_two_parts(path: Path, folder: Path, layers: list[str]) -> None:
    """Resumed, and as files: bit for bit the whole."""
    whole = layertap.open(path, reproducible=True)
    x = batch(whole)
    wanted = whole.predict(x)
    between = whole.activations(x, layers)
    np.testing.assert_array_equal(whole.resume(between), wanted, strict=True)

    whole.cut(folder / "head.onnx", end=layers)
    whole.cut(folder / "tail.onnx", start=layers)
    head = layertap.open(folder / "head.onnx", reproducible=True)
    tail = layertap.open(folder / "tail.onnx", reproducible=True)
    handed_on = head.activations(x, layers)
    for name in layers:
        np.testing.assert_array_equal(handed_on[name], between[name], strict=True)
    np.testing.assert_array_equal(tail.predict(handed_on), wanted, strict=True)
    for part in ("head.onnx", "tail.onnx"):
        onnx.checker.check_model(onnx.load(folder / part), full_check=True)


def test_each_layer_of_digits_alone_is_what_it_is_among_all(digits_file: Path) -> None:
    model = layertap.open(digits_file, reproducible=True)
    x = batch(model)
    together = model.activations(x)
    assert len(together) == 20
    for name, wanted in together.items():
        np.testing.assert_array_equal(model.activations(x, name), wanted, strict=True)


def test_an_edit_of_digits(digits_file: Path) -> None:
    """Within the residual: what goes around the layer is carried on."""
    model = layertap.open(digits_file, reproducible=True)
    x = batch(model)
    np.testing.assert_array_equal(
        model.edit(x, {"res_bn": lambda a: a, "narrow_conv": lambda a: a}), model.predict(x)
    )
    res, relu = model.activations(x, ["res_bn", "stem_relu"]).values()
    res = np.array(res)
    res[..., 3] = 0

    def without_channel_3(activation: np.ndarray) -> np.ndarray:
        activation[..., 3] = 0
        return activation

    np.testing.assert_array_equal(
        model.edit(x, {"res_bn": without_channel_3}),
        model.resume({"res_bn": res, "stem_relu": relu}),
    )


def test_means_in_the_graph(digits_file: Path) -> None:
    model = layertap.open(digits_file)
    x = batch(model)
    found, whole = model.activations(x, {"*": "mean"}), model.activations(x)
    assert list(found) == list(whole)
    for name, value in whole.items():
        wanted = value.mean(axis=tuple(range(1, value.ndim - 1)), dtype=np.float64)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-5 * abs(wanted).max())
