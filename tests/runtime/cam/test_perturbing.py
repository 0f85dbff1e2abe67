"""Running a network on from a tensor, many changed copies at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
from generators import float64_network, tiny
from layertap._engine.program import program_of
from layertap.cam import targets
from layertap.cam.perturbing import Perturbation
from layertap.cam.scores import Scores

LOGITS = Scores("logits")

EACH = targets.resolve("all", samples=3, classes=3)
"""Each class, for the three images."""


def shift(values: Mapping[str, np.ndarray], channel: int) -> dict[str, np.ndarray]:
    """Channel by channel another change, of every tensor."""
    return {tensor: shifted(whole, channel) for tensor, whole in values.items()}


def shifted(whole: np.ndarray, channel: int) -> np.ndarray:
    """The same for one tensor."""
    changed = whole.copy()
    changed[..., channel] += channel + 1
    return changed


def one_by_one(image: np.ndarray, layer: str) -> np.ndarray:
    """The logits with each channel shifted, in float64, `(channels, 3)`."""
    values = float64_network.forward(image[None])
    before = {name: values[name] for name in list(values)[: list(values).index(layer)]}
    rows = []
    for channel in range(values[layer].shape[-1]):
        given = {**before, layer: shifted(values[layer][0], channel)[None]}
        rows.append(float64_network.forward(given.get("image", image[None]), given)["logits"][0])
    return np.array(rows)


@pytest.mark.parametrize("layer", ["image", "conv", "relu", "mixed", "last", "pool"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_scores_are_those_of_the_changed_layer(
    differentiable: Any, images: np.ndarray, layer: str, batch_size: int
) -> None:
    """Whatever goes past the layer, and however many copies are run at a time."""
    tries = Perturbation(program_of(differentiable()), {layer: layer}, LOGITS, {"image": images})
    for sample, image in enumerate(images):
        wanted = one_by_one(image, layer)
        found = tries.scores(sample, range(len(wanted)), shift, batch_size, EACH)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        tries.whole, float64_network.forward(images)["logits"], rtol=1e-5, atol=1e-5
    )


def test_channels_in_any_order_and_those_without_a_change(
    differentiable: Any, images: np.ndarray
) -> None:
    tries = Perturbation(program_of(differentiable()), {"last": "last"}, LOGITS, {"image": images})
    wanted = one_by_one(images[1], "last")
    odd = tries.scores(1, [4, 1, 3, 0], lambda w, k: shift(w, k) if k in (1, 3) else None, 2, EACH)
    np.testing.assert_allclose(odd[[1, 2]], wanted[[1, 3]], rtol=1e-5, atol=1e-5)
    assert np.isnan(odd[[0, 3]]).all()
    none = tries.scores(1, [0, 1], lambda *_: None, 2, EACH)
    assert none.shape == (2, 3)
    assert np.isnan(none).all()


def test_the_first_half_runs_once(differentiable: Any, images: np.ndarray, runs: Any) -> None:
    tries = Perturbation(
        program_of(differentiable()), {"relu": "relu"}, LOGITS, {"image": images}, ["probs"]
    )
    assert [run.rows for run in runs] == [{"image": 3}]
    assert tries.values["probs"].shape == (3, 3)
    for sample in range(3):
        tries.scores(sample, range(4), shift, 3, EACH)
    assert [run.rows for run in runs[1:]] == [{"relu_nchw": 3, "conv_nchw": 3}] * 6


def test_nothing_of_the_batch_is_changed(differentiable: Any, images: np.ndarray) -> None:
    tries = Perturbation(program_of(differentiable()), {"relu": "relu"}, LOGITS, {"image": images})
    before = {name: value.copy() for name, value in tries.values.items()}
    tries.scores(0, range(4), shift, 2, EACH)
    for name, value in before.items():
        np.testing.assert_array_equal(tries.values[name], value)


def test_a_shape_that_goes_past_the_layer(runs: Any) -> None:
    """It holds the size of the batch: the first half runs again, for as many copies."""
    model = layertap.open(reshaped().SerializeToString())
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 4)).astype(np.float32)
    tries = Perturbation(program_of(model), {"doubled": "doubled"}, Scores("scores"), {"x": x})
    each = targets.resolve("all", samples=3, classes=4)
    found = tries.scores(1, range(4), shift, 3, each)
    doubled = 2 * x[1].astype(np.float64)
    wanted = [(shifted(doubled, k) + x[1]).sum(axis=(0, 1)) for k in range(4)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    first, second = {"x": 3}, {"x": 3, "doubled": 3, "shape": 3}
    assert [run.rows for run in runs] == [first, first, second, second]


def reshaped() -> onnx.ModelProto:
    """x -> doubled, + x -> flattened by a shape that is computed from x -> scores."""
    rows = [
        tiny.layer(0, "x", "InputLayer", (None, 2, 2, 4)),
        tiny.layer(1, "doubled", "Lambda", (None, 2, 2, 4), "x"),
        tiny.layer(2, "scores", "Dense", (None, 4), "doubled"),
    ]
    return tiny.model(
        [
            tiny.node("Add", "x x", "doubled"),
            tiny.node("Shape", "x", "batch", end=1),
            tiny.node("Concat", "batch rest", "shape", axis=0),
            tiny.node("Add", "doubled x", "both"),
            tiny.node("Reshape", "both shape", "flat"),
            tiny.node("ReduceSum", "flat axis", "scores", keepdims=0),
        ],
        [tiny.value("x", ["batch", 2, 2, 4])],
        [tiny.value("scores", ["batch", 4]), tiny.value("doubled", ["batch", 2, 2, 4])],
        [tiny.constant("rest", [4, 4]), tiny.constant("axis", [1])],
        card=tiny.card(rows, {"x": (None, 2, 2, 4)}, {"scores": (None, 4)}),
    )


def test_what_cannot_be_changed(differentiable: Any, images: np.ndarray) -> None:
    model = differentiable()
    with pytest.raises(layertap.UsageError) as caught:
        Perturbation(program_of(model), {"probs": "probs"}, LOGITS, {"image": images})
    assert str(caught.value) == "the scores do not depend on 'probs'."
    made = tiny.model(
        [tiny.node("Cast", "index", "x", to=tiny.FLOAT), tiny.node("Neg", "x", "y")],
        [tiny.value("index", ["n", 2, 4], onnx.TensorProto.INT64)],
        [tiny.value("y", ["n", 2, 4])],
    )
    model = layertap.open(made.SerializeToString())
    for method, layer in (("scorecam", "y"), ("occlusion", None)):
        with pytest.raises(layertap.UsageError) as caught:
            model.cam({"index": np.zeros((1, 2, 4), int)}, layer, method=method, mask="input")
        assert str(caught.value) == (
            f"'index' must be of a float dtype for {method} to change it, got int64."
        )
