"""Pictures of heat maps and attributions: `Model.picture` and `Model.sheet`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import layertap
from generators import float64_network, tiny
from layertap.cam import resize
from layertap.errors import InputError, LayertapError, LayertapWarning, UsageError
from layertap.view.colormaps import shades
from layertap.view.explained import attributed
from layertap.view.overlays import overlay

pytestmark = pytest.mark.filterwarnings("ignore:input .* the batch has values from")

CLASSES = np.eye(3)


@pytest.fixture(scope="module")
def model() -> layertap.Model:
    """Images (8, 6) -> conv -> relu -> mixed -> last; cat, dog, bird; a recipe of that size."""
    return layertap.open(tiny.differentiable().SerializeToString())


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_an_overlay_is_the_map_over_the_image(model: layertap.Model, image: np.ndarray) -> None:
    """With the size of the image, beside the formula in float64."""
    found = model.picture(image, "relu", "dog", show="overlay")
    assert (found.mode, found.size) == ("RGB", (60, 40))
    heat = resize(model.cam(image, "relu", "dog"), (40, 60)).astype(np.float64)
    colors = shades("jet")[np.minimum((heat * 256).astype(int), 255)]
    apart = np.abs(np.asarray(found) - (0.5 * image + 0.5 * colors))
    assert np.quantile(apart, 0.99) <= 0.5  # the rest lies at the edge between two colours
    assert apart.max() <= 3


@pytest.mark.parametrize("geometry", [{"keep_aspect_ratio": True}, {"shorter_side": 10}])
def test_what_the_model_did_not_see_stays_clear(
    model: layertap.Model, geometry: dict[str, Any]
) -> None:
    image = np.full((20, 80, 3), 200, np.uint8)
    recipe = {"size": [8, 6], "interpolation": "bilinear", **geometry}
    found = model.picture(image, method="eigencam", show="overlay", preprocess=recipe, alpha=1)
    touched = np.flatnonzero((np.asarray(found) != 200).any(axis=(0, 2)))
    seen = []  # columns that change what the model is given
    for column in range(80):
        other = image.copy()
        other[:, column] = 0
        read = layertap.load_image(other, size=(8, 6), interpolation="bilinear", **geometry)
        seen.append((read != 200).any())
    columns = np.flatnonzero(seen)
    assert columns[0] <= touched[0] <= columns[0] + 4  # the filter reads beyond the edge
    assert columns[-1] - 4 <= touched[-1] <= columns[-1]


def test_a_padded_image_has_the_inner_part_of_the_map(model: layertap.Model) -> None:
    image = np.full((16, 60, 3), 200, np.uint8)
    recipe = {"size": [8, 6], "shorter_side": 4, "interpolation": "bilinear"}
    found = model.picture(image, method="eigencam", show="overlay", preprocess=recipe, alpha=1)
    heat = model.cam(image, method="eigencam", preprocess=recipe)
    # 4 of the 8 rows of the map are the image, between 2 of padding on each side.
    columns = np.flatnonzero((np.asarray(found) != 200).any(axis=(0, 2)))
    assert (len(columns), columns[0]) == (24, 16)  # 6 of 15 columns, from the fifth on
    large = overlay(np.zeros((32, 24), np.uint8), heat, alpha=1)
    np.testing.assert_array_equal(np.asarray(found)[:, 16:40], np.asarray(large)[8:24])


@pytest.mark.parametrize("method", ["input_x_gradient", "saliency"])
def test_an_attribution_has_the_sign_of_the_float64_network(
    model: layertap.Model, method: str
) -> None:
    """Red where pixels speak for the class, blue where they speak against it."""
    batch = np.random.default_rng(1).normal(size=(1, 8, 6, 3)).astype(np.float32)
    found = model.picture(batch, target="dog", method=method, show="map")
    pixels = np.asarray(found).astype(int)
    gradient = float64_network.gradient(batch[0], "image", CLASSES[1])
    if method == "saliency":
        size = np.abs(gradient).max(axis=-1)
        limit = np.percentile(size, 99)
        colors = shades("jet")[np.minimum((size / limit * 256).astype(int), 255)]
    else:
        size = (gradient * batch[0]).sum(axis=-1)
        limit = np.percentile(np.abs(size), 99)
        share = np.clip(size / limit, -1, 1)
        colors = shades("RdBu_r")[np.minimum(((share + 1) * 128).astype(int), 255)]
        strong = np.abs(share) > 0.5
        assert ((pixels[..., 0] > pixels[..., 2]) == (size > 0))[strong].all()
    assert np.abs(pixels - colors.astype(int)).max() <= 6  # a neighbouring colour


@pytest.mark.parametrize("layer", [None, "last"])
def test_masked_positions_of_the_image_and_of_a_layer(
    model: layertap.Model, layer: str | None
) -> None:
    """An attribution with a sign, of which every channel has the value; a heat map of the layer."""
    batch = np.random.default_rng(1).normal(size=(1, 8, 6, 3)).astype(np.float32)
    found = model.picture(
        batch, layer, "dog", method="occlusion", show="map", window=2, percentile=100
    )
    if layer is None:
        values = model.attribute(batch, "occlusion", "dog", window=2)[0][..., 0]
        share = values / np.abs(values).max()
        colors = shades("RdBu_r")[np.minimum(((share + 1) * 128).astype(int), 255)]
    else:
        values = model.cam(batch, layer, "dog", method="occlusion", window=2)[0, 0]
        colors = shades("jet")[np.minimum((values * 256).astype(int), 255)]
    assert np.abs(np.asarray(found).astype(int) - colors.astype(int)).max() <= 6


def test_captions_say_method_layer_class_and_score(model: layertap.Model) -> None:
    x = tiny.images(1)
    score = model.predict(x)[0, 1]
    found = attributed(model._program, x, "saliency", "dog", options={}).samples[0]
    assert found.about == f"saliency at image: dog, score {score:.3f}"
    assert found.titles == [f"dog {score:.3f}"]


def test_a_figure_has_a_part_for_each_target(model: layertap.Model, image: np.ndarray) -> None:
    one = model.picture(image, "relu", "dog")
    three = model.picture(image, "relu", ["dog", "cat", "bird"])
    step = 300 + 8  # an enlarged image, and the margin
    assert three.width - one.width == 2 * step
    assert model.picture(image, "relu", "dog", original=False).width == one.width - step
    assert model.picture(image, "relu", "dog", bar=False).width == 2 * step + 8
    plain = model.picture(image, "relu", "dog", caption="")
    assert plain.height < one.height
    below = np.asarray(one)[plain.height :]
    assert (below < 128).any()  # the caption
    folded = model.picture(image, "relu", ["dog", "cat", "bird"], columns=2)
    assert folded.width == one.width
    assert folded.height > 1.8 * plain.height


@pytest.mark.parametrize("width", [400, 777, 2500])
def test_a_picture_has_the_width_that_was_asked_for(
    model: layertap.Model, image: np.ndarray, width: int
) -> None:
    for options in ({}, {"show": "overlay"}, {"show": "map"}, {"target": ["dog", "cat"]}):
        assert model.picture(image, "relu", width=width, **options).width == width


def test_an_array_that_is_ready_needs_the_image(model: layertap.Model, image: np.ndarray) -> None:
    recipe = layertap.Preprocessing(size=(8, 6))
    batch = recipe.batch([image])
    over = model.picture(batch, "relu", "dog", image=image, show="overlay")
    assert over.size == (60, 40)
    assert model.picture(batch, "relu", "dog", show="map").size == (6, 8)
    alone, with_image = (model.picture(batch, "relu", "dog", image=x) for x in (None, image))
    assert alone.width < with_image.width
    with pytest.raises(UsageError, match=r"^show=\"overlay\" needs the image: an input that is"):
        model.picture(batch, "relu", "dog", show="overlay")


def test_an_image_in_any_form(model: layertap.Model, image: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    forms = [image, Image.fromarray(image), tmp_path / "a.png", (tmp_path / "a.png").read_bytes(),
             [image], {"image": image}]  # fmt: skip
    pictures = [model.picture(form, "relu", "dog").tobytes() for form in forms]
    assert pictures == [pictures[0]] * len(forms)
    sheets = [model.sheet(form, "conv").tobytes() for form in forms]
    assert sheets == [sheets[0]] * len(forms)


def test_a_sheet_has_the_maps_of_the_layer(model: layertap.Model, image: np.ndarray) -> None:
    maps = model.activations(image, "conv")[0]
    sheet = model.sheet(image, "conv", channels=[2], original=False, tile=80, caption="")
    pixels = np.asarray(sheet)[8 + 18 : 8 + 18 + 80, 8 : 8 + 60, 0]
    values = (maps[..., 2] - maps[..., 2].min()) / np.ptp(maps[..., 2])
    np.testing.assert_allclose(pixels[5::10, 5::10], np.round(values * 255), atol=1)
    first = tiny.differentiable(channels_first=True).SerializeToString()
    turned = layertap.open(first).sheet(image, "conv", channels=[2], original=False, tile=80,
                                        caption="")  # fmt: skip
    assert turned.size == sheet.size


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda m, x: m.picture([x, x], "relu"),
            "a picture shows one sample, got 2. Call picture for each of them.",
        ),
        (
            lambda m, x: m.picture(x, "relu", ["dog", "cat"], show="overlay"),
            'show="overlay" draws one map, got 2 targets. Give one target, or show="figure".',
        ),
        (
            lambda m, x: m.picture(x, "relu", method="saliency"),
            "saliency is an attribution to the input. Leave out the layer.",
        ),
        (lambda m, x: m.picture(x, "relu", alpha=2), "alpha must be between 0 and 1, got 2."),
        (
            lambda m, x: m.picture(x, "relu", percentile=0),
            "percentile must be above 0 and at most 100, got 0.",
        ),
        (
            lambda m, x: m.picture(x, "relu", width=50),
            "a width of 50 pixels leaves no room for 2 pictures in a row. Give a larger width or "
            "resolution, or fewer pictures.",
        ),
        (
            lambda m, x: m.picture(x, "relu", opacity="hot"),
            "opacity must be 'fixed' or 'heat', got 'hot'. Did you mean 'heat'?",
        ),
        (
            lambda m, x: m.sheet([x, x], "relu"),
            "a sheet shows one sample, got 2. Call sheet for each of them.",
        ),
        (
            lambda m, x: m.sheet(x, "pool"),
            "a sheet shows feature maps, which have four axes: samples, height, width and "
            "channels. pool has the shape (1, 5).",
        ),
        (
            lambda m, x: m.sheet(x, "conv", channels=[4]),
            "channel 4 does not exist: the layer has 4, 0 to 3.",
        ),
    ],
)
def test_bad_requests_are_errors_in_words(
    model: layertap.Model, image: np.ndarray, call: Any, words: str
) -> None:
    with pytest.raises(LayertapError) as caught:
        call(model, image)
    assert isinstance(caught.value, (UsageError, InputError))
    assert str(caught.value) == words


def test_a_character_that_the_font_lacks_is_named(model: layertap.Model, image: np.ndarray) -> None:
    with pytest.warns(LayertapWarning) as caught:
        model.picture(image, "relu", "dog", caption="Herz 心臓 ÄØ")
    assert str(caught[0].message) == (
        "The font of Pillow lacks '心', '臓': '?' is drawn instead. Give a font file that has "
        "these characters, with font= or --font."
    )
    assert caught[0].filename == __file__
