"""Gradients out of a file that has them, beside central differences in float64."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import layertap
from generators import float64_network, tiny
from layertap.cam import targets
from layertap.format.card import KEY, Gradients

NOISE = "ignore:input .* the batch has values from"
"""These batches are noise, which the recipe in the file cannot have returned."""

pytestmark = pytest.mark.filterwarnings(NOISE)


TinyFile = Callable[[str], Path]
LAYERS = ["conv", "relu", "mixed", "last", "image"]
CLASSES = np.eye(3)


def expected(
    images: np.ndarray, layer: str, weights: Sequence[Any] | np.ndarray, score: str = "logits"
) -> np.ndarray:
    """`(n, ...)`, for the weights of each image."""
    rows = zip(images, weights, strict=True)
    return np.stack([float64_network.gradient(image, layer, row, score) for image, row in rows])


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-6) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    scale = np.abs(wanted).max()
    assert scale > 0
    np.testing.assert_allclose(found / scale, wanted / scale, atol=tolerance)


# --- Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("broadcasts", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_one_target(differentiable: Any, images: np.ndarray, layer: str, broadcasts: bool) -> None:
    model = differentiable(broadcasts=broadcasts)
    wanted = expected(images, layer, [CLASSES[1]] * 3)
    for target in ("dog", 1, -2, np.array([0.0, 1.0, 0.0])):
        close(model.gradients(images, layer, target), wanted)


@pytest.mark.parametrize("broadcasts", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_best_class_of_each_image(
    differentiable: Any, images: np.ndarray, layer: str, broadcasts: bool
) -> None:
    """By a run up to the layer, and one from there on."""
    model = differentiable(broadcasts=broadcasts)
    best = float64_network.forward(images)["probs"].argmax(axis=-1)
    assert len(set(best)) > 1
    wanted = expected(images, layer, CLASSES[best])
    close(model.gradients(images, layer), wanted)
    close(model.gradients(images, layer, "top"), wanted)
    close(model.gradients(images, layer, [[int(k)] for k in best])[:, 0], wanted)


@pytest.mark.parametrize("broadcasts", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_several_targets(
    differentiable: Any, images: np.ndarray, layer: str, broadcasts: bool
) -> None:
    model = differentiable(broadcasts=broadcasts)
    best = float64_network.forward(images)["probs"].argmax(axis=-1)
    for batch in (images, images[:1]):
        n = len(batch)
        columns = [[CLASSES[2]] * n, CLASSES[best[:n]], [CLASSES[0]] * n]
        wanted = np.stack([expected(batch, layer, column) for column in columns], axis=1)
        close(model.gradients(batch, layer, ["bird", "top", "cat"]), wanted)
        close(model.gradients(batch, layer, ["bird", 0]), wanted[:, [0, 2]])
        assert model.gradients(batch, layer, ["bird"]).shape == (n, 1, *wanted.shape[2:])


def test_mixes_of_classes(differentiable: Any, images: np.ndarray) -> None:
    weights = np.random.default_rng(1).normal(size=(3, 2, 3))
    wanted = np.stack([expected(images, "relu", weights[:, i]) for i in (0, 1)], axis=1)
    for broadcasts in (True, False):
        model = differentiable(broadcasts=broadcasts)
        close(model.gradients(images, "relu", weights), wanted)
        close(model.gradients(images, "relu", weights[:, 0]), wanted[:, 0])


def test_the_output_itself_as_the_score(differentiable: Any, images: np.ndarray) -> None:
    model = differentiable(score="output")
    wanted = expected(images, "relu", [CLASSES[0]] * 3, "probs")
    close(model.gradients(images, "relu", "cat"), wanted)


# --- Which, and in what form --------------------------------------------------------------------


def test_one_name_gives_an_array_and_everything_else_a_dict(
    differentiable: Any, images: np.ndarray
) -> None:
    model = differentiable()
    relu = model.gradients(images, "relu", 0)
    for single in (2, -5, model.layers[2]):
        np.testing.assert_array_equal(model.gradients(images, single, 0), relu)
    # Fused with other layers, values differ in the last digits.
    for several in (["relu"], "rel*", slice(2, 3), iter(["relu"]), "re:re.u"):
        found = model.gradients(images, several, 0)
        assert list(found) == ["relu"]
        np.testing.assert_allclose(found["relu"], relu, rtol=1e-5)
    assert list(model.gradients(images, ["last", "image", "relu"], 0)) == ["last", "image", "relu"]
    assert list(model.gradients(images, slice(3, 6), 0)) == ["mixed", "last"]
    assert sorted(model.gradients(images, target=0)) == sorted(LAYERS)
    both = model.gradients(images, ["relu", "image"], ["cat", "dog"])
    assert both["relu"].shape == (3, 2, 8, 6, 4)
    assert both["image"].shape == (3, 2, 8, 6, 3)


def test_several_layers_and_the_best_class(differentiable: Any, images: np.ndarray) -> None:
    best = float64_network.forward(images)["probs"].argmax(axis=-1)
    found = differentiable().gradients(images, ["last", "relu", "conv"])
    for layer, value in found.items():
        close(value, expected(images, layer, CLASSES[best]))


def test_images_are_prepared(differentiable: Any, tmp_path: Path) -> None:
    model = differentiable()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = model.gradients(tmp_path / "a.png", "relu", 0)
    close(found, expected(pixels[None] / 255, "relu", CLASSES[:1]))
    halved = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 1 / 510}}
    found = model.gradients(pixels, "relu", 0, preprocess=halved)
    close(found, expected(pixels[None] / 510, "relu", CLASSES[:1]))


def test_two_halves_give_bit_for_bit_what_the_whole_gives(images: np.ndarray) -> None:
    """Where the graph runs as it stands: else a ReLU may see another sign of next to nothing."""
    made = tiny.differentiable(broadcasts=False).SerializeToString()
    model = layertap.open(made, reproducible=True)
    best = model.predict(images).argmax(axis=-1)
    for layer in LAYERS:
        named = model.gradients(images, layer, np.eye(3)[best])  # in one run
        np.testing.assert_array_equal(model.gradients(images, layer, "top"), named)


# --- Runs ---------------------------------------------------------------------------------------


def test_one_target_takes_one_run(differentiable: Any, images: np.ndarray, runs: Any) -> None:
    differentiable().gradients(images, ["relu", "last"], "dog")
    assert [run.rows for run in runs] == [{"image": 3, "score_weights": 3}]


def test_many_targets_of_one_image_take_one_run(
    differentiable: Any, images: np.ndarray, runs: Any
) -> None:
    """The network's first half runs for one row, the second for as many as there are targets."""
    differentiable().gradients(images[:1], "relu", ["cat", "dog", "bird", 0])
    assert [run.rows for run in runs] == [{"image": 1, "score_weights": 4}]
    del runs[:]
    differentiable().gradients(images, "relu", ["cat", "dog"])
    assert [run.rows for run in runs] == [{"image": 1, "score_weights": 2}] * 3


def test_the_best_class_and_others_of_one_image_take_two_runs(
    differentiable: Any, images: np.ndarray, runs: Any
) -> None:
    differentiable().gradients(images[:1], "last", ["cat", "top", "dog"])
    assert [run.rows for run in runs] == [{"image": 1}, {"last_nchw": 1, "score_weights": 3}]


def test_without_broadcasting_the_first_half_runs_once(
    differentiable: Any, images: np.ndarray, runs: Any
) -> None:
    """`conv`, which also feeds a layer after `relu`, is kept; what is no longer needed is not."""
    model = differentiable(broadcasts=False)
    model.gradients(images, "relu", ["cat", "dog"])
    second = {"relu_nchw": 3, "conv_nchw": 3, "score_weights": 3}
    assert [run.rows for run in runs] == [{"image": 3}, second, second]
    del runs[:]
    model.gradients(images, "last", "top")
    assert [run.rows for run in runs] == [{"image": 3}, {"last_nchw": 3, "score_weights": 3}]
    assert runs[0].outputs == ["last_nchw", "probs"]


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image_classifier", "residual"])
def test_a_file_without_gradients(tiny_file: TinyFile, name: str) -> None:
    model = layertap.open(tiny_file(name))
    with pytest.raises(layertap.ModelFileError) as caught:
        model.gradients(np.zeros((1, 8, 6, 3), np.float32), "relu")
    path = tiny_file(name)
    assert str(caught.value) == (
        f"'{path}' has no gradients. `layertap gradients {path} --layers LAYER -o NEW.onnx` "
        "writes a file with it."
    )


@pytest.mark.parametrize("layers", ["pool", 5, ["relu", "pool"], "poo*", slice(5, None)])
def test_a_layer_without_one(
    differentiable: Any, images: np.ndarray, layers: Any, tmp_path: Path
) -> None:
    path = tiny.save(tiny.differentiable(), tmp_path / "my model.onnx")
    with pytest.raises(layertap.LayerNotFoundError) as caught:
        layertap.open(path).gradients(images, layers)
    assert str(caught.value) == (
        f"'{path}' has no gradient for 'pool', only for 'conv', 'image', 'last', 'mixed', 'relu'. "
        f"`layertap gradients '{path}' --layers pool -o NEW.onnx` writes a file with it."
    )


@pytest.mark.parametrize("name", ["score_weights", "grad/relu"])
def test_a_card_that_names_what_is_not_there(images: np.ndarray, name: str) -> None:
    made = tiny.differentiable()
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    prop.value = prop.value.replace(f'"{name}"', '"elsewhere"')
    with pytest.raises(layertap.ModelFileError) as caught:
        layertap.open(made.SerializeToString()).gradients(images, "relu", 0)
    assert re.search("has no tensor 'elsewhere', though its card names it", str(caught.value))


# --- Other files --------------------------------------------------------------------------------


def test_a_gradient_that_hangs_on_the_weights_before_the_layer_comes_in() -> None:
    """scores = u v, so that the gradient with respect to u is `weights * v`: nothing of it may be
    computed along with the scores, by which "top" is found.
    """
    names = ("u", "v", "scores")
    rows = [tiny.layer(i, n, "Lambda", (None, 3)) for i, n in enumerate(("x", *names))]
    made = tiny.model(
        [
            tiny.node("Mul", "x x", "u"),
            tiny.node("Exp", "x", "v"),
            tiny.node("Mul", "u v", "scores"),
            tiny.node("Mul", "score_weights v", "grad/u"),
        ],
        [tiny.value("x", ["batch", 3]), tiny.value("score_weights", ["rows", 3])],
        [tiny.value(name, ["batch", 3]) for name in (*names, "grad/u")],
        [tiny.constant("score_weights", np.ones((1, 3)), np.float32)],
        card=tiny.card(
            rows,
            {"x": (None, 3)},
            {"scores": (None, 3)},
            gradients=Gradients(
                output="scores",
                score="output",
                weights="score_weights",
                tensors={"u": "grad/u"},
                broadcasts=True,
            ),
        ),
    )
    x = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
    found = layertap.open(made.SerializeToString()).gradients(x, "u")
    np.testing.assert_allclose(found, np.exp(x) * [[0, 0, 1], [1, 0, 0]], rtol=1e-6)


def test_weights_of_scores_that_have_places() -> None:
    """A segmentation, (n, h, w, classes): the gradient is that of the sum over the places."""
    made = segmentation()
    model = layertap.open(made.SerializeToString())
    x = np.random.default_rng(0).random((2, 4, 4, 2)).astype(np.float32)
    w = onnx.numpy_helper.to_array(made.graph.initializer[0])
    found = model.gradients(x, "squared", ["a", 2])
    np.testing.assert_allclose(
        found, np.broadcast_to(w[:, [0, 2]].T[:, None, None, :], (2, 2, 4, 4, 2)), rtol=1e-6
    )
    best = (x.astype(np.float64) ** 2 @ w).mean(axis=(1, 2)).argmax(axis=-1)
    top = model.gradients(x, "squared")
    np.testing.assert_allclose(top[:, 0, 0], w[:, best].T, rtol=1e-6)


def segmentation() -> onnx.ModelProto:
    """x -> x^2 -> scores (n, 4, 4, 3), a linear map of each place."""
    rows = [
        tiny.layer(0, "x", "InputLayer", (None, 4, 4, 2)),
        tiny.layer(1, "squared", "Activation", (None, 4, 4, 2), "x"),
        tiny.layer(2, "scores", "Conv2D", (None, 4, 4, 3), "squared"),
    ]
    return tiny.model(
        [
            tiny.node("Mul", "x x", "squared"),
            tiny.node("MatMul", "squared w", "scores"),
            tiny.node("Mul", "scores zero", "zeros"),
            tiny.node("Add", "score_weights zeros", "seed"),
            tiny.node("Transpose", "w", "w_t", perm=[1, 0]),
            tiny.node("MatMul", "seed w_t", "grad/squared"),
        ],
        [
            tiny.value("x", ["batch", 4, 4, 2]),
            tiny.value("score_weights", ["rows", None, None, 3]),
        ],
        [
            tiny.value("scores", ["batch", 4, 4, 3]),
            tiny.value("squared", ["batch", 4, 4, 2]),
            tiny.value("grad/squared", [None, 4, 4, 2]),
        ],
        [
            tiny.weights("w", 2, 3),
            tiny.constant("zero", 0, np.float32),
            tiny.constant("score_weights", np.ones((1, 1, 1, 3)), np.float32),
        ],
        card=tiny.card(
            rows,
            {"x": (None, 4, 4, 2)},
            {"scores": (None, 4, 4, 3)},
            labels=("a", "b", "c"),
            gradients=Gradients(
                output="scores",
                score="output",
                weights="score_weights",
                tensors={"squared": "grad/squared"},
                broadcasts=True,
            ),
        ),
    )


# --- Truth values, numbers of numpy, all ----------------------------------------------------------


def test_true_and_all_are_all_layers(differentiable: Any, images: np.ndarray) -> None:
    model = differentiable()
    every = model.gradients(images, None, 0)
    assert len(every) == 5
    for asked in (True, "all"):
        found = model.gradients(images, asked, 0)
        assert list(found) == list(every)
        np.testing.assert_equal(found, every)


def test_numbers_of_numpy_are_indices(differentiable: Any, images: np.ndarray) -> None:
    model = differentiable()
    relu = model.gradients(images, 2, 0)
    np.testing.assert_array_equal(model.gradients(images, np.int64(2), 0), relu)
    several = model.gradients(images, np.array([2, 3]), 0)
    assert list(several) == ["relu", "mixed"]


def test_all_classes_are_a_target(differentiable: Any, images: np.ndarray) -> None:
    model = differentiable()
    every = model.gradients(images, "relu", [0, 1, 2])
    assert every.shape[:2] == (3, 3)
    np.testing.assert_array_equal(model.gradients(images, "relu", "all"), every)
    np.testing.assert_array_equal(model.gradients(images, "relu", ["all"]), every)
    np.testing.assert_array_equal(
        model.cam(images, "relu", "all"), model.cam(images, "relu", [0, 1, 2])
    )
    saliency = model.attribute(images, "saliency", "all")
    np.testing.assert_array_equal(saliency, model.attribute(images, "saliency", [0, 1, 2]))


def test_a_class_may_be_called_all() -> None:
    found = targets.resolve("all", samples=2, classes=2, labels=("none", "all"))
    assert found.classes is not None
    assert found.classes.tolist() == [[1], [1]]
    assert not found.several


def test_a_gradient_without_samples_is_refused(images: np.ndarray) -> None:
    made = tiny.differentiable()
    (last,) = (one for one in made.graph.node if "grad/relu" in one.output)
    last.CopyFrom(onnx.helper.make_node("ReduceSum", last.input, last.output, keepdims=0))
    model = layertap.open(made.SerializeToString())
    with pytest.raises(layertap.ModelFileError, match=r"gradient of 'relu' has the shape \(\)"):
        model.gradients(images, "relu", 1)
