"""Heat maps, reductions and images in models whose channels are not the last axis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap
from generators import tiny
from generators.tiny import model, node, value, weights
from layertap._engine.program import program_of
from layertap.cam import METHODS as ALL_METHODS
from layertap.cam import heat_maps, metrics
from layertap.errors import UsageError
from layertap.format.card import KEY

NOISE = "ignore:input .* the batch has values from"
"""These batches are noise, which the recipe in the file cannot have returned."""

pytestmark = [
    pytest.mark.filterwarnings(NOISE),
    pytest.mark.filterwarnings("ignore:target is for methods that explain a class"),
]


Made = Callable[..., layertap.Model]
METHODS = {name: method for name, method in ALL_METHODS.items() if not method.of_attention}
"""Those of one layer; tests/runtime/cam/test_rollout.py has the others."""

WITHOUT = [name for name, method in METHODS.items() if method.takes != "gradients"]
FEW: dict[str, dict[str, Any]] = {"rise": {"samples": 20}, "kernelshap": {"window": 2}}
LAYERS = ("conv", "relu", "mixed", "last")


def first(images: np.ndarray) -> np.ndarray:
    """`(n, h, w, c)` as `(n, c, h, w)`."""
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))


@pytest.fixture(params=[True, False], ids=["states its axes", "format 1.2"])
def pair(request: pytest.FixtureRequest, differentiable: Made) -> tuple[Any, Any]:
    """A network with channels last, and with channels first. The first one is compared with float64
    in test_heat_maps.py."""
    states_axes = bool(request.param)
    return differentiable(), differentiable(channels_first=True, states_axes=states_axes)


@pytest.fixture
def foreign() -> layertap.Model:
    """The network with channels first, without a card."""
    made = tiny.differentiable(channels_first=True)
    kept = [prop for prop in made.metadata_props if prop.key != KEY]
    del made.metadata_props[:]
    made.metadata_props.extend(kept)
    return layertap.open(made.SerializeToString())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["relu", "last"])
def test_maps_are_those_of_channels_last(
    pair: Any, images: np.ndarray, method: str, layer: str
) -> None:
    last, other = pair
    few = FEW.get(method, {})
    wanted = heat_maps(last, images, layer, ["dog", "top"], method=method, **few)
    found = heat_maps(other, first(images), layer, ["dog", "top"], method=method, **few)
    assert found.maps.shape == (3, 2, 8, 6)
    np.testing.assert_allclose(found.maps, wanted.maps, atol=1e-5)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)


@pytest.mark.parametrize("method", WITHOUT)
def test_maps_of_a_file_from_elsewhere(
    foreign: layertap.Model, differentiable: Made, images: np.ndarray, method: str
) -> None:
    few = FEW.get(method, {})
    wanted = differentiable().cam(images, "relu", 1, method=method, **few)
    found = foreign.cam(first(images), "relu", 1, method=method, **few)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"aug_smooth": True},
        {"eigen_smooth": True},
        {"method": "scorecam", "mask": "input"},
        {"method": "ablationcam", "channels": 2, "batch_size": 3},
        {"resize": False, "normalize": False},
        {"resize": (5, 9)},
    ],
    ids=lambda options: " ".join(options),
)
def test_options(pair: Any, images: np.ndarray, options: dict[str, Any]) -> None:
    last, other = pair
    wanted = last.cam(images, "relu", "cat", **options)
    found = other.cam(first(images), "relu", "cat", **options)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_metrics(pair: Any, images: np.ndarray) -> None:
    last, other = pair
    maps = last.cam(images, "relu", ["cat"])
    for measure in (metrics.deletion, metrics.insertion):
        wanted = measure(last, images, maps, ["cat"], steps=6).scores
        found = measure(other, first(images), maps, ["cat"], steps=6).scores
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    wanted = metrics.confidence(last, images, maps, ["cat"]).after
    found = metrics.confidence(other, first(images), maps, ["cat"]).after
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "max", "mean_l2", "top3"])
def test_reductions(pair: Any, foreign: layertap.Model, images: np.ndarray, how: str) -> None:
    last, other = pair
    for layer in LAYERS:
        wanted = last.activations(images, {layer: how})[layer]
        for opened in (other, foreign):
            found = opened.activations(first(images), {layer: how})[layer]
            for one, reference in zip(
                *[(x if isinstance(x, tuple) else (x,)) for x in (found, wanted)], strict=True
            ):
                np.testing.assert_allclose(one, reference, atol=1e-5)


def test_images_are_turned_for_the_model(pair: Any, foreign: layertap.Model) -> None:
    """Paths, PIL images and lists of them; a ready batch stays as it is."""
    last, other = pair
    pixels = np.random.default_rng(1).integers(0, 256, (2, 9, 7, 3)).astype(np.uint8)
    pictures = [Image.fromarray(one) for one in pixels]
    wanted = last.predict(pictures)
    np.testing.assert_allclose(other.predict(pictures), wanted, atol=1e-6)
    np.testing.assert_allclose(other.predict(pictures[0]), wanted[:1], atol=1e-6)
    recipe = last.preprocessing.to_dict()
    found = foreign.activations(pictures, "probs", preprocess=recipe)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    stated = {**recipe, "channels": "first"}
    np.testing.assert_array_equal(foreign.activations(pictures, "probs", preprocess=stated), found)
    with pytest.raises(layertap.InputError):
        foreign.activations(pictures, "probs", preprocess={**recipe, "channels": "last"})
    ready = layertap.Preprocessing.from_dict(stated).batch(pictures)
    assert ready.shape == (2, 3, 8, 6)
    np.testing.assert_array_equal(foreign.activations(ready, "probs"), found)


def test_a_layer_without_channels_has_no_heat_map(tmp_path: Path) -> None:
    """Attention scores: products of positions with positions."""
    made = model(
        [
            node("Conv", "x k", "c"),
            node("Transpose", "c", "t", perm=[0, 2, 1]),
            node("MatMul", "t c", "products"),
            node("Softmax", "products", "scores", axis=-1),
            node("MatMul", "scores t", "mixed"),
            node("ReduceMean", "mixed", "y", axes=[1], keepdims=0),
        ],
        [value("x", ["n", 3, 8])],
        [value("y", ["n", 4])],
        [weights("k", 4, 3, 1)],
        opset=17,
    )
    for name, shape in {"c": [4, 8], "scores": [8, 8], "mixed": [8, 4]}.items():
        made.graph.value_info.append(value(name, ["n", *shape]))
    opened = layertap.open(made.SerializeToString())
    x = np.random.default_rng(0).random((2, 3, 8)).astype(np.float32)
    with pytest.raises(UsageError) as caught:
        opened.cam(x, "scores", 0, method="eigencam")
    assert str(caught.value) == (
        "a heat map needs feature maps with channels, but 'scores' has none: its axes are N?? (see "
        "docs/file-format.md). Choose another layer, or give a function reshape= that makes "
        "feature maps (n, h, w, c) of its values."
    )
    with pytest.raises(UsageError) as caught:
        opened.activations(x, {"scores": "mean"})
    assert str(caught.value) == (
        "'mean' needs an axis of channels, but 'scores', of shape (None, 8, 8), has none: its axes "
        "are N?? (docs/file-format.md)."
    )
    for layer in ("c", "mixed"):  # one has channels first, one last
        assert opened.cam(x, layer, 0, method="eigencam").shape == (2, 1, 8)
    whole = opened.activations(x, "mixed")
    found = opened.activations(x, {"mixed": "mean"})["mixed"]
    np.testing.assert_allclose(found, whole.mean(axis=1), atol=1e-6)


def test_maps_of_tokens_have_their_number() -> None:
    """A text: an embedding of 6 words, then a convolution with a step of 2."""
    made = model(
        [
            node("Gather", "table x", "e"),
            node("Transpose", "e", "t", perm=[0, 2, 1]),
            node("Conv", "t k", "c", strides=[2]),
            node("ReduceMax", "c", "y", axes=[2], keepdims=0),
        ],
        [value("x", ["n", 6], 7)],
        [value("y", ["n", 4])],
        [weights("table", 10, 5), weights("k", 4, 5, 1)],
        opset=17,
    )
    opened = layertap.open(made.SerializeToString())
    tokens = np.array([[1, 5, 2, 9, 0, 3]])
    found = opened.cam(tokens, "c", [0], method="eigencam")
    assert found.shape == (1, 1, 6)
    assert opened.cam(tokens, "c", [0], method="eigencam", resize=False).shape == (1, 1, 3)


def test_axes_of_a_file_that_states_none(foreign: layertap.Model) -> None:
    program = program_of(foreign)
    assert program.axes("relu", 4) == "NCHW"
    assert program.axes("pool", 2) == "NC"
    assert program.axes("no such tensor", 4) == "NC??"
    assert program.axes("relu", 3) == "NC?"  # a value of another rank
