"""What is differentiated: places, weights, heads, layers and channels, against `tf.GradientTape`.

The references are the models in float64.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap
import layertap_export
from layertap.cam import heat_maps, metrics
from layertap.cli import main

pytestmark = pytest.mark.tensorflow

BOUND = 1e-5
"""The largest difference from float64, as a share of the largest value."""


def widened(model: Any) -> Any:
    """The same model in float64."""
    import keras

    def wide(layer: Any) -> Any:
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    copy = keras.models.clone_model(model, clone_function=wide)
    copy.set_weights(model.get_weights())
    return copy


def slope(model: Any, layer: str, score: str, x: np.ndarray, of: Callable[[Any], Any]) -> Any:
    """The gradient of a function of one layer with respect to another, in float64."""
    import keras
    import tensorflow as tf

    wide = widened(model)
    both = keras.Model(wide.input, [wide.get_layer(name).output for name in (layer, score)])
    given = tf.constant(x.astype(np.float64))
    with tf.GradientTape() as tape:
        tape.watch(given)
        values, scores = both(given, training=False)
        total = tf.reduce_sum(of(scores))
    return np.asarray(tape.gradient(total, values if layer != model.layers[0].name else given))


def near(found: Any, expected: Any) -> None:
    assert np.any(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND * np.abs(expected).max())


# --- A segmentation -------------------------------------------------------------------------------

SIZE = 16
BOX = (2, 3, 9, 12)
MASK = np.zeros((SIZE, SIZE), np.float32)
MASK[2:9, 3:12] = 1


@pytest.fixture(scope="module")
def unet() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((SIZE, SIZE, 2), name="x")
    skip = keras.layers.Conv2D(3, 3, padding="same", activation="tanh", name="skip")(x)
    deep = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="deep")(
        skip
    )
    joined = keras.layers.Concatenate()([skip, keras.layers.UpSampling2D(2)(deep)])
    scores = keras.layers.Conv2D(3, 1, name="scores")(joined)
    return keras.Model(x, keras.layers.Softmax(name="probabilities")(scores))


@pytest.fixture(scope="module")
def segmentation(unet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scores") / "unet.onnx"
    layertap_export.export(unet, path, gradients=["deep", "input"])
    return path


X = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 2)).astype(np.float32)
MIX = np.random.default_rng(1).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("target", "weights"),
    [
        (MIX, MIX),
        (MIX[0], MIX[:1]),
        (MIX[:, :, :1], MIX[:, :, :1]),
        (MASK[..., None] * np.eye(3, dtype=np.float32)[2], MASK[..., None] * np.eye(3)[2]),
        (MIX > 0, MIX > 0),
        (np.array([1, -2, 0.5], np.float32), np.array([1, -2, 0.5])),
    ],
    ids=["each sample", "all samples", "broadcast", "a class in a mask", "truth values", "classes"],
)
def test_weights_of_the_scores_are_a_target(
    unet: Any, segmentation: Path, target: np.ndarray, weights: np.ndarray
) -> None:
    model = layertap.open(segmentation)
    expected = slope(unet, "deep", "scores", X, lambda scores: scores * weights)
    near(model.gradients(X, "deep", target), expected)


def test_several_targets_have_weights_of_their_own(unet: Any, segmentation: Path) -> None:
    model = layertap.open(segmentation)
    both = np.stack([MIX, MIX[::-1] ** 2], axis=1)
    found = model.gradients(X, "deep", both)
    assert found.shape == (2, 2, 8, 8, 4)
    for at in range(2):
        expected = slope(unet, "deep", "scores", X, partial(operator.mul, both[:, at]))
        near(found[:, at], expected)


@pytest.mark.parametrize("at", [BOX, MASK, (5, 7)], ids=["box", "mask", "point"])
def test_attributions_and_maps_explain_a_region(unet: Any, segmentation: Path, at: Any) -> None:
    """Per class and region: the gradient, saliency, and Grad-CAM."""
    model = layertap.open(segmentation)
    region = MASK
    if np.shape(at) == (2,):
        region = np.zeros_like(MASK)
        region[at] = 1
    for label in (0, 2):

        def of(scores: Any, label: int = label) -> Any:
            return scores[..., label] * region

        expected = slope(unet, "x", "scores", X, of)
        near(model.attribute(X, "saliency", label, at=at), np.abs(expected))
        summed = model.attribute(X, "integrated_gradients", label, at=at).sum(axis=(1, 2, 3))
        rise = _rise(unet, of)  # up to the error of the quadrature
        np.testing.assert_allclose(summed, rise, atol=5e-3 * np.abs(rise).max())
        slopes = slope(unet, "deep", "scores", X, of)
        values = np.asarray(_part(unet, "deep")(X.astype(np.float64)))
        heat = np.maximum((slopes.mean((1, 2))[:, None, None] * values).sum(-1), 0)
        heat /= heat.max((1, 2), keepdims=True)
        found = heat_maps(model, X, "deep", [label], at=at, resize=False)
        near(found.maps[:, 0], heat)
        probabilities = np.asarray(_part(unet, "probabilities")(X.astype(np.float64)))[..., label]
        near(found.scores[:, 0], (probabilities * region).sum((1, 2)) / region.sum())


def _part(model: Any, layer: str) -> Any:
    import keras

    wide = widened(model)
    return keras.Model(wide.input, wide.get_layer(layer).output)


def _rise(model: Any, of: Callable[[Any], Any]) -> Any:
    """By how much a function of the scores is larger than for zeros."""
    part = _part(model, "scores")
    before, after = (np.asarray(of(part(x.astype(np.float64)))) for x in (0 * X, X))
    return (after - before).sum((1, 2))


def test_methods_without_gradients_explain_a_region(unet: Any, segmentation: Path) -> None:
    """Occlusion of the image and of a layer, RISE, Shapley values and Score-CAM."""
    model = layertap.open(segmentation)
    part = _part(unet, "scores")

    def score(x: np.ndarray) -> np.ndarray:
        scores = np.asarray(part(x.astype(np.float64)))
        return (scores[..., 1] * MASK).sum((1, 2)) / MASK.sum()

    found = model.attribute(X, "occlusion", 1, at=MASK, window=8, stride=8)
    changed = X.copy()
    changed[:, 8:, :8] = 0
    near(found[:, 8, 0, 0], score(X) - score(changed))
    shapley = model.attribute(X, "kernelshap", 1, at=BOX, window=8)
    near(shapley.sum(axis=(1, 2, 3)), score(X) - score(0 * X))
    weights = MASK[..., None] * np.eye(3)[1] / MASK.sum()
    near(model.attribute(X, "kernelshap", weights, window=8), shapley)
    for method in ("scorecam", "ablationcam", "rise", "reciprocam"):
        options: dict[str, Any] = {"samples": 20} if method == "rise" else {}
        maps = model.cam(X, "deep", [1], method=method, at=MASK, normalize=False, **options)
        same = model.cam(X, "deep", weights, method=method, normalize=False, **options)
        whole = model.cam(X, "deep", [1], method=method, normalize=False, **options)
        near(maps, same)
        assert np.abs(maps - whole).max() > 0.01 * np.abs(whole).max()


def test_metrics_measure_a_region(unet: Any, segmentation: Path) -> None:
    model = layertap.open(segmentation)
    maps = model.cam(X, "deep", [1], at=BOX)
    part = _part(unet, "probabilities")
    expected = (np.asarray(part(X.astype(np.float64)))[..., 1] * MASK).sum((1, 2)) / MASK.sum()
    weights = MASK[..., None] * np.eye(3)[1] / MASK.sum()
    for target, at in ((1, BOX), (1, MASK), (weights, None)):
        curve = metrics.deletion(model, X, maps, target, steps=4, at=at)
        near(curve.scores[:, 0, 0], expected)
        assert metrics.insertion(model, X, maps, target, steps=4, at=at).scores.shape == (2, 1, 5)
        near(metrics.confidence(model, X, maps, target, at=at).before[:, 0], expected)


def test_places_and_weights_in_the_shell(
    segmentation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = layertap.open(segmentation)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "mask.npy", MASK)
    weights = MASK[..., None] * np.eye(3, dtype=np.float32)[1]
    np.save(tmp_path / "weights.npy", weights)
    np.save(tmp_path / "names.npy", np.array(["a"]))
    attribute = ["attribute", str(segmentation), str(tmp_path / "x.npy"), "--method", "saliency"]
    cam = ["cam", str(segmentation), str(tmp_path / "x.npy"), "--layer", "deep"]
    options = (
        ["--target", "1", "--at", "2,3,9,12"],
        ["--target", "1", "--mask", str(tmp_path / "mask.npy")],
        ["--target", str(tmp_path / "weights.npy")],
    )
    expected = (model.attribute(X, "saliency", [1], at=BOX), model.cam(X, "deep", [1], at=BOX))
    for at, option in enumerate(options):
        for command, one in zip((attribute, cam), expected, strict=True):
            folder = tmp_path / f"{command[0]}{at}"
            assert main([*command, *option, "-o", str(folder)]) == 0
            arrays = [np.load(path) for path in sorted(folder.glob("*.npy"))]
            np.testing.assert_allclose(np.stack(arrays).reshape(one.shape), one, atol=1e-6)
    assert json.loads((tmp_path / "attribute0" / "attribute.json").read_text())
    capsys.readouterr()
    weighted = ["--target", str(tmp_path / "weights.npy")]
    for option, words in (
        ([*weighted, "--at", "1,1"], "Leave out --at and --mask"),
        ([*weighted, "1"], "give nothing else"),
        (["--target", str(tmp_path / "mask.npy")], "weights of the scores must have shape"),
        (["--target", str(tmp_path / "names.npy")], "must hold numbers"),
        (["--target", "nosuch.npy"], "nosuch.npy"),
        (["--at", "99,1"], "is outside"),
        (["--at", "1,1", "--mask", str(tmp_path / "mask.npy")], "not both"),
        (["--mask", "input"], "--mask"),
    ):
        assert main([*attribute, *option, "-o", str(tmp_path / "bad")]) != 0
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (MIX[0, :5], {}, r"must have shape \(3,\), \(16, 16, 3\), \(2, 16, 16, 3\) or"),
        (MIX[..., :2], {}, "must have shape"),
        (np.full((SIZE, SIZE, 3), np.nan), {}, "not finite"),
        (np.zeros((SIZE, SIZE, 3)), {}, "0 everywhere"),
        (np.full((SIZE, SIZE, 3), "a"), {}, "numbers or truth values"),
        (MIX, {"at": (1, 1)}, "Give one of them"),
        (1, {"at": MASK[:4]}, "the mask has the shape"),
        (1, {"at": (16, 0)}, "is outside"),
    ],
)
def test_weights_and_places_that_do_not_fit_are_refused(
    segmentation: Path, target: Any, options: Any, words: str
) -> None:
    model = layertap.open(segmentation)
    for explain in (
        lambda: model.gradients(X, "deep", target, **options),
        lambda: model.cam(X, "deep", target, **options),
        lambda: model.cam(X, "deep", target, method="ablationcam", **options),
        lambda: model.attribute(X, "saliency", target, **options),
        lambda: model.attribute(X, "occlusion", target, **options),
    ):
        with pytest.raises(layertap.UsageError, match=words):
            explain()


def test_mirrored_images_take_no_places(segmentation: Path) -> None:
    model = layertap.open(segmentation)
    for target, at in ((1, BOX), (MIX, None)):
        with pytest.raises(layertap.UsageError, match="cannot be combined with aug_smooth"):
            model.cam(X, "deep", target, at=at, aug_smooth=True)
    smooth = model.cam(X, "deep", 1, aug_smooth=True)
    assert smooth.shape == (2, 1, SIZE, SIZE)


# --- Heads, regressions, layers and channels ------------------------------------------------------


@pytest.fixture(scope="module")
def detector() -> Any:
    """Two heads, of boxes and of classes, at each place; and a regression of the whole image."""
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((12, 12, 3), name="x")
    stem = keras.layers.Conv2D(4, 3, activation="tanh", padding="same", name="stem")(x)
    body = keras.layers.Conv2D(5, 3, strides=2, activation="relu", padding="same", name="body")(
        stem
    )
    boxes = keras.layers.Conv2D(4, 1, name="boxes")(body)
    classes = keras.layers.Conv2D(3, 1, activation="sigmoid", name="classes")(body)
    size = keras.layers.Dense(2, name="size")(
        keras.layers.GlobalAveragePooling2D(name="pool")(body)
    )
    return keras.Model(x, [boxes, classes, size])


Y = np.random.default_rng(2).normal(size=(2, 12, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def scored(detector: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The detector with the gradients of a score: one export, to which others are added."""
    folder = tmp_path_factory.mktemp("detector")
    layertap_export.export(
        detector, folder / "boxes.onnx", gradients=["stem", "input"], score="boxes"
    )

    def opened(score: str) -> Any:
        path = folder / f"{score.replace(':', '-')}.onnx"
        if not path.exists():
            layertap_export.add_gradients(
                folder / "boxes.onnx", path, ["stem", "input"], score=score, seconds=0
            )
        return layertap.open(path)

    return opened


@pytest.mark.parametrize(
    ("score", "layer", "target", "of"),
    [
        ("boxes", "boxes", 3, lambda s: s[..., 3]),
        ("boxes:2", "boxes", "top", lambda s: s[..., 2]),
        ("size", "size", 1, lambda s: s[..., 1]),
        ("size", "size", np.array([[1, 0], [2, -1]], np.float32), lambda s: s * [[1, 0], [2, -1]]),
        ("size:0", "size", 0, lambda s: s[..., 0]),
        ("body", "body", 4, lambda s: s[..., 4]),
        ("body:-1", "body", 0, lambda s: s[..., 4]),
        ("pool", "pool", [1], lambda s: s[..., 1]),
    ],
)
def test_a_head_a_layer_or_a_channel_is_the_score(
    detector: Any, scored: Any, score: str, layer: str, target: Any, of: Callable[[Any], Any]
) -> None:
    model = scored(score)
    expected = slope(detector, "stem", layer, Y, of)
    found = model.gradients(Y, "stem", target)
    near(found[:, 0] if isinstance(target, list) else found, expected)
    values = slope(detector, "x", layer, Y, of)
    near(model.attribute(Y, "saliency", target).reshape(values.shape), np.abs(values))


@pytest.mark.parametrize("score", ["boxes:2", "body:2", "body"])
def test_a_neuron_is_a_channel_at_a_place(detector: Any, scored: Any, score: str) -> None:
    layer, _, channel = score.partition(":")
    model, target = scored(score), 0 if channel else 2
    expected = slope(detector, "stem", layer, Y, lambda s: s[:, 3, 4, 2])
    near(model.gradients(Y, "stem", target, at=(3, 4)), expected)
    found = heat_maps(model, Y, "stem", [target], at=(3, 4))
    values = np.asarray(_part(detector, layer)(Y.astype(np.float64)))
    near(found.scores[:, 0], values[:, 3, 4, 2])
    assert found.labels is None


def test_logits_of_a_class_of_a_head(detector: Any, scored: Any) -> None:
    """Of `classes:1` the scores are those before the sigmoid, and the shown score is after it."""
    import tensorflow as tf

    model = scored("classes:1")
    assert model.card.gradients.score == "logits"

    def logits(probabilities: Any) -> Any:
        return tf.math.log(probabilities / (1 - probabilities))[..., 1]

    near(model.gradients(Y, "stem"), slope(detector, "stem", "classes", Y, logits))
    shown = heat_maps(model, Y, "stem", ["top"]).scores[:, 0]
    values = np.asarray(_part(detector, "classes")(Y.astype(np.float64)))
    near(shown, values[..., 1].mean((1, 2)))


def test_the_card_says_what_the_scores_are(scored: Any) -> None:
    found = {
        score: scored(score).card.gradients for score in ("boxes", "boxes:2", "body", "body:-1")
    }
    assert [(one.output, one.of, one.channel, one.scored) for one in found.values()] == [
        ("boxes", None, None, "boxes"),
        ("score/boxes:2", "boxes", 2, "boxes:2"),
        ("body", "body", None, "body"),
        ("score/body:4", "body", 4, "body:4"),
    ]


def test_a_file_of_a_channel_can_be_cut_checked_and_changed(scored: Any, tmp_path: Path) -> None:
    model = scored("body:-1")
    assert [info.name for info in model.outputs] == ["boxes", "classes", "size"]
    assert model.check()
    path = tmp_path / "part.onnx"
    model.cut(path, start="stem", end=["grad/stem", "score/body:4"])
    stem = model.activations(Y, "stem")
    near(layertap.open(path).gradients(stem, "stem", 0), model.gradients(Y, "stem", 0))
    other = tmp_path / "other.onnx"
    layertap_export.add_gradients(model.path, other, ["stem"], score="size", seconds=0)
    import onnx

    assert "score/body:4" not in {value.name for value in onnx.load(other).graph.output}


def test_a_layer_after_the_score_has_the_gradient_zero(scored: Any, tmp_path: Path) -> None:
    path = tmp_path / "zero.onnx"
    words = r"no gradient flows from the scores of 'stem:1' to 'body', 'boxes': it is 0 there\."
    with pytest.warns(layertap.LayertapWarning, match=words) as caught:
        layertap_export.add_gradients(
            scored("boxes").path, path, ["body", "boxes"], score="stem:1", seconds=0
        )
    assert len(caught) == 1
    found = layertap.open(path).gradients(Y)
    assert {name: value.shape for name, value in found.items()} == {
        "body": (2, 6, 6, 5),
        "boxes": (2, 6, 6, 4),
    }
    assert not any(value.any() for value in found.values())


def test_scores_in_the_shell(
    scored: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["gradients", str(scored("boxes").path), "--layers", "stem", "--seconds", "0"]
    command += ["-o", str(tmp_path / "new.onnx")]
    assert main([*command, "--score", "body:1"]) == 0
    assert "gradients of 'body:1' at 1 layer" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "new.onnx")]) == 0
    assert "of the value of body:1, with respect to stem" in capsys.readouterr().out
    for score, words in (
        (["bodi"], "Did you mean 'body'?"),
        (["body:5"], "channel 5 is out of range: 'body' has 5, 0 to 4."),
        (["boxes", "--score", "classes"], "a file has the gradients of one score"),
        ([], "Name the one to differentiate"),
    ):
        option = ["--score", *score] if score else []
        assert main([*command, *option]) != 0
        assert words in capsys.readouterr().err
