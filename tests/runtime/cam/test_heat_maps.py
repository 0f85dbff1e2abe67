"""Heat maps, beside the formulas on activations and gradients in float64."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import layertap
from generators import float64_network, tiny
from layertap.cam import METHODS as ALL_METHODS
from layertap.cam import heat_maps, resize
from layertap.cam.methods import ablationcam, scorecam
from layertap.cam.projections import principal
from layertap.cam.random_masks import RandomMasks
from layertap.errors import LayertapWarning
from layertap.format.card import KEY, Card, Gradients, TensorInfo

NOISE = "ignore:input .* the batch has values from"
"""These batches are noise, which the recipe in the file cannot have returned."""

pytestmark = [
    pytest.mark.filterwarnings(NOISE),
    pytest.mark.filterwarnings("ignore:target is for methods that explain a class"),
]


TinyFile = Callable[[str], Path]
Maps = NDArray[np.float64]
CLASSES = np.eye(3)
METHODS = {name: method for name, method in ALL_METHODS.items() if not method.of_attention}
"""Those of one layer; tests/runtime/cam/test_rollout.py has the others."""

BY_GRADIENT = [name for name, method in METHODS.items() if method.takes == "gradients"]
BY_ACTIVATION = [name for name, method in METHODS.items() if not method.takes]
FROM_LEAST = ("rise", "reciprocam")
BY_SCORE = [name for name, method in METHODS.items() if method.takes in ("masked", "ablated")]


# --- Wanted -------------------------------------------------------------------------------------


def evidence(name: str, image: np.ndarray, layer: str, weights: Any, mask: str = "layer") -> Maps:
    """The weighted activations, or the map, of one method for one image."""
    values = float64_network.forward(image[None])
    activations = values[layer][0]
    method = METHODS[name]
    if name in BY_ACTIVATION:
        return method.compute(activations)
    if name in BY_GRADIENT:
        slope = float64_network.gradient(image, layer, weights)
        return method.compute(activations, slope)
    if method.takes == "positions":
        return masked_maps(name, image, layer, weights)
    before = list(values)[: list(values).index(layer)]
    scores = []
    for k in range(activations.shape[-1]):
        fed, changed = image, activations.copy()
        if name == "scorecam" and not activations[..., k].any():
            scores.append(np.nan)  # a flat mask
            continue
        if name == "ablationcam":
            changed[..., k] = 0
        elif mask == "layer":
            changed *= stretched(activations[..., k])[..., None]
        else:
            large = resize(activations[..., k], image.shape[:2]).astype(np.float64)
            fed = image * stretched(large)[..., None]
        given = {} if mask == "input" else {**{n: values[n] for n in before}, layer: changed[None]}
        scores.append(float64_network.forward(fed[None], given)["logits"][0] @ weights)
    if name == "ablationcam":
        return ablationcam(activations, np.array(scores), float(values["logits"][0] @ weights))
    return scorecam(activations, np.array(scores))


def masked_maps(name: str, image: np.ndarray, layer: str, weights: Any) -> Maps:
    """The map of a method that masks positions, by its definition, with `options(name)`."""
    values = float64_network.forward(image[None])
    before = list(values)[: list(values).index(layer)]
    whole = values[layer][0]
    high, wide, _ = whole.shape

    def scores(keep: np.ndarray, output: str) -> Any:
        """For masks `(m, h, w)`."""
        given = {n: np.repeat(values[n], len(keep), axis=0) for n in before}
        given[layer] = whole * keep[..., None]
        fed = given.get("image", whole * keep[..., None])
        return float64_network.forward(fed, given)[output] @ weights

    alone = np.eye(high * wide).reshape(-1, high, wide)
    if name == "reciprocam":
        return scores(alone, "probs").reshape(high, wide)
    if name == "rise":  # how its masks are drawn is tested on its own
        cells = (min(7, high), wide)
        masks = RandomMasks((high, wide), cells, 20, 0.5, [0, 0], smooth=True)
        drawn = np.stack([masks[k] for k in range(20)]).astype(np.float64)
        return np.einsum("m,mhw->hw", scores(drawn, "probs"), drawn) / 10
    if name == "occlusion":  # windows of one position
        return (values["logits"][0] @ weights - scores(1 - alone, "logits")).reshape(high, wide)
    quarters = np.zeros((4, high, wide))
    window = options(name, layer)["window"]
    for k, (i, j) in enumerate(itertools.product((0, 1), (0, 1))):
        rows, columns = np.arange(high) // window[0] == i, np.arange(wide) // window[1] == j
        quarters[k] = rows[:, None] & columns
    total = np.zeros((high, wide))
    for order in itertools.permutations(range(4)):
        steps = np.stack([quarters[list(order[:k])].sum(axis=0) for k in range(5)])
        for k, gain in zip(order, np.diff(scores(steps, "logits")), strict=True):
            total += gain * quarters[k] / quarters[k].sum() / 24
    return total


def options(name: str, layer: str) -> dict[str, Any]:
    """Those of quick tries: few random masks, and four patches."""
    window = (5, 4) if layer.split("_")[0] in ("conv", "relu") else (2, 2)
    found: dict[str, dict[str, Any]] = {"rise": {"samples": 20}, "kernelshap": {"window": window}}
    return found.get(name, {})


def stretched(values: Maps) -> Maps:
    return (values - values.min()) / (values.max() - values.min())


def raw(name: str, image: np.ndarray, layer: str, weights: Any, mask: str = "layer") -> Maps:
    heat = evidence(name, image, layer, weights, mask)
    return heat.sum(axis=-1) if heat.ndim == 3 else heat


def finished(heat: Maps, size: tuple[int, int] = (8, 6), least: bool = False) -> Maps:
    heat = heat - heat.min() if least else heat
    large = resize(np.maximum(heat, 0), size).astype(np.float64)
    return large / large.max() if large.max() > 0 else large


# --- Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        (name, layer)
        for name in METHODS
        for layer in ("relu", "last", "conv", "mixed")
        # Its denominators come close to 0 where activations are negative.
        if name != "gradcam++" or layer in ("relu", "last")
    ],
)
def test_each_method(differentiable: Any, images: np.ndarray, name: str, layer: str) -> None:
    """Two targets for three images; `relu` has another way past it, `conv` is not rectified."""
    model = differentiable()
    found = model.cam(images, layer, ["dog", "top"], method=name, **options(name, layer))
    assert (found.shape, found.dtype) == ((3, 2, 8, 6), np.float32)
    best = float64_network.forward(images)["logits"].argmax(axis=-1)
    for i, image in enumerate(images):
        for t, k in enumerate((1, best[i])):
            wanted = finished(raw(name, image, layer, CLASSES[k]), least=name in FROM_LEAST)
            np.testing.assert_allclose(found[i, t], wanted, atol=2e-5)
    assert len({one.tobytes() for one in found[:, 0]}) == 3  # every image has its own


@pytest.mark.parametrize("name", METHODS)
def test_maps_as_the_formula_gives_them(differentiable: Any, images: np.ndarray, name: str) -> None:
    model = differentiable()
    found = model.cam(
        images, "last", 0, method=name, normalize=False, resize=False, **options(name, "last")
    )
    assert found.shape == (3, 1, 4, 3)
    for i, image in enumerate(images):
        wanted = raw(name, image, "last", CLASSES[0])
        np.testing.assert_allclose(found[i, 0], wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", [*BY_GRADIENT, *BY_SCORE])
def test_smoothing_by_a_principal_component(
    differentiable: Any, images: np.ndarray, name: str
) -> None:
    found = differentiable().cam(images, "relu", 2, method=name, eigen_smooth=True)
    for i, image in enumerate(images):
        heat = evidence(name, image, "relu", CLASSES[2])
        wanted = finished(principal(heat) if heat.ndim == 3 else heat)
        np.testing.assert_allclose(found[i, 0], wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["hirescam", "eigencam", "ablationcam"])
def test_smoothing_by_changed_images(differentiable: Any, name: str) -> None:
    """Six maps, and the target is the best of the image as it is; flipped, another is best."""
    one = np.random.default_rng(15).random((8, 6, 3)).astype(np.float32)
    found = differentiable().cam(one[None], "relu", "top", method=name, aug_smooth=True)
    both = float64_network.forward(np.stack([one, one[:, ::-1]]))["logits"].argmax(axis=-1)
    assert both[0] != both[1]
    best = CLASSES[both[0]]
    maps = []
    for factor in (0.9, 1.0, 1.1):
        image = one * factor
        maps.append(finished(raw(name, image, "relu", best)))
        maps.append(finished(raw(name, image[:, ::-1], "relu", best))[:, ::-1])
    np.testing.assert_allclose(found[0, 0], np.mean(maps, axis=0), atol=2e-5)


@pytest.mark.parametrize("name", BY_SCORE)
def test_the_strongest_channels_alone(
    differentiable: Any, images: np.ndarray, runs: Any, name: str
) -> None:
    options = {"method": name, "channels": 2, "normalize": False, "resize": False}
    found = differentiable().cam(images, "conv", 2, **options)
    assert [run.rows for run in runs] == [{"image": 3}, *[{"conv_nchw": 2}] * 3]
    for i, image in enumerate(images):
        activations = float64_network.forward(image[None])["conv"][0]
        strongest = np.abs(activations).mean(axis=(0, 1)).argsort()[-2:]
        heat = evidence(name, image, "conv", CLASSES[2])
        if name == "scorecam":  # the softmax is over these alone
            weights = (heat / activations)[0, 0, strongest]
            wanted = (activations[..., strongest] * weights / weights.sum()).sum(axis=-1)
        else:
            wanted = heat[..., strongest].sum(axis=-1)
        np.testing.assert_allclose(found[i, 0], wanted, rtol=1e-3, atol=1e-5)


def test_score_cam_as_in_the_paper(differentiable: Any, images: np.ndarray) -> None:
    """The input is masked, and all of the network runs again."""
    found = differentiable().cam(images, "last", "bird", method="scorecam", mask="input")
    for i, image in enumerate(images):
        wanted = finished(raw("scorecam", image, "last", CLASSES[2], "input"))
        np.testing.assert_allclose(found[i, 0], wanted, atol=1e-5)
    layer = differentiable().cam(images, "last", "bird", method="scorecam")
    assert np.abs(layer - found).max() > 1e-3


@pytest.mark.parametrize("name", [*BY_ACTIVATION, *BY_SCORE])
def test_a_file_from_elsewhere(tiny_file: TinyFile, images: np.ndarray, name: str) -> None:
    """Channels come after the batch, in the layer and in the image."""
    model = layertap.open(tiny_file("channels_first"))
    batch = images.transpose(0, 3, 1, 2)
    options: dict[str, Any] = {"mask": "input"} if name == "scorecam" else {}
    found = model.cam(batch, "last_nchw", [1, "top"], method=name, **options)
    assert found.shape == (3, 2, 8, 6)
    best = float64_network.forward(images)["logits"].argmax(axis=-1)
    for i, image in enumerate(images):
        for t, k in enumerate((1, best[i])):
            wanted = finished(raw(name, image, "last", CLASSES[k], options.get("mask", "layer")))
            np.testing.assert_allclose(found[i, t], wanted, atol=2e-5)
    smooth = model.cam(batch, "last_nchw", 1, method="eigencam", aug_smooth=True)
    assert smooth.shape == (3, 1, 8, 6)


@pytest.mark.parametrize("layer", ["last", "relu"])
@pytest.mark.parametrize("name", METHODS)
def test_a_file_from_elsewhere_that_was_given_gradients(
    tiny_file: TinyFile, images: np.ndarray, name: str, layer: str
) -> None:
    """It has a card, which says that the channels are not last."""
    model = layertap.open(tiny_file("channels_first_gradients"))
    batch = images.transpose(0, 3, 1, 2)
    found = model.cam(batch, f"{layer}_nchw", "dog", method=name, **options(name, layer))
    for i, image in enumerate(images):
        wanted = finished(raw(name, image, layer, CLASSES[1]), least=name in FROM_LEAST)
        np.testing.assert_allclose(found[i, 0], wanted, atol=2e-5)
    slope = model.gradients(batch, "relu_nchw", "top")
    best = float64_network.forward(images)["logits"].argmax(axis=-1)
    for i, image in enumerate(images):
        wanted = float64_network.gradient(image, "relu", CLASSES[best[i]])
        np.testing.assert_allclose(slope[i], wanted.transpose(2, 0, 1), atol=1e-6)


def test_a_map_without_heat_stays_0(differentiable: Any, images: np.ndarray) -> None:
    model = differentiable()
    down = model.cam(images, "last", np.zeros(3))
    assert not down.any()
    assert np.isfinite(down).all()


def test_nan_goes_through(differentiable: Any, images: np.ndarray) -> None:
    images[1, 2, 3, 0] = np.nan
    for name in METHODS:
        found = differentiable().cam(images, "relu", 0, method=name, **options(name, "relu"))
        assert np.isfinite(found[[0, 2]]).all()
        assert np.isnan(found[1]).any(), name


def test_masks_without_a_layer_are_laid_on_the_image(
    differentiable: Any, tiny_file: TinyFile, images: np.ndarray
) -> None:
    for name in ("occlusion", "rise", "kernelshap"):
        found = heat_maps(
            differentiable(), images, None, "dog", method=name, **options(name, "conv")
        )
        assert found.layer == "image"
        named = heat_maps(
            differentiable(), images, "image", "dog", method=name, **options(name, "conv")
        )
        np.testing.assert_array_equal(found.maps, named.maps)
        foreign = layertap.open(tiny_file("channels_first_gradients"))
        same = foreign.cam(
            images.transpose(0, 3, 1, 2), None, "dog", method=name, **options(name, "conv")
        )
        np.testing.assert_allclose(same, found.maps, atol=2e-5)
    with pytest.raises(layertap.UsageError, match="give a layer"):
        layertap.open(tiny_file("image_classifier")).cam(
            np.zeros((1, 8, 6, 3)), method="reciprocam"
        )


def test_baselines_of_a_layer(differentiable: Any, images: np.ndarray) -> None:
    """What is masked becomes the mean of its channel, in the layer's own units."""
    model = differentiable()
    found = model.cam(
        images, "last", 0, method="occlusion", baseline="mean", normalize=False, resize=False
    )
    for i, image in enumerate(images):
        values = float64_network.forward(image[None])
        whole = values["last"][0]
        for position in np.ndindex(4, 3):
            changed = whole.copy()
            changed[position] = whole.mean(axis=(0, 1))
            given = {**{n: values[n] for n in ("conv", "relu", "mixed")}, "last": changed[None]}
            drop = values["logits"] - float64_network.forward(image[None], given)["logits"]
            np.testing.assert_allclose(found[i, 0][position], drop[0, 0], atol=1e-5)


# --- Form ---------------------------------------------------------------------------------------


def test_what_is_squeezed_when(differentiable: Any, tmp_path: Path) -> None:
    """One image and one target: two axes. A list of either, or a batch: four."""
    model = differentiable()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    one = model.cam(path, "relu", "dog")
    assert (one.shape, one.dtype) == ((8, 6), np.float32)
    batch = model.preprocessing.batch([path])
    for image in (str(path), path.read_bytes(), Image.open(path), pixels, {"image": pixels}):
        np.testing.assert_array_equal(model.cam(image, "relu", "dog"), one)
    for several in ([path], batch, {"image": [pixels]}, {"image": batch}):
        np.testing.assert_array_equal(model.cam(several, "relu", "dog"), one[None, None])
    assert model.cam(path, "relu", ["dog"]).shape == (1, 1, 8, 6)
    assert model.cam(path, "relu", ["dog", "cat"]).shape == (1, 2, 8, 6)
    assert model.cam([path, pixels], "relu", "dog").shape == (2, 1, 8, 6)
    assert model.cam(path, "relu", np.ones((1, 2, 3))).shape == (1, 2, 8, 6)
    assert model.cam(path, "relu", np.ones(3)).shape == (8, 6)


def test_maps_are_resized_as_asked(differentiable: Any, images: np.ndarray) -> None:
    model = differentiable()
    own = model.cam(images, "last", 1, normalize=False, resize=False)
    assert own.shape == (3, 1, 4, 3)
    large = model.cam(images, "last", 1, normalize=False, resize=(20, 10))
    np.testing.assert_allclose(large, resize(own, (20, 10)), atol=1e-6)
    whole = model.cam(images, "last", 1, resize=[16, 12])
    np.testing.assert_allclose(whole.max(axis=(2, 3)), 1)


def test_the_last_layer_with_gradients_is_taken(differentiable: Any, images: np.ndarray) -> None:
    model = differentiable()
    np.testing.assert_array_equal(model.cam(images, target=1), model.cam(images, "last", 1))
    found = heat_maps(model, images, method="eigencam")
    assert found.layer == "last"


def test_what_else_there_is_to_know(differentiable: Any, images: np.ndarray) -> None:
    model = differentiable()
    probs = model.predict(images)
    found = heat_maps(model, images, 2, ["dog", "top"], method="Grad-CAM++")
    assert (found.method, found.layer) == ("gradcam++", "relu")
    best = probs.argmax(axis=-1)
    assert found.classes is not None
    np.testing.assert_array_equal(found.classes, np.stack([np.ones(3), best], axis=1))
    np.testing.assert_allclose(
        found.scores, np.stack([probs[:, 1], probs.max(axis=-1)], axis=1), rtol=1e-6
    )
    mixed = heat_maps(model, images, "relu", np.array([1.0, -1.0, 0.0]))
    assert mixed.classes is None
    np.testing.assert_allclose(mixed.scores[:, 0], probs[:, 0] - probs[:, 1], atol=1e-6)


def test_tokens_become_maps(images: np.ndarray) -> None:
    """A layer of (n, tokens, c), as a transformer has it, the first of them a class token."""
    model = layertap.open(token_model().SerializeToString())

    def grid(tokens: np.ndarray) -> np.ndarray:
        return tokens[:, 1:].reshape(len(tokens), 8, 6, 3)

    found = model.cam(images, "tokens", 0, method="hirescam", reshape=grid, normalize=False)
    w = onnx.numpy_helper.to_array(token_model().graph.initializer[0])
    np.testing.assert_allclose(found[:, 0], (images * w[:, 0] / 49).sum(axis=-1), atol=1e-6)
    ablated = model.cam(images, "tokens", 0, method="ablationcam", reshape=grid, normalize=False)
    assert ablated.shape == (3, 1, 8, 6)
    with pytest.raises(layertap.UsageError) as caught:
        model.cam(images, "tokens", 0)
    assert str(caught.value) == (
        "'tokens' gives maps with 1 axes, but no input has that many between batch and channels: "
        "'x' (3, 8, 6, 3). Give a function reshape= that makes maps (n, h, w, c), or "
        "resize=False."
    )
    assert model.cam(images, "tokens", 0, resize=False).shape == (3, 1, 49)


@pytest.mark.parametrize("name", ["occlusion", "rise", "reciprocam", "kernelshap"])
def test_positions_of_tokens_that_become_maps(images: np.ndarray, name: str) -> None:
    """reshape says where the values of a map are in the layer. The class token stays as it is."""
    model = layertap.open(token_model().SerializeToString())

    def grid(tokens: np.ndarray) -> np.ndarray:
        return tokens[:, 1:].reshape(len(tokens), 8, 6, -1)[:, ::-1]

    few: dict[str, Any] = {"samples": 12 if name == "rise" else None}
    found = model.cam(
        images, "tokens", 1, method=name, reshape=grid, normalize=False, resize=False, **few
    )
    w = onnx.numpy_helper.to_array(token_model().graph.initializer[0]).astype(np.float64)[:, 1]
    gains = (images[:, ::-1] @ w) / 49
    class_token = images.mean(axis=(1, 2)) @ w / 49
    if name == "rise":
        masks = RandomMasks((8, 6), (7, 6), 12, 0.5, [0, 0], smooth=True)
        drawn = np.stack([masks[k] for k in range(12)])
        scores = np.einsum("nhw,mhw->nm", gains, drawn) + class_token[:, None]
        wanted = np.einsum("nm,mhw->nhw", scores, drawn) / 6
    else:
        wanted = gains + (class_token[:, None, None] if name == "reciprocam" else 0)
    np.testing.assert_allclose(found[:, 0], wanted, atol=1e-5)
    with pytest.raises(layertap.UsageError) as caught:
        model.cam(images, "tokens", method=name, reshape=lambda values: 2 * grid(values))
    assert str(caught.value) == (
        f"{name} masks the positions of feature maps, and reshape= must not compute, only move the "
        "values of the layer to feature maps (n, h, w, c)."
    )


def test_positions_of_a_layer_with_channels_first(differentiable: Any, images: np.ndarray) -> None:
    model = differentiable(channels_first=True)
    batch = images.transpose(0, 3, 1, 2)
    for name in ("occlusion", "reciprocam"):
        wanted = model.cam(batch, "relu", 1, method=name)
        found = model.cam(
            batch, "relu", 1, method=name, reshape=lambda values: np.moveaxis(values, 1, -1)
        )
        np.testing.assert_array_equal(found, wanted)


def token_model() -> onnx.ModelProto:
    """x (n, 8, 6, 3) -> tokens (n, 49, 3), their mean before them -> mean -> scores (n, 2)."""
    rows = [
        tiny.layer(0, "x", "InputLayer", (None, 8, 6, 3)),
        tiny.layer(1, "tokens", "Concatenate", (None, 49, 3), "x"),
        tiny.layer(2, "scores", "Dense", (None, 2), "tokens"),
    ]
    nodes = [
        tiny.node("Reshape", "x shape", "places"),
        tiny.node("ReduceMean", "places axis", "class"),
        tiny.node("Concat", "class places", "tokens", axis=1),
        tiny.node("ReduceMean", "tokens axis", "mean", keepdims=0),
        tiny.node("MatMul", "mean w", "scores"),
        tiny.node("Transpose", "w", "w_t", perm=[1, 0]),
        tiny.node("MatMul", "score_weights w_t", "g_mean"),
        tiny.node("Unsqueeze", "g_mean axis", "g_token"),
        tiny.node("Div", "g_token count", "g_each"),
        tiny.node("Shape", "tokens", "tokens_shape"),
        tiny.node("Expand", "g_each tokens_shape", "grad/tokens"),
    ]
    return tiny.model(
        nodes,
        [tiny.value("x", ["batch", 8, 6, 3]), tiny.value("score_weights", ["rows", 2])],
        [
            tiny.value("scores", ["batch", 2]),
            tiny.value("tokens", ["batch", 49, 3]),
            tiny.value("grad/tokens", [None, 49, 3]),
        ],
        [
            tiny.weights("w", 3, 2),
            tiny.constant("shape", [0, -1, 3]),
            tiny.constant("axis", [1]),
            tiny.constant("count", 49, np.float32),
            tiny.constant("score_weights", np.ones((1, 2)), np.float32),
        ],
        card=tiny.card(
            rows,
            {"x": (None, 8, 6, 3)},
            {"scores": (None, 2)},
            gradients=Gradients(
                output="scores",
                score="output",
                weights="score_weights",
                tensors={"tokens": "grad/tokens"},
                broadcasts=True,
            ),
        ),
    )


def changed_card(made: onnx.ModelProto | None = None, **changes: Any) -> bytes:
    """`tiny.differentiable` with these fields of its card."""
    made = made or tiny.differentiable()
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    prop.value = replace(Card.from_json(prop.value), **changes).to_json()
    return made.SerializeToString()


# --- Runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_gradients_activations_and_outputs_take_one_run(
    differentiable: Any, images: np.ndarray, runs: Any, name: str
) -> None:
    heat_maps(differentiable(), images, "relu", 1, method=name)
    assert [sorted(run.outputs) for run in runs] == [["g_joined", "probs", "relu_nchw"]]
    del runs[:]
    heat_maps(differentiable(), images[:1], "relu", [0, 1, 2], method=name)
    assert [run.rows for run in runs] == [{"image": 1, "score_weights": 3}]


def test_methods_of_activations_run_no_gradients(
    differentiable: Any, images: np.ndarray, runs: Any
) -> None:
    heat_maps(differentiable(), images, "relu", [0, 1], method="eigencam")
    assert [run.rows for run in runs] == [{"image": 3}]


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layer": "pool"},
            "the model has no gradient for 'pool', only for 'conv', 'image', 'last', 'mixed', "
            "'relu'. `layertap gradients FILE.onnx --layers pool -o NEW.onnx` writes a file with "
            "it.",
        ),
        (
            {"layer": "pool", "method": "eigencam"},
            "a heat map needs a layer with feature maps, (n, h, w, c), but 'pool' gives (3, 5).",
        ),
        (
            {"layer": "pool", "method": "occlusion"},
            "a heat map needs a layer with feature maps, (n, h, w, c), but 'pool' gives (3, 5).",
        ),
        (
            {"layer": "last", "method": "occlusion", "window": 4},
            "window must be at most 4 x 3 for 'last', which has 4 x 3 positions, got 4 x 4.",
        ),
        (
            {"layer": "last", "method": "kernelshap", "baseline": np.zeros(7)},
            "the baseline has shape (7,), but 'last' has shape (3, 4, 3, 5). Give a number, one "
            "sample, or one sample for each.",
        ),
        ({"window": 2}, "window is for the methods occlusion, kernelshap, got gradcam."),
        (
            {"baseline": 1.0},
            "baseline is for the methods occlusion, rise, reciprocam, kernelshap, got gradcam.",
        ),
        ({"seed": -1}, "seed must be at least 0, got -1."),
        ({"mask": "imput"}, "mask must be 'layer' or 'input', got 'imput'. Did you mean 'input'?"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0."),
        ({"channels": 0}, "channels must be at least 1, got 0."),
        ({"resize": (5,)}, "resize must be True, False or (height, width), got (5,)."),
        ({"resize": (5, 0)}, "each size in resize must be at least 1, got 0."),
    ],
)
def test_invalid_arguments_are_refused(
    differentiable: Any, images: np.ndarray, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(layertap.LayertapError) as caught:
        differentiable().cam(images, **{"layer": "last", "target": 0, **arguments})
    assert str(caught.value) == message


def test_a_layer_must_be_named_where_there_are_no_gradients(
    tiny_file: TinyFile, images: np.ndarray
) -> None:
    path = tiny_file("image_classifier")
    with pytest.raises(layertap.UsageError) as caught:
        layertap.open(path).cam(images, method="eigencam")
    assert str(caught.value) == (
        f"give a layer: '{path}' has no gradients to choose one by. The last one with feature "
        "maps is 'drop'."
    )


def test_gradients_of_another_output(images: np.ndarray) -> None:
    pool = TensorInfo(name="pool", shape=(None, 5), dtype="float32")
    probs = TensorInfo(name="probs", shape=(None, 3), dtype="float32")
    model = layertap.open(changed_card(outputs=(probs, pool)))
    with pytest.raises(layertap.UsageError) as caught:
        model.cam(images, "relu", 0, output="pool")
    assert str(caught.value) == ("the model has gradients of the scores of 'probs', not of 'pool'.")
    found = heat_maps(model, images, "relu", 4, method="scorecam", output="pool")
    np.testing.assert_allclose(
        found.scores[:, 0], float64_network.forward(images)["pool"][:, 4], rtol=1e-5
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    """A map or a score then says NaN or infinity, and numpy does not warn (a test error here)."""
    made = tiny.differentiable()
    for item in made.graph.initializer:
        if item.name in ("kernel", "dense"):
            weights = onnx.numpy_helper.to_array(item).copy()
            weights.flat[0] = value
            item.CopyFrom(onnx.numpy_helper.from_array(weights, item.name))
    onnx.save(made, tmp_path / "m.onnx")
    model = layertap.open(tmp_path / "m.onnx")
    x = np.ones((1, 8, 6, 3), np.float32)
    large = np.array([1, -1, 3e38], np.float32)
    for method in METHODS:
        for layer in ("relu", "last"):
            for target in (0, large) if METHODS[method].takes else ("top",):
                assert model.cam(x, layer, target, method=method).shape[-2:] == (8, 6)
    assert model.attribute(x, target=large).shape[-3:] == (8, 6, 3)


def test_a_target_without_a_meaning_is_warned_of(tiny_file: TinyFile) -> None:
    """The maps of these methods are the same for every class."""
    model = layertap.open(tiny_file("differentiable"))
    image = tiny.images(1)
    expected = model.cam(image, "conv", method="eigencam")
    for target in (1, ["top"], [0, 1], "all", np.ones((1, 3), np.float32)):
        meant = isinstance(target, list) and target == ["top"]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            maps = model.cam(image, "conv", target, method="eigencam")
        text = (
            "target is for methods that explain a class; the map of eigencam is the same for every "
            "class. Leave out target."
        )
        assert [str(one.message) for one in caught] == ([] if meant else [text])
        assert meant or caught[0].filename == __file__
        np.testing.assert_array_equal(maps.reshape(-1, *expected.shape[-2:])[0], expected[0, 0])


def test_last_conv(tiny_file: TinyFile) -> None:
    """The last layer with feature maps, as in an export. A layer that has this name wins."""
    model = layertap.open(tiny_file("differentiable"))
    image = tiny.images(1)
    for method in ("gradcam", "eigencam"):
        expected = model.cam(image, "last", method=method)
        np.testing.assert_array_equal(model.cam(image, "last-conv", method=method), expected)
    for name in ("lastconv", "last_conv", "Last-Conv", "last conv"):
        with pytest.raises(layertap.LayerNotFoundError, match=r"Did you mean 'last-conv'\?"):
            model.cam(image, name)
    flat = layertap.open(tiny_file("linear_chain"))
    with pytest.raises(layertap.LayerNotFoundError, match="no layer with feature maps, so no"):
        flat.cam(np.ones((1, 4), np.float32), "last-conv", method="eigencam")


@pytest.mark.parametrize("removed", [False, True], ids=["a constant", "removed"])
def test_weights_of_classes_that_are_no_input_any_more(removed: bool, tmp_path: Path) -> None:
    """As OpenVINO, onnxsim and onnxslim write them: the message says so."""
    made = tiny.differentiable()
    (optional,) = (x for x in made.graph.input if x.name == "score_weights")
    made.graph.input.remove(optional)
    if removed:
        (weights,) = (x for x in made.graph.initializer if x.name == "score_weights")
        made.graph.initializer.remove(weights)
        constant = tiny.node("Constant", "", "score_weights")
        constant.attribute.append(onnx.helper.make_attribute("value", weights))
        made.graph.node.insert(0, constant)
    model = layertap.open(tiny.save(made, tmp_path / "constant.onnx"))
    calls: list[Callable[[Any], object]] = [
        model.gradients,
        lambda x: model.cam(x, "conv"),
        model.attribute,
    ]
    for call in calls:
        with pytest.raises(layertap.ModelFileError) as caught:
            call(tiny.images(1))
        text = str(caught.value)
        assert "'score_weights', the weights of the classes, is no input of the graph" in text
        assert "--class-input required" in text
        assert "`layertap gradients " in text


# --- Scores that do not depend on the layer -------------------------------------------------------


@pytest.mark.parametrize(
    "name", [n for n, m in METHODS.items() if m.takes in ("masked", "ablated", "positions")]
)
@pytest.mark.parametrize("resize", [True, False])
def test_a_layer_that_the_scores_do_not_depend_on(name: str, resize: bool) -> None:
    made = tiny.image_classifier()
    made.graph.node.append(tiny.node("Sigmoid", "conv", "aside"))
    made.graph.output.append(tiny.value("aside", ["batch", 8, 6, 4]))
    card = Card.from_json(made.metadata_props[0].value)
    aside = replace(card.layers[1], name="aside", tensor="aside", index=len(card.layers))
    made.metadata_props[0].value = replace(card, layers=(*card.layers, aside)).to_json()
    model = layertap.open(made.SerializeToString())
    images = np.random.default_rng(0).random((2, 8, 6, 3)).astype(np.float32)
    said = "^the scores do not depend on 'aside': its heat maps are 0.$"
    with pytest.warns(LayertapWarning, match=said) as warned:
        maps = model.cam(images, "aside", [0, 1], method=name, resize=resize)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert maps.shape == (2, 2, 8, 6)
    assert not maps.any()
