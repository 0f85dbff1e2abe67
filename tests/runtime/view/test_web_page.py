"""Pages for the browser: what is in them, that it is exact, and that it stays text."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import layertap
from generators import tiny
from layertap.cam import heat_maps
from layertap.errors import (
    ImageError,
    LayerNotFoundError,
    ModelFileError,
    OutputError,
    UsageError,
)
from layertap.format.card import KEY, Card, LayerCheck, Verification
from layertap.view.html_page import SCRIPTS, as_json, html_page, part
from layertap.view.values import block_means
from web_pages import WebPage, colours, contrast


@pytest.fixture
def model() -> layertap.Model:
    """Layers image, conv, relu, mixed, last, pool, probs, with gradients; cat, dog, bird."""
    return layertap.open(tiny.differentiable().SerializeToString())


@pytest.fixture
def images() -> np.ndarray:
    return tiny.images(3)


def page_of(model: layertap.Model, inputs: Any, path: Path, **options: Any) -> WebPage:
    """The page, which is also in the file."""
    model.view(inputs, path, **options)
    return WebPage(path.read_bytes())


# --- What is in a page ------------------------------------------------------------------------


def test_maps_are_those_of_python(
    model: layertap.Model, images: np.ndarray, tmp_path: Path
) -> None:
    """Every value within half a level; the channels are the strongest over all samples."""
    page = page_of(model, images, tmp_path / "a.html")
    for name in ("conv", "relu", "last"):
        expected = model.activations(images, name)
        strength = np.abs(expected).mean(axis=(0, 1, 2), dtype=np.float64)
        for sample in range(3):
            channels, values, off = page.maps(name, sample)
            assert channels == np.argsort(-strength, kind="stable").tolist()
            wanted = np.moveaxis(expected[sample], -1, 0)[channels]
            assert (np.abs(values - wanted) <= off * (1 + 1e-9)).all()
            stats = page.layer(name)["maps"]["samples"][sample]["stats"]
            assert stats["low"] == float(expected[sample].min())
            assert stats["high"] == float(expected[sample].max())
            assert stats["zeros"] == int((expected[sample] == 0).sum())


def test_vectors_and_scores_are_stored_as_they_are(
    model: layertap.Model, images: np.ndarray, tmp_path: Path
) -> None:
    page = page_of(model, images, tmp_path / "a.html")
    found = [np.frombuffer(data, "<f4") for data in page.parts("pool")]
    np.testing.assert_array_equal(found, model.activations(images, "pool"))
    np.testing.assert_array_equal(page.scores(), model.predict(images))
    assert page.data["scores"][0]["labels"] is True
    assert page.data["labels"] == list(model.labels or ())


def test_heat_maps_are_those_of_cam_before_they_are_finished(
    model: layertap.Model, images: np.ndarray, tmp_path: Path
) -> None:
    methods = ["gradcam", "layercam", "scorecam", "eigencam"]
    options: dict[str, Any] = {"cam_layer": "relu", "target": ["dog", 0]}
    page = page_of(model, images, tmp_path / "a.html", methods=methods, **options)
    heat = page.data["heat"]
    assert (heat["layer"], heat["classes"], heat["labels"]) == ("relu", [1, 0], True)
    for one in heat["methods"]:
        targets = ["dog", 0] if one["byClass"] else "top"
        expected = heat_maps(
            model, images, "relu", targets, method=one["name"], normalize=False, resize=False
        ).maps
        np.testing.assert_allclose(page.heat_maps(one["name"]), expected, rtol=2e-5, atol=1e-6)


def test_the_default_classes_are_the_best_of_each_sample(
    model: layertap.Model, images: np.ndarray, tmp_path: Path
) -> None:
    page = page_of(model, images, tmp_path / "a.html")
    best = set(model.predict(images).argmax(axis=1).tolist())
    assert best <= set(page.data["heat"]["classes"])
    assert len(page.data["heat"]["classes"]) == 3
    names = [one["name"] for one in page.data["heat"]["methods"]]
    assert names == ["gradcam", "layercam", "hirescam", "eigencam"]


def test_all_classes_can_be_asked_for(model: layertap.Model, tmp_path: Path) -> None:
    page = page_of(model, tiny.images(1), tmp_path / "a.html", target="all")
    assert page.data["heat"]["classes"] == [0, 1, 2]
    top = page_of(model, tiny.images(3), tmp_path / "a.html", target="top")
    best = model.predict(tiny.images(3)).argmax(axis=1)
    assert sorted(top.data["heat"]["classes"]) == sorted({*best.tolist()})


def test_large_maps_are_means_of_blocks(tmp_path: Path) -> None:
    """A page of 1 MB: the sizes of blocks are in it, and the means are those of Python."""
    model = layertap.open(tiny.image_classifier(None, None).SerializeToString())
    images = np.random.default_rng(0).random((2, 600, 500, 3)).astype(np.float32)
    left_out = model.view(images, tmp_path / "a.html", ["conv", "relu"], max_mb=1, channels=3)
    data = (tmp_path / "a.html").read_bytes()
    page = WebPage(data)
    assert len(data) <= 1e6
    step = page.layer("conv")["maps"]["samples"][0]["step"]
    assert step > 1
    channels, values, off = page.maps("conv", 1)
    wanted = np.moveaxis(model.activations(images, "conv")[1], -1, 0)[channels]
    assert (np.abs(values - block_means(wanted, step)) <= off * (1 + 1e-9)).all()
    assert any("full resolution of 2 layers" in text for text in left_out)
    assert any("some channels of 2 layers" in text for text in left_out)
    assert page.data["leftOut"] == list(left_out)


def test_pages_stay_below_their_size(tmp_path: Path) -> None:
    """Noise, which cannot be compressed, and many samples."""
    model = layertap.open(tiny.image_classifier(None, None).SerializeToString())
    images = np.random.default_rng(0).random((12, 90, 120, 3)).astype(np.float32)
    for most in (1, 2):
        model.view(images, tmp_path / "a.html", max_mb=most)
        assert 0.4e6 * most < (tmp_path / "a.html").stat().st_size <= 1e6 * most


def test_images_are_read_by_the_recipe(tmp_path: Path) -> None:
    """Their pictures have the size that the model sees; only the names of files are in the page."""
    model = layertap.open(tiny.image_classifier().SerializeToString())
    folder = tmp_path / "secret folder"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    page = page_of(model, [folder / "a.png", pixels], tmp_path / "a.html")
    first, second = page.data["samples"]
    assert (first["name"], first["width"], first["height"]) == ("a.png", 6, 8)
    assert (second["name"], first["origin"]) == ("image array", "image")
    np.testing.assert_array_equal(page.scores()[0], model.predict([folder / "a.png"])[0])
    assert b"secret" not in (tmp_path / "a.html").read_bytes()
    same = page_of(model, folder, tmp_path / "b.html", layers=["relu"])
    assert same.data["samples"] == [first]
    other = {"size": [8, 6], "scaling": {"mode": "rescale", "scale": 0.5}}
    changed = page_of(model, folder / "a.png", tmp_path / "c.html", preprocess=other)
    expected = model.predict(folder / "a.png", other)
    np.testing.assert_array_equal(changed.scores(), expected)


def test_names_of_images_tell_them_apart(tmp_path: Path) -> None:
    model = layertap.open(tiny.image_classifier().SerializeToString())
    for folder in ("p1", "p2"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (6, 8)).save(tmp_path / folder / "a.png")
    page = page_of(model, tmp_path, tmp_path / "a.html")
    assert [one["name"] for one in page.data["samples"]] == ["p1/a.png", "p2/a.png"]


def test_inputs_that_are_no_pictures_are_words_or_numbers(tmp_path: Path) -> None:
    model = layertap.open(tiny.linear_chain().SerializeToString())
    batch = np.array([[1, 2, 30, 4], [0.5, 1, 2, 3]], np.float32)
    page = page_of(model, batch, tmp_path / "a.html")
    assert [one["items"] for one in page.data["samples"]] == [
        ["1", "2", "30", "4"],
        [0.5, 1, 2, 3],
    ]


def test_the_first_input_that_can_be_drawn_is(tmp_path: Path) -> None:
    """A sequence before a vector: the heat map is one of its positions."""
    arrays = {"frames": np.ones((2, 3, 4), np.float32), "bias": np.ones((2, 4), np.float32)}
    frames = tiny.frames()
    page = page_of(layertap.open(frames.SerializeToString()), arrays, tmp_path / "page.html")
    assert page.layer("frames")["maps"]["samples"][0]["shape"] == [4, 3]
    assert [sample.keys() & {"items", "picture"} for sample in page.data["samples"]] == [set()] * 2


def test_a_page_without_samples(model: layertap.Model, tmp_path: Path) -> None:
    page = page_of(model, None, tmp_path / "a.html")
    assert [row["name"] for row in page.data["layers"]] == [x.name for x in model.layers]
    assert (page.data["samples"], page.data["scores"], page.data["heat"]) == ([], None, None)
    assert page.blocks == []
    assert model.view([], tmp_path / "b.html") == ()


@pytest.mark.parametrize(
    "name",
    ["linear_chain", "two_inputs", "residual", "branching", "looping", "odd_types", "quantised",
     "channels_first", "frames", "constant_outputs", "optional_input", "listed_weights", "leaves"],
)  # fmt: skip
def test_models_of_every_kind_have_a_page(name: str, tmp_path: Path) -> None:
    made: onnx.ModelProto = getattr(tiny, name)()
    model = layertap.open(made.SerializeToString())
    page = page_of(model, tiny.feeds(made), tmp_path / "a.html")
    stored = [row["name"] for row in page.data["layers"] if "maps" in row]
    assert stored
    for row in page.data["layers"]:
        if "block" in row.get("maps", {}):
            assert sum(map(len, page.parts(row["name"]))) > 0


def test_the_verification_and_the_card(tmp_path: Path) -> None:
    made = tiny.differentiable()
    (item,) = [item for item in made.metadata_props if item.key == KEY]
    checks = {"conv": LayerCheck(max_abs=1e-5, scaled=2e-6), "grad/x": LayerCheck(0.5, 1e-5)}
    verification = Verification(
        tolerance=1e-4, batches=("2 x 8 x 6 x 3, seeded",), onnxruntime="1.30", layers=checks
    )
    card = replace(Card.from_json(item.value), verification=verification, notes=("a note",))
    item.value = card.to_json()
    page = page_of(layertap.open(made.SerializeToString()), None, tmp_path / "a.html")
    assert page.layer("conv")["error"] == 2e-6
    assert "error" not in page.layer("relu")
    found = page.data["verification"]
    assert (found["tolerance"], found["largest"], found["reference"]) == (1e-4, 1e-5, "Keras")
    assert [one["name"] for one in found["others"]] == ["grad/x"]
    assert ["note", "a note"] in page.data["facts"]


def test_same_input_same_bytes(model: layertap.Model, images: np.ndarray, tmp_path: Path) -> None:
    model.view(images, tmp_path / "a.html")
    model.view(images, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


# --- Nothing that a file says becomes a part of the page --------------------------------------

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'`${alert(1)}\\",
    "</title></style>{{script}}",
    "<!--<script>]]>",
    "a\u202eb\u2028c\n\0d",
)


def elements(page: WebPage) -> list[tuple[str, dict[str, str | None]]]:
    """The tags, without the policy and the data, which depend on the contents."""
    return [(tag, kept) for tag, kept in page.tags if kept.get("http-equiv") is None]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(st.lists(st.sampled_from(HOSTILE) | st.text(min_size=1), min_size=6, max_size=6))
def test_names_are_data_whatever_they_are(tmp_path: Path, names: list[str]) -> None:
    made = tiny.image_classifier()
    (item,) = [item for item in made.metadata_props if item.key == KEY]
    card = Card.from_json(item.value)
    texts = [f"{at}{name.encode(errors='replace').decode()}" for at, name in enumerate(names)]
    layers = [replace(row, name=texts[at % 3], inbound=()) for at, row in enumerate(card.layers)]
    card = replace(
        card,
        layers=tuple({row.name: row for row in layers}.values()),
        labels=(texts[3], texts[4]),
        source=replace(card.source, model=texts[5]),
        notes=tuple(texts),
    )
    item.value = card.to_json()
    model = layertap.open(made.SerializeToString())
    page = page_of(model, tiny.images(1), tmp_path / "a.html")
    plain = page_of(
        layertap.open(tiny.image_classifier().SerializeToString()),
        tiny.images(1),
        tmp_path / "b.html",
    )
    ours = [one for one in elements(page) if not str(one[1].get("id")).startswith("block")]
    theirs = [one for one in elements(plain) if not str(one[1].get("id")).startswith("block")]
    assert ours == theirs
    assert page.scripts[-1] == plain.scripts[-1]
    assert page.data["labels"] == [label for label in page.data["labels"] if label.isprintable()]
    assert len(page.data["layers"]) == len(model.layers)


def test_json_cannot_end_its_element() -> None:
    text = as_json({"a": "</script><!--&\u2028\ud800"})
    assert text.isascii()
    assert not set("<>&") & set(text)


def test_the_template_is_not_searched_in_what_it_is_filled_with() -> None:
    html = html_page("{{script}}{{data}}", {"a": "{{blocks}}"}, [b"{{style}}"])
    page = html.decode()
    assert page.count("<title>{{script}}{{data}}</title>") == 1
    assert '"{{blocks}}"' in page
    assert page.count("<style>") == 1


def test_the_policy_allows_the_page_itself_and_no_address(
    model: layertap.Model, tmp_path: Path
) -> None:
    page = page_of(model, tiny.images(1), tmp_path / "a.html")
    (policy,) = [kept["content"] for tag, kept in page.tags if kept.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    script = page.scripts[-1][1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert re.findall(r"https?:|//[a-z]+\.[a-z]", re.sub(r"base64,[\w+/=]*", "", text)) == []
    assert not any(kept.get("src") or kept.get("style") for _, kept in page.tags)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_make_no_html(name: str) -> None:
    text = part(f"{name}.js")
    banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|</"
    assert re.findall(banned, text.replace("`</", "")) == []
    assert re.findall(r"\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(", text) == []


@pytest.mark.parametrize("dark", [False, True])
def test_texts_have_contrast(dark: bool) -> None:
    known = colours(part("palette.css"), dark=dark)
    texts, grounds = ("--ink", "--soft", "--accent", "--warn"), ("--paper", "--panel", "--tint")
    found = {(a, b): contrast(known[a], known[b]) for a in texts for b in grounds}
    assert min(found.values()) >= 4.5, found


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layers": "rellu"}, LayerNotFoundError, "Did you mean 'relu'"),
        ({"methods": ["leyercam"]}, UsageError, "layercam"),
        ({"methods": []}, UsageError, "no methods are given"),
        ({"target": "dgo"}, UsageError, "Did you mean 'dog'"),
        ({"target": np.ones(3, np.float32)}, UsageError, "labels or indices, not weights"),
        ({"cam_layer": "pool"}, (UsageError, LayerNotFoundError), "pool"),
        ({"top": 0}, UsageError, "top must be at least 1, got 0."),
        ({"channels": 1.5}, UsageError, "channels must be an integer"),
        ({"max_mb": 0}, UsageError, "max_mb must be a finite number of at least 1, got 0."),
    ],
)
def test_invalid_options_say_so(
    model: layertap.Model, tmp_path: Path, options: dict[str, Any], error: Any, words: str
) -> None:
    with pytest.raises(error) as caught:
        model.view(tiny.images(1), tmp_path / "a.html", **options)
    assert words in str(caught.value)
    assert not (tmp_path / "a.html").exists()


def test_what_cannot_be_written_or_read(
    model: layertap.Model, tmp_path: Path, tiny_file: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match=r"\.html"):
        model.view(None, tmp_path / "page.onnx")
    with pytest.raises(OutputError):
        model.view(None, tmp_path / "missing" / "a.html")
    plain = layertap.open(tiny_file("image_classifier"))
    with pytest.raises(ImageError, match="no such file"):
        plain.view("gone.png", tmp_path / "a.html")
    with pytest.raises(ModelFileError, match="no gradients"):
        plain.view(tiny.images(1), tmp_path / "a.html", methods="gradcam")
    assert list(tmp_path.iterdir()) == []
