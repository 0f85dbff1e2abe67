"""Metrics of heat maps, on a model whose answers are known: each class adds up the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import layertap
from generators import tiny
from layertap.cam import metrics

NOISE = "ignore:input .* the batch has values from"
"""These batches are noise, which the recipe in the file cannot have returned."""

pytestmark = pytest.mark.filterwarnings(NOISE)


HEIGHT, WIDTH = 4, 3


def linear(channels_first: bool = False) -> onnx.ModelProto:
    """x (n, 4, 3, 2) -> scores (n, 3) = x w; with a card unless the channels come first."""
    shape: list[int | str | None] = (
        ["n", 2, HEIGHT, WIDTH] if channels_first else ["n", HEIGHT, WIDTH, 2]
    )
    first = tiny.node("Transpose", "x", "turned", perm=[0, 2, 3, 1])
    rows = [
        tiny.layer(0, "x", "InputLayer", (None, HEIGHT, WIDTH, 2)),
        tiny.layer(1, "scores", "Dense", (None, 3), "x"),
    ]
    card = tiny.card(
        rows,
        {"x": (None, HEIGHT, WIDTH, 2)},
        {"scores": (None, 3)},
        labels=("a", "b", "c"),
        preprocessing={"size": [HEIGHT, WIDTH]},
    )
    return tiny.model(
        [
            *([first] if channels_first else []),
            tiny.node("Flatten", "turned" if channels_first else "x", "flat"),
            tiny.node("MatMul", "flat w", "scores"),
        ],
        [tiny.value("x", shape)],
        [tiny.value("scores", ["n", 3])],
        [tiny.weights("w", HEIGHT * WIDTH * 2, 3)],
        card=None if channels_first else card,
    )


@pytest.fixture(scope="module")
def model() -> layertap.Model:
    return layertap.open(linear().SerializeToString())


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).random((2, HEIGHT, WIDTH, 2)).astype(np.float32)


def gains(x: np.ndarray, blank: Any = 0.0) -> np.ndarray:
    """What each pixel adds to each class, more than a blank one, `(n, 12, 3)`, in float64."""
    w = onnx.numpy_helper.to_array(linear().graph.initializer[0]).astype(np.float64)
    pixels = (x.astype(np.float64) - blank).reshape(len(x), HEIGHT * WIDTH, 2)
    return np.einsum("npc,pck->npk", pixels, w.reshape(HEIGHT * WIDTH, 2, 3))


def best_first(x: np.ndarray, blank: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The best possible maps, `(n, 3, 4, 3)`, and the gains in their order, `(n, 3, 12)`."""
    found = gains(x, blank).transpose(0, 2, 1)
    return found.reshape(len(x), 3, HEIGHT, WIDTH), -np.sort(-found, axis=-1)


# --- Curves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 100])
@pytest.mark.parametrize("blank", [0.0, 1.5])
def test_pixel_by_pixel(
    model: layertap.Model, x: np.ndarray, batch_size: int, blank: float
) -> None:
    """Each step takes away, or brings in, the pixel that counts most for the class."""
    maps, order = best_first(x, blank)
    start = gains(x).sum(axis=1)[..., None]
    lost = np.concatenate([np.zeros((2, 3, 1)), np.cumsum(order, axis=-1)], axis=-1)
    options: dict[str, Any] = {"steps": 12, "batch_size": batch_size, "baseline": blank}

    found = metrics.deletion(model, x, maps, ["a", "b", "c"], **options)
    np.testing.assert_allclose(found.fractions, np.arange(13) / 12)
    assert (found.scores.shape, found.scores.dtype) == ((2, 3, 13), np.float32)
    np.testing.assert_allclose(found.scores, start - lost, atol=1e-4)
    trapezoid = (found.scores.sum(axis=-1) - found.scores[..., [0, -1]].sum(axis=-1) / 2) / 12
    np.testing.assert_allclose(found.auc, trapezoid, rtol=1e-5)

    found = metrics.insertion(model, x, maps, ["a", "b", "c"], **options)
    np.testing.assert_allclose(found.scores, start - lost[..., -1:] + lost, atol=1e-4)


def test_fewer_and_more_steps_than_pixels(model: layertap.Model, x: np.ndarray) -> None:
    maps, order = best_first(x)
    few = metrics.deletion(model, x, maps, ["a", "b", "c"], steps=5)
    counts = [0, 2, 5, 7, 10, 12]
    np.testing.assert_allclose(few.fractions, np.array(counts) / 12)
    lost = np.concatenate([np.zeros((2, 3, 1)), np.cumsum(order, axis=-1)], axis=-1)[..., counts]
    np.testing.assert_allclose(few.scores, gains(x).sum(axis=1)[..., None] - lost, atol=1e-4)
    assert metrics.deletion(model, x, maps, ["a", "b", "c"], steps=30).scores.shape == (2, 3, 31)


def test_the_top_class_and_mixes(model: layertap.Model, x: np.ndarray) -> None:
    maps, _ = best_first(x)
    best = gains(x).sum(axis=1).argmax(axis=-1)
    chosen = maps[np.arange(2), best][:, None]
    top = metrics.deletion(model, x, chosen, steps=3)
    named = metrics.deletion(model, x, chosen, [[int(k)] for k in best], steps=3)
    np.testing.assert_array_equal(top.scores, named.scores)
    mixed = metrics.deletion(model, x, chosen, np.array([1.0, 0, -1]), steps=3)
    start = gains(x).sum(axis=1)
    np.testing.assert_allclose(mixed.scores[:, 0, 0], start[:, 0] - start[:, 2], atol=1e-4)


def test_a_blurred_image(model: layertap.Model, x: np.ndarray) -> None:
    """An image of one colour has no details; of another they are averaged away."""
    maps, _ = best_first(x)
    flat = np.broadcast_to(np.array([2.0, -1.0], np.float32), x.shape)
    found = metrics.insertion(model, flat, maps, ["a", "b", "c"])
    np.testing.assert_allclose(found.scores, found.scores[..., :1] + np.zeros(51), atol=1e-4)

    share = np.exp(-(np.arange(-5, 6) ** 2) / 50)
    share /= share.sum()
    blurred = np.zeros(x.shape)
    for i in range(HEIGHT):
        for j in range(WIDTH):
            for di in range(-5, 6):
                for dj in range(-5, 6):
                    y, z = min(max(i + di, 0), HEIGHT - 1), min(max(j + dj, 0), WIDTH - 1)
                    blurred[:, i, j] += share[di + 5] * share[dj + 5] * x[:, y, z]
    found = metrics.insertion(model, x, maps, ["a", "b", "c"], steps=1)
    wanted = np.stack([gains(blurred).sum(axis=1), gains(x).sum(axis=1)], axis=-1)
    np.testing.assert_allclose(found.scores, wanted, atol=1e-4)


def test_channels_first(x: np.ndarray) -> None:
    model = layertap.open(linear(channels_first=True).SerializeToString())
    maps, order = best_first(x)
    batch = x.transpose(0, 3, 1, 2)
    found = metrics.deletion(model, batch, maps, [0, 1, 2], steps=12)
    start = gains(x).sum(axis=1)[..., None]
    np.testing.assert_allclose(found.scores[..., 1:], start - np.cumsum(order, -1), atol=1e-4)
    kept = metrics.confidence(model, batch, np.abs(maps), [0, 1, 2])
    again = metrics.confidence(
        layertap.open(linear().SerializeToString()), x, np.abs(maps), [0, 1, 2]
    )
    np.testing.assert_allclose(kept.after, again.after, atol=1e-5)


def test_one_image_and_one_map(differentiable: Any, tmp_path: Path) -> None:
    """As `Model.cam` takes and gives them."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    model = differentiable()
    heat = model.cam(tmp_path / "a.png", "relu", "dog")
    found = metrics.deletion(model, tmp_path / "a.png", heat, "dog", steps=4)
    assert found.scores.shape == (1, 1, 5)
    assert found.auc.shape == (1, 1)
    prob = model.predict(tmp_path / "a.png")[0, 1]
    assert found.scores[0, 0, 0] == pytest.approx(prob, rel=1e-6)
    black = model.predict(np.zeros((1, 8, 6, 3)))[0, 1]
    assert found.scores[0, 0, -1] == pytest.approx(black, rel=1e-6)


def test_other_inputs_stay_with_their_image() -> None:
    made = tiny.two_inputs()
    model = layertap.open(made.SerializeToString())
    feeds = tiny.feeds(made, n=3)
    maps = np.random.default_rng(0).random((3, 1, 4, 4)).astype(np.float32)
    found = metrics.deletion(model, feeds, maps, 2, output="product", steps=2, batch_size=2)
    whole = model.predict(feeds)["product"][:, 2]
    blank = model.predict({**feeds, "image": np.zeros((3, 4, 4, 3))})["product"][:, 2]
    np.testing.assert_allclose(found.scores[:, 0, 0], whole, rtol=1e-5)
    np.testing.assert_allclose(found.scores[:, 0, 2], blank, atol=1e-6)


def test_an_optional_input_holds_for_every_image() -> None:
    """It is no part of the batch, and must not be taken apart with it."""
    made = tiny.model(
        [
            tiny.node("Mul", "x gain", "scaled"),
            tiny.node("ReduceSum", "scaled axes", "scores", keepdims=0),
        ],
        [tiny.value("x", ["n", 2, 2, 3]), tiny.value("gain", [None, 1, 1, 1])],
        [tiny.value("scores", ["n", 2])],
        [tiny.constant("gain", [[[[1]]]], np.float32), tiny.constant("axes", [2, 3])],
    )
    model = layertap.open(made.SerializeToString())
    x = np.random.default_rng(0).random((3, 2, 2, 3)).astype(np.float32)
    maps = np.ones((3, 1, 2, 3), np.float32)
    feeds = {"x": x, "gain": np.full((1, 1, 1, 1), 3, np.float32)}
    found = metrics.deletion(model, feeds, maps, 1, steps=1)
    np.testing.assert_allclose(found.scores[:, 0, 0], 3 * x[:, 1].sum(axis=(1, 2)), rtol=1e-5)


# --- Confidence ---------------------------------------------------------------------------------


def test_confidence_is_what_the_model_says_of_each_image(
    model: layertap.Model, x: np.ndarray
) -> None:
    maps = np.random.default_rng(2).random((2, 3, HEIGHT, WIDTH)).astype(np.float32)
    found = metrics.confidence(model, x, maps, ["a", "b", "c"], baseline=0.25)
    before = gains(x).sum(axis=1)
    share = maps[..., None].astype(np.float64)
    after = np.stack(
        [gains(share[:, k] * x + (1 - share[:, k]) * 0.25).sum(axis=1)[:, k] for k in range(3)], 1
    )
    np.testing.assert_allclose(found.before, before, atol=1e-5)
    np.testing.assert_allclose(found.after, after, atol=1e-5)


def test_average_drop_and_increase() -> None:
    """Chattopadhay's formulas on numbers: falls by 50 %, rises, 0 to lose, stays."""
    found = metrics.Confidence(
        before=np.array([[0.8], [0.5], [0.0], [0.4]], np.float32),
        after=np.array([[0.4], [0.6], [0.0], [0.4]], np.float32),
    )
    assert found.average_drop == pytest.approx(100 * 0.5 / 4)
    assert found.increase == 25.0


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"maps": np.zeros((2, 3, 8, 6))},
            "the maps have shape (2, 3, 8, 6), expected (2, 3, 4, 3): one map of the image's "
            "size for each image and target, as returned by Model.cam.",
        ),
        (
            {"maps": np.zeros((HEIGHT, WIDTH))},
            "the maps have shape (4, 3), expected (2, 3, 4, 3): one map of the image's size for "
            "each image and target, as returned by Model.cam.",
        ),
        (
            {"maps": np.zeros(5)},
            "maps of shape (5,) do not fit any input: 'x' (2, 4, 3, 2)",
        ),
        (
            {"baseline": "blurred"},
            "baseline must be a number, an array that fits, or one of 'zero', 'mean', 'blur', got "
            "'blurred'. Did you mean 'blur'?",
        ),
        (
            {"baseline": np.zeros(7)},
            "the baseline has shape (7,), but 'x' has shape (2, 4, 3, 2). Give a number, one "
            "sample, or one sample for each.",
        ),
        ({"steps": 0}, "steps must be at least 1, got 0."),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0."),
        ({"target": ["d"]}, "no class is called 'd'; there are 'a', 'b', 'c'."),
    ],
)
def test_invalid_arguments_are_refused(
    model: layertap.Model, x: np.ndarray, arguments: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {
        "maps": np.zeros((2, 3, HEIGHT, WIDTH)), "target": ["a", "b", "c"], **arguments
    }  # fmt: skip
    with pytest.raises(layertap.LayertapError) as caught:
        metrics.deletion(model, x, **given)
    assert str(caught.value) == message
