"""Attributions to the input, beside central differences and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import layertap
from generators import float64_network, tiny
from layertap.format.card import Gradients

NOISE = "ignore:input .* the batch has values from"
"""These batches are noise, which the recipe in the file cannot have returned."""

pytestmark = pytest.mark.filterwarnings(NOISE)


TinyFile = Callable[[str], Path]
CLASSES = np.eye(3)


def gradient(images: np.ndarray, k: int) -> np.ndarray:
    return np.stack([float64_network.gradient(image, "image", CLASSES[k]) for image in images])


def polynomial() -> onnx.ModelProto:
    """Two inputs, x (n, 4) and z (n, 3): scores = x^2 a + (x b)(z c), (n, 2); its gradients.

    Of what is computed one sample goes with one row of weights.
    """
    rows = [
        tiny.layer(0, "x", "InputLayer", (None, 4)),
        tiny.layer(1, "side", "InputLayer", (None, 3)),
        tiny.layer(2, "scores", "Dense", (None, 2), "x side"),
    ]
    nodes = [
        tiny.node("Mul", "x x", "squares"),
        tiny.node("MatMul", "squares a", "first"),
        tiny.node("MatMul", "x b", "xb"),
        tiny.node("MatMul", "z c", "zc"),
        tiny.node("Mul", "xb zc", "second"),
        tiny.node("Add", "first second", "scores"),
        tiny.node("Transpose", "a", "a_t", perm=[1, 0]),
        tiny.node("Transpose", "b", "b_t", perm=[1, 0]),
        tiny.node("Transpose", "c", "c_t", perm=[1, 0]),
        tiny.node("MatMul", "score_weights a_t", "seed_a"),
        tiny.node("Mul", "seed_a x", "half"),
        tiny.node("Add", "half half", "gx_first"),
        tiny.node("Mul", "score_weights zc", "seed_b"),
        tiny.node("MatMul", "seed_b b_t", "gx_second"),
        tiny.node("Add", "gx_first gx_second", "grad/x"),
        tiny.node("Mul", "score_weights xb", "seed_c"),
        tiny.node("MatMul", "seed_c c_t", "grad/z"),
    ]
    return tiny.model(
        nodes,
        [
            tiny.value("x", ["batch", 4]),
            tiny.value("z", ["batch", 3]),
            tiny.value("score_weights", ["rows", 2]),
        ],
        [tiny.value("scores", ["batch", 2]), *(tiny.value(f"grad/{n}", None) for n in "xz")],
        [
            tiny.weights("a", 4, 2),
            tiny.weights("b", 4, 2),
            tiny.weights("c", 3, 2),
            tiny.constant("score_weights", np.ones((1, 2)), np.float32),
        ],
        card=tiny.card(
            [rows[0], replace(rows[1], tensor="z"), rows[2]],
            {"x": (None, 4), "z": (None, 3)},
            {"scores": (None, 2)},
            gradients=Gradients(
                output="scores",
                score="output",
                weights="score_weights",
                tensors={"x": "grad/x", "side": "grad/z"},  # by the input's name, and the layer's
                broadcasts=False,
            ),
        ),
    )


@pytest.fixture
def model() -> layertap.Model:
    return layertap.open(polynomial().SerializeToString())


@pytest.fixture
def feeds() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {
        "x": generator.normal(size=(5, 4)).astype(np.float32),
        "z": generator.normal(size=(5, 3)).astype(np.float32),
    }


def parts(feeds: dict[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    """In float64: the score, its gradients, and what its two terms are."""
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in polynomial().graph.initializer}
    a, b, c = (weights[name][:, k].astype(np.float64) for name in "abc")
    x, z = feeds["x"].astype(np.float64), feeds["z"].astype(np.float64)
    xb, zc = x @ b, z @ c
    return {
        "score": x**2 @ a + xb * zc,
        "x": 2 * x * a + zc[:, None] * b,
        "z": xb[:, None] * c,
        "x path": x**2 * a + x * b * zc[:, None] / 2,
        "z path": z * c * xb[:, None] / 2,
    }


# --- Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("broadcasts", [True, False])
def test_of_an_image(differentiable: Any, images: np.ndarray, broadcasts: bool) -> None:
    model = differentiable(broadcasts=broadcasts)
    best = float64_network.forward(images)["logits"].argmax(axis=-1)
    wanted = np.stack(
        [gradient(images, 1), np.stack([gradient(images[[i]], k)[0] for i, k in enumerate(best)])],
        axis=1,
    )
    targets = ["dog", "top"]
    saliency = model.attribute(images, target=targets)
    assert (saliency.shape, saliency.dtype) == ((3, 2, 8, 6, 3), np.float32)
    np.testing.assert_allclose(saliency, np.abs(wanted), atol=1e-6)
    np.testing.assert_allclose(model.attribute(images), np.abs(wanted[:, 1]), atol=1e-6)
    np.testing.assert_allclose(
        model.attribute(images, "input_x_gradient", "dog"), wanted[:, 0] * images, atol=1e-5
    )
    for size in (1, 4, 100):
        found = model.attribute(images, "saliency", targets, batch_size=size)
        np.testing.assert_allclose(found, saliency, rtol=1e-4, atol=1e-6)


def test_integrated_gradients_of_a_polynomial(
    model: layertap.Model, feeds: dict[str, np.ndarray]
) -> None:
    """Along both inputs; two places of Gauss and Legendre suffice for a square."""
    for k in (0, 1):
        wanted = parts(feeds, k)
        found = model.attribute(feeds, "integrated_gradients", k, steps=2)
        assert list(found) == ["x", "z"]
        np.testing.assert_allclose(found["x"], wanted["x path"], atol=1e-5)
        np.testing.assert_allclose(found["z"], wanted["z path"], atol=1e-5)
        total = found["x"].sum(axis=-1) + found["z"].sum(axis=-1)
        np.testing.assert_allclose(total, wanted["score"], atol=1e-5)


@pytest.mark.parametrize("kind", ["number", "sample", "batch", "by name"])
def test_integrated_gradients_are_complete(
    model: layertap.Model, feeds: dict[str, np.ndarray], kind: str
) -> None:
    """They add up to the difference that the score has to the baseline's, whatever it is."""
    generator = np.random.default_rng(4)
    one = {name: generator.normal(size=value.shape[1:]) for name, value in feeds.items()}
    given: Any = {
        "number": 0.5,
        "sample": one,
        "batch": {name: np.stack([value] * 5) for name, value in one.items()},
        "by name": {"z": -1.0},
    }[kind]
    named = given if isinstance(given, dict) else dict.fromkeys(feeds, given)
    start = {
        name: np.broadcast_to(named.get(name, 0.0), value.shape).astype(np.float32)
        for name, value in feeds.items()
    }
    found = model.attribute(feeds, "integrated_gradients", [0, 1], baseline=given, steps=3)
    total = sum(value.sum(axis=-1) for value in found.values())
    wanted = model.predict(feeds) - model.predict(start)
    np.testing.assert_allclose(total, wanted, atol=1e-5)


def test_integrated_gradients_of_a_network_with_kinks(
    differentiable: Any, images: np.ndarray
) -> None:
    found = differentiable().attribute(images, "integrated_gradients", [0, 1, 2], steps=300)
    blank = float64_network.forward(np.zeros((1, 8, 6, 3)))["logits"]
    wanted = float64_network.forward(images)["logits"] - blank
    np.testing.assert_allclose(found.sum(axis=(2, 3, 4)), wanted, atol=5e-3)


def test_smoothgrad_is_a_mean_over_noise(
    model: layertap.Model, feeds: dict[str, np.ndarray]
) -> None:
    found = model.attribute(feeds, "smoothgrad", 0, samples=4, noise=0.3, seed=7)
    again = model.attribute(feeds, "smoothgrad", 0, samples=4, noise=0.3, seed=7, batch_size=3)
    other = model.attribute(feeds, "smoothgrad", 0, samples=4, noise=0.3, seed=8)
    plain = parts(feeds, 0)
    for name in "xz":
        np.testing.assert_allclose(again[name], found[name], atol=1e-6)
        assert np.abs(other[name] - found[name]).max() > 1e-3
        assert np.abs(found[name] - plain[name]).max() > 1e-3
    none = model.attribute(feeds, "smoothgrad", 0, samples=2, noise=0)
    for name in "xz":
        np.testing.assert_allclose(none[name], plain[name], atol=1e-5)


def test_the_noise_of_smoothgrad(model: layertap.Model, feeds: dict[str, np.ndarray]) -> None:
    """The gradient with respect to z is (x b) c: it tells how much x was shaken."""
    plain, c = parts(feeds, 0)["z"], onnx.numpy_helper.to_array(tiny.weights("c", 3, 2))[:, 0]
    b = onnx.numpy_helper.to_array(tiny.weights("b", 4, 2))[:, 0]
    shaken = [
        (model.attribute(feeds, "smoothgrad", 0, samples=1, noise=0.3, seed=seed)["z"] - plain) / c
        for seed in range(600)
    ]
    wide = 0.3 * (feeds["x"].max(axis=1) - feeds["x"].min(axis=1)) * np.linalg.norm(b)
    found = np.array(shaken)[..., 0]
    np.testing.assert_allclose(found.std(axis=0) / wide, 1, atol=0.12)  # four deviations
    np.testing.assert_allclose(found.mean(axis=0) / wide, 0, atol=0.17)


def test_noise_follows_the_range_of_each_sample(differentiable: Any, images: np.ndarray) -> None:
    """An image of one grey value is not shaken."""
    images[1] = 0.5
    plain = differentiable().gradients(images, "image", 0)
    found = differentiable().attribute(images, "smoothgrad", 0, samples=3)
    np.testing.assert_allclose(found[1], plain[1], atol=1e-6)
    assert np.abs(found[0] - plain[0]).max() > 1e-3


def test_images_are_prepared(differentiable: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    found = differentiable().attribute(Image.fromarray(pixels), "input_x_gradient", 2)
    wanted = gradient(pixels[None] / 255, 2) * (pixels / 255)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


# --- Expected gradients -------------------------------------------------------------------------


def test_expected_gradients_of_a_polynomial(
    model: layertap.Model, feeds: dict[str, np.ndarray]
) -> None:
    """The mean over the background of integrated gradients; their sum is the difference of the
    score to its mean over the background."""
    generator = np.random.default_rng(8)
    background = {
        "x": generator.normal(size=(4, 4)).astype(np.float32),
        "z": generator.normal(size=(4, 3)).astype(np.float32),
    }
    wanted = {name: np.zeros((5, 2, feeds[name].shape[1])) for name in "xz"}
    for row in range(4):
        start = {name: background[name][row] for name in "xz"}
        exact = model.attribute(feeds, "integrated_gradients", [0, 1], baseline=start, steps=2)
        for name in "xz":
            wanted[name] += exact[name] / 4
    options: dict[str, Any] = {"background": background, "samples": 400, "batch_size": 400}
    found = model.attribute(feeds, "expected_gradients", [0, 1], **options)
    for name in "xz":
        np.testing.assert_allclose(found[name], wanted[name], atol=0.02)
    same = model.attribute(feeds, "expected_gradients", [0, 1], **options)
    np.testing.assert_array_equal(found["x"], same["x"])
    options["seed"] = 1
    other = model.attribute(feeds, "expected_gradients", [0, 1], **options)
    assert np.abs(found["x"] - other["x"]).max() > 1e-5


def test_expected_gradients_of_one_input(
    model: layertap.Model, feeds: dict[str, np.ndarray]
) -> None:
    """In `z` the score is linear: `G (z - mean)`, whatever is drawn, if each row has its turn."""
    rows = np.random.default_rng(9).normal(size=(4, 3)).astype(np.float32)
    found = model.attribute(
        feeds, "expected_gradients", 1, background=rows, samples=8, input_name="z"
    )
    wanted = parts(feeds, 1)["z"] * (feeds["z"] - rows.mean(axis=0))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"method": "smothgrad"},
            "unknown method 'smothgrad'; the methods are saliency, input_x_gradient, smoothgrad, "
            "integrated_gradients, expected_gradients, occlusion, rise, kernelshap. Did you mean "
            "'smoothgrad'?",
        ),
        ({"steps": 0}, "steps must be at least 1, got 0."),
        ({"samples": -1}, "samples must be at least 1, got -1."),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0."),
        ({"noise": -0.1}, "noise must be a finite number of at least 0, got -0.1."),
        (
            {"baseline": [1.0, 2.0]},
            "the baseline has shape (2,), but 'image' has shape (3, 8, 6, 3). Give a "
            "number, one sample, or one sample for each.",
        ),
    ],
)
def test_invalid_arguments_are_refused(
    differentiable: Any, images: np.ndarray, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(layertap.LayertapError) as caught:
        differentiable().attribute(images, **arguments)
    assert str(caught.value) == message


def test_a_file_that_gives_no_gradient_of_its_input(
    tiny_file: TinyFile, images: np.ndarray
) -> None:
    with pytest.raises(layertap.ModelFileError, match="has no gradients"):
        layertap.open(tiny_file("image_classifier")).attribute(images)
    made = tiny.differentiable()
    for prop in made.metadata_props:
        prop.value = prop.value.replace('"image":"grad/image",', "")
    with pytest.raises(layertap.LayerNotFoundError) as caught:
        layertap.open(made.SerializeToString()).attribute(images)
    assert str(caught.value) == (
        "the model has no gradient for 'image', only for 'conv', 'last', 'mixed', 'relu'. "
        "`layertap gradients FILE.onnx --layers image -o NEW.onnx` writes a file with it."
    )
