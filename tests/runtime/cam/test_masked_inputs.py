"""Attributions by masking the input, beside closed forms, definitions and the package shap."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
from generators import float64_network, tiny

NOISE = "ignore:input .* the batch has values from"
"""These batches are noise, which the recipe in the file cannot have returned."""

pytestmark = pytest.mark.filterwarnings(NOISE)

CLASSES = 2


def linear(*shape: int) -> tuple[layertap.Model, np.ndarray]:
    """A model `f_k(x) = sum(x w_k)` for inputs of a shape, and its weights `(*shape, classes)`."""
    size = int(np.prod(shape))
    weights = np.random.default_rng(1).normal(size=(size, CLASSES)).astype(np.float32)
    dims = (None, *shape)
    made = tiny.model(
        [tiny.node("Reshape", "x flat", "rows"), tiny.node("MatMul", "rows w", "scores")],
        [tiny.value("x", ["batch", *shape])],
        [tiny.value("scores", ["batch", CLASSES])],
        [tiny.constant("flat", [-1, size]), tiny.constant("w", weights, np.float32)],
        card=tiny.card(
            [tiny.layer(0, "x", "InputLayer", dims)], {"x": dims}, {"scores": (None, CLASSES)}
        ),
    )
    model = layertap.open(made.SerializeToString())
    return model, weights.reshape(*shape, CLASSES).astype(np.float64)


def batch(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32)


# --- Closed forms of linear models --------------------------------------------------------------

SHAPES = [(6,), (9, 2), (6, 5, 3), (4, 6, 2, 3)]
"""Columns, a sequence, an image, a volume."""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("baseline", [0.0, 0.5, "array"])
def test_single_windows_of_a_linear_model(shape: tuple[int, ...], baseline: Any) -> None:
    """Without one position: its channels' `w (x - b)`, in all of them."""
    model, w = linear(*shape)
    x = batch(*shape)
    b = batch(*shape, seed=1)[0] if baseline == "array" else baseline
    found = model.attribute(x, "occlusion", [0, 1], baseline=b, window=1, batch_size=7)
    assert (found.shape, found.dtype) == ((3, 2, *shape), np.float32)
    for k in range(CLASSES):
        wanted = (x - b) * w[..., k]
        if len(shape) > 1:
            wanted = np.broadcast_to(wanted.sum(axis=-1, keepdims=True), x.shape)
        np.testing.assert_allclose(found[:, k], wanted, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapley_values_of_a_linear_model(shape: tuple[int, ...]) -> None:
    """Each patch has the sum of its `w (x - b)`."""
    model, w = linear(*shape)
    x, b = batch(*shape), batch(*shape, seed=1)[0]
    window = 3 if len(shape) < 4 else (3, 3, 2)
    found = model.attribute(x, "kernelshap", [0, 1], baseline=b, window=window)
    assert (found.shape, found.dtype) == ((3, 2, *shape), np.float32)
    for k in range(CLASSES):
        gains = (x - b) * w[..., k]
        np.testing.assert_allclose(
            found[:, k].reshape(3, -1).sum(axis=1), gains.reshape(3, -1).sum(axis=1), atol=1e-4
        )
        first = tuple(slice(0, 3) for _ in shape[: max(1, len(shape) - 1)])
        first = (*first[:2], slice(0, 2)) if len(shape) == 4 else first
        inside = (slice(None), *first)
        mean = gains[inside].reshape(3, -1).mean(axis=1)
        patch = found[:, k][inside].reshape(3, -1)
        np.testing.assert_allclose(patch, np.tile(mean[:, None], patch.shape[1]), atol=1e-4)


def test_shapley_values_of_columns_and_a_background() -> None:
    """`w (x - mean)`, as Lundberg and Lee derive for linear models."""
    model, w = linear(5)
    x, others = batch(5), batch(5, seed=4)
    found = model.attribute(x, "kernelshap", 1, background=others)
    np.testing.assert_allclose(found, (x - others.mean(axis=0)) * w[:, 1], atol=1e-5)
    by_name = model.attribute(x, "kernelshap", 1, background={"x": others}, batch_size=3)
    np.testing.assert_allclose(by_name, found, atol=1e-6)


def test_the_mean_and_the_blurred_image_as_baselines() -> None:
    model, w = linear(6, 5, 3)
    x = np.tile(np.linspace(0, 1, 6)[None, :, None, None], (3, 1, 5, 3)).astype(np.float32)
    x[..., 1] *= 2
    mean = x.mean(axis=(1, 2), keepdims=True)
    found = model.attribute(x, "occlusion", 0, baseline="mean", window=1)
    wanted = ((x - mean) * w[..., 0]).sum(axis=-1)
    np.testing.assert_allclose(found[..., 0], wanted, atol=1e-5)
    flat = np.full_like(x, 0.25)
    still = model.attribute(flat, "kernelshap", 0, baseline="blur", window=3)
    np.testing.assert_allclose(still, 0, atol=1e-5)
    moved = model.attribute(x, "kernelshap", 0, baseline="blur", window=3)
    assert np.abs(moved).max() > 1e-3
    np.testing.assert_array_equal(
        model.attribute(x, "occlusion", 0, baseline="zero"), model.attribute(x, "occlusion", 0)
    )


def test_rise_of_a_linear_model() -> None:
    """`f(x M) = sum(x M w)`: with as many masks as it takes, `sum_q x_q w_q E[M_q M_p] / p`."""
    model, w = linear(4)
    x = batch(4)[:1]
    found = model.attribute(x, "rise", 0, samples=4000, keep=0.25, seed=3, batch_size=500)
    gains = x * w[:, 0]
    wanted = gains * 0.75 + 0.25 * gains.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=0.2)
    assert np.abs(found - wanted).mean() < 0.05


# --- Definitions on a small network --------------------------------------------------------------


def logits(images: np.ndarray) -> np.ndarray:
    return float64_network.forward(images)["logits"]


def test_windows_of_an_image(differentiable: Any, images: np.ndarray) -> None:
    """The mean drop over the windows that a pixel is in; the last one ends at the edge."""
    found = differentiable().attribute(images, "occlusion", ["dog", "top"], window=(3, 4), stride=2)
    best = logits(images).argmax(axis=-1)
    for i, image in enumerate(images):
        drops, counts = np.zeros((8, 6, 3)), np.zeros((8, 6))
        for top, left in itertools.product((0, 2, 4, 5), (0, 2)):
            box = slice(top, top + 3), slice(left, left + 4)
            changed = image.copy()
            changed[box] = 0
            drops[box] += (logits(image[None]) - logits(changed[None]))[0]
            counts[box] += 1
        for t, k in enumerate((1, best[i])):
            wanted = (drops[..., k] / counts)[..., None]
            np.testing.assert_allclose(found[i, t], np.broadcast_to(wanted, (8, 6, 3)), atol=1e-5)


@pytest.mark.parametrize("method", ["occlusion", "rise", "kernelshap"])
def test_channels_first(differentiable: Any, images: np.ndarray, method: str) -> None:
    options = {"samples": 40} if method == "rise" else {"window": 4}
    wanted = differentiable().attribute(images, method, ["dog", "top"], **options)
    other = differentiable(channels_first=True)
    found = other.attribute(np.moveaxis(images, -1, 1), method, ["dog", "top"], **options)
    np.testing.assert_allclose(np.moveaxis(found, 2, -1), wanted, atol=1e-5)


@pytest.mark.parametrize("method", ["occlusion", "rise", "kernelshap"])
def test_batches_change_nothing(differentiable: Any, images: np.ndarray, method: str) -> None:
    """Neither how many masks are run together, nor which images."""
    model = differentiable()
    options: dict[str, Any] = {"occlusion": {"window": 2}, "rise": {"samples": 30}}.get(
        method, {"window": 2, "samples": 60}
    )
    whole = model.attribute(images, method, [0, 1], seed=5, **options)
    for size in (1, 4, 100):
        found = model.attribute(images, method, [0, 1], seed=5, batch_size=size, **options)
        np.testing.assert_allclose(found, whole, atol=1e-5)
    alone = model.attribute(images[1:2], method, [0, 1], seed=5, **options)
    np.testing.assert_allclose(alone[0], whole[1], atol=1e-5)
    if method != "occlusion":
        other = model.attribute(images, method, [0, 1], seed=6, **options)
        assert np.abs(other - whole).max() > 1e-4


def test_memory_is_bounded_by_the_batch(differentiable: Any, images: np.ndarray, runs: Any) -> None:
    differentiable().attribute(images, "rise", 0, samples=30, batch_size=8)
    assert max(rows for run in runs for rows in run.rows.values()) == 8


def test_a_file_with_a_fixed_batch(differentiable: Any, images: np.ndarray) -> None:
    made = tiny.differentiable()
    for value in made.graph.input[:1]:
        value.type.tensor_type.shape.dim[0].dim_value = 2
    model = layertap.open(made.SerializeToString())
    found = model.attribute(images[:2], "kernelshap", 1, window=4)
    wanted = differentiable().attribute(images[:2], "kernelshap", 1, window=4)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    one = model.attribute(images[:2], "kernelshap", 1, window=8 - 2)
    assert one.shape == (2, 8, 6, 3)


def test_the_scores_of_the_map_and_of_the_image(differentiable: Any, images: np.ndarray) -> None:
    """cam without a layer masks the image: the same numbers, before they are divided."""
    model = differentiable()
    for method in ("occlusion", "rise", "kernelshap"):
        options: dict[str, Any] = {"samples": 30} if method == "rise" else {"window": 3}
        heat = model.cam(images, target=["dog"], method=method, normalize=False, **options)
        found = model.attribute(images, method, ["dog"], **options)
        each = found.sum(axis=-1) if method == "kernelshap" else found[..., 0]
        np.testing.assert_allclose(heat, each, atol=1e-5)
    total = model.cam(images, target=1, method="kernelshap", window=4, normalize=False)
    drop = logits(images)[:, 1] - logits(np.zeros_like(images))[:, 1]
    np.testing.assert_allclose(total[:, 0].sum(axis=(1, 2)), drop, atol=1e-4)


def test_no_images(differentiable: Any, images: np.ndarray) -> None:
    for method in ("occlusion", "rise", "kernelshap"):
        found = differentiable().attribute(images[:0], method, ["dog"], samples=100)
        assert found.shape == (0, 1, 8, 6, 3)


# --- Tokens --------------------------------------------------------------------------------------


def of_tokens() -> tuple[layertap.Model, np.ndarray]:
    """Tokens (n, 5) of 10 words -> the sum of their scores (n, 2)."""
    table = np.random.default_rng(2).normal(size=(10, CLASSES)).astype(np.float32)
    made = tiny.model(
        [
            tiny.node("Gather", "table tokens", "words", axis=0),
            tiny.node("ReduceSum", "words axis", "scores", keepdims=0),
        ],
        [tiny.value("tokens", ["batch", 5], onnx.TensorProto.INT64)],
        [tiny.value("scores", ["batch", CLASSES])],
        [tiny.constant("table", table, np.float32), tiny.constant("axis", [1])],
    )
    return layertap.open(made.SerializeToString()), table.astype(np.float64)


def test_tokens_against_another_token() -> None:
    model, table = of_tokens()
    tokens = np.array([[1, 4, 9, 9, 0], [3, 2, 1, 0, 7]])
    wanted = np.moveaxis(table[tokens] - table[7], -1, 1)
    for method in ("occlusion", "kernelshap"):
        found = model.attribute(tokens, method, [0, 1], baseline=7)
        assert found.shape == (2, 2, 5)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(
        model.attribute(tokens, "kernelshap", 1), table[tokens][..., 1] - table[0, 1], atol=1e-5
    )
    rise = model.attribute(tokens, "rise", 0, samples=1000, baseline=7, batch_size=1000)
    gains, base = wanted[:, 0], 5 * table[7, 0]
    close = gains * 0.5 + 0.5 * gains.sum(axis=1, keepdims=True) + base
    assert np.abs(rise - close).mean() < 0.2
    with pytest.raises(layertap.InputError) as caught:
        model.attribute(tokens, "occlusion", baseline=0.5)
    assert str(caught.value) == (
        "the baseline of 'tokens' must be of whole numbers that fit int64, which the values are, "
        "got a float."
    )
    with pytest.raises(layertap.UsageError, match="the baseline 'mean' needs an image"):
        model.attribute(tokens, "occlusion", baseline="mean")


# --- Several inputs ------------------------------------------------------------------------------


@pytest.fixture
def two() -> layertap.Model:
    """x (n, 4) and z (n, 3): scores = (x a) (z c), (n, 2)."""
    return layertap.open(product().SerializeToString())


def product() -> onnx.ModelProto:
    return tiny.model(
        [
            tiny.node("MatMul", "x a", "xa"),
            tiny.node("MatMul", "z c", "zc"),
            tiny.node("Mul", "xa zc", "scores"),
        ],
        [tiny.value("x", ["batch", 4]), tiny.value("z", ["batch", 3])],
        [tiny.value("scores", ["batch", 2])],
        [tiny.weights("a", 4, 2), tiny.weights("c", 3, 2)],
    )


def test_the_players_of_both_inputs_and_of_one(two: layertap.Model, runs: Any) -> None:
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in product().graph.initializer}
    a, c = (weights[name][:, 1].astype(np.float64) for name in "ac")
    feeds = {"x": batch(4), "z": batch(3, seed=1)}
    xs, zs = feeds["x"] * a, feeds["z"] * c
    both = two.attribute(feeds, "kernelshap", 1)
    assert set(both) == {"x", "z"}
    # A product of two sums is made of pairs, each of which is divided between its two.
    np.testing.assert_allclose(both["x"], xs * zs.sum(axis=1, keepdims=True) / 2, atol=1e-5)
    np.testing.assert_allclose(both["z"], zs * xs.sum(axis=1, keepdims=True) / 2, atol=1e-5)
    runs.clear()
    one = two.attribute(feeds, "kernelshap", 1, input_name="z")
    np.testing.assert_allclose(one, zs * xs.sum(axis=1, keepdims=True), atol=1e-5)
    # What only reads x runs once, for the whole batch.
    assert [set(run.rows) for run in runs[1:]] == [{"z", "xa"}] * (len(runs) - 1)
    each = two.attribute(feeds, "occlusion", 1, batch_size=2)
    np.testing.assert_allclose(each["x"], xs * zs.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(each["z"], one, atol=1e-5)


def test_baselines_of_both_inputs(two: layertap.Model) -> None:
    feeds = {"x": batch(4), "z": batch(3, seed=1)}
    start = {"x": 1.0, "z": np.arange(3)}
    found = two.attribute(feeds, "kernelshap", 0, baseline=start)
    other = {"x": np.ones((3, 4), np.float32), "z": np.tile(np.arange(3, dtype=np.float32), (3, 1))}
    wanted = (two.predict(feeds) - two.predict(other))[:, 0]
    total = found["x"].sum(axis=1) + found["z"].sum(axis=1)
    np.testing.assert_allclose(total, wanted, atol=1e-4)


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"method": "occlusion", "window": 9},
            "window must be at most 8 x 6 for 'image', which has 8 x 6 positions, got 9 x 9.",
        ),
        ({"method": "occlusion", "window": 0}, "window must be at least 1, got 0."),
        ({"method": "occlusion", "stride": 0}, "stride must be at least 1, got 0."),
        (
            {"method": "occlusion", "window": 2, "stride": 3},
            "stride must be at most 2 x 2 for 'image', which has 8 x 6 positions, got 3 x 3.",
        ),
        ({"method": "rise", "samples": 0}, "samples must be at least 1, got 0."),
        ({"method": "rise", "keep": 1.0}, "keep must be a probability between 0 and 1, got 1."),
        (
            {"method": "rise", "cells": 7},
            "cells must be at most 8 x 6 for 'image', which has 8 x 6 positions, got 7 x 7.",
        ),
        (
            {"method": "kernelshap", "window": 1, "samples": 10},
            "kernelshap of 48 players needs at least 96 samples, got 10. Give more samples=, or a "
            "larger window=.",
        ),
        (
            {"method": "kernelshap", "background": np.zeros((2, 8, 6))},
            "the background has shape (2, 8, 6), but for input 'image' it must be (k, 8, 6, 3), "
            "with at least one sample.",
        ),
        (
            {"method": "kernelshap", "background": np.zeros((0, 8, 6, 3))},
            "the background has shape (0, 8, 6, 3), but for input 'image' it must be "
            "(k, 8, 6, 3), with at least one sample.",
        ),
        (
            {"method": "kernelshap", "background": np.zeros((1, 8, 6, 3)), "baseline": 0},
            "give a baseline= or a background=, not both.",
        ),
        (
            {"method": "occlusion", "background": np.zeros((1, 8, 6, 3))},
            "background is for the methods expected_gradients, kernelshap, got occlusion.",
        ),
        (
            {"method": "saliency", "window": 2},
            "window is for the methods occlusion, kernelshap, got saliency.",
        ),
        (
            {"method": "expected_gradients"},
            "expected_gradients needs background=: samples to compare the input with, (k, ...) in "
            "the units of the model's input.",
        ),
        (
            {"method": "occlusion", "input_name": "picture"},
            "the model has no input 'picture'; it has 'image'.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_invalid_arguments_are_refused(
    differentiable: Any, images: np.ndarray, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(layertap.LayertapError) as caught:
        differentiable().attribute(images, **arguments)
    assert str(caught.value) == message


# --- The package shap ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(5,), (16,), (30,)], ids=str)
def test_the_values_of_shap(shape: tuple[int, ...]) -> None:
    """Its KernelExplainer, exactly where all coalitions fit, and within its noise elsewhere."""
    shap = pytest.importorskip("shap")
    size = shape[0]
    generator = np.random.default_rng(6)
    a, b = (generator.normal(size=(size, 2)).astype(np.float32) / size**0.5 for _ in "ab")
    made = tiny.model(
        [
            tiny.node("MatMul", "x a", "xa"),
            tiny.node("MatMul", "x b", "xb"),
            tiny.node("Tanh", "xa", "bent"),
            tiny.node("Mul", "bent xb", "scores"),
        ],
        [tiny.value("x", ["batch", size])],
        [tiny.value("scores", ["batch", 2])],
        [tiny.constant("a", a, np.float32), tiny.constant("b", b, np.float32)],
    )
    model = layertap.open(made.SerializeToString())
    x, others = batch(*shape)[:2], batch(*shape, seed=1)
    wanted = shap.KernelExplainer(lambda rows: model.predict(rows.astype(np.float32)), others)
    values = np.asarray(wanted.shap_values(x, nsamples=4000, l1_reg=0, silent=True))
    found = model.attribute(x, "kernelshap", [0, 1], background=others, samples=4000)
    np.testing.assert_allclose(found, np.moveaxis(values, -1, 1), atol=1e-5 if size < 12 else 0.02)
