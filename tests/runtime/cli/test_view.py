"""`layertap view`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap as api
from generators import tiny
from layertap_export import finish
from shell import layertap
from web_pages import WebPage


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.save(tiny.differentiable(), tmp_path / "model.onnx")


def test_the_page_is_that_of_the_model(file: Path, pictures: Path) -> None:
    done = layertap("view", file, "pictures", "-o", "page.html")
    assert (done.code, done.out) == (0, "")
    first, *rest = done.err.splitlines()
    assert re.fullmatch(r"wrote page\.html \(0\.\d MB\): 5 images, \d of 7 layers", first)
    left_out = api.open(file).view("pictures", "other.html")
    assert Path("page.html").read_bytes() == Path("other.html").read_bytes()
    assert rest == [f"left out: {text}." for text in left_out]


def test_options_choose_what_is_in_the_page(file: Path, pictures: Path) -> None:
    options = ["--layers", "relu", "pool", "--channels", "2", "--target", "dog", "0", "--top", "1"]
    options += ["--methods", "layercam", "--cam-layer", "relu", "--max-mb", "2"]
    done = layertap("view", file, "pictures/a.png", "-o", "page.html", *options)
    assert done.code == 0
    page = WebPage(Path("page.html").read_bytes())
    assert [row["name"] for row in page.data["layers"] if "maps" in row] == ["relu", "pool"]
    assert page.layer("relu")["maps"]["samples"][0]["count"] == 2
    heat = page.data["heat"]
    assert (heat["layer"], heat["classes"], page.data["top"]) == ("relu", [1, 0], 1)
    assert [method["name"] for method in heat["methods"]] == ["layercam"]
    typed = layertap("view", file, "pictures/a.png", "-o", "typed.html", "--type", "ReLU")
    assert typed.code == 0
    rows = WebPage(Path("typed.html").read_bytes()).data["layers"]
    assert {row["type"] for row in rows if "maps" in row} == {"ReLU"}


def test_a_ready_batch_and_no_images(file: Path, pictures: Path) -> None:
    np.save("batch.npy", tiny.images(2))
    assert layertap("view", file, "batch.npy", "-o", "page.html").code == 0
    page = WebPage(Path("page.html").read_bytes())
    assert [one["name"] for one in page.data["samples"]] == ["sample 0", "sample 1"]
    assert {one["origin"] for one in page.data["samples"]} == {"input"}
    np.testing.assert_array_equal(page.scores(), api.open(file).predict(tiny.images(2)))
    none = layertap("view", file, "-o", "none.html")
    assert (none.code, none.err) == (0, "wrote none.html (0.1 MB): 7 layers\n")


def test_an_image_that_cannot_be_read_does_not_stop_the_others(file: Path, pictures: Path) -> None:
    Path("bad.png").write_bytes(b"no image")
    done = layertap("view", file, "bad.png", "pictures/a.png", "-o", "page.html")
    assert done.code == 1
    assert "bad.png" in done.err
    assert len(WebPage(Path("page.html").read_bytes()).data["samples"]) == 1
    alone = layertap("view", file, "bad.png", "-o", "alone.html")
    assert (alone.code, Path("alone.html").exists()) == (2, False)


def test_a_recipe_instead_of_the_cards(tmp_path: Path, pictures: Path) -> None:
    """Without a warning of values that the card's recipe cannot return."""
    file = tiny.save(tiny.image_classifier(), tmp_path / "model.onnx")
    Path("recipe.json").write_text('{"size": [8, 6], "scaling": {"mode": "rescale", "scale": 0.5}}')
    given = ["pictures/a.png", "--preprocess", "recipe.json", "-o", "page.html"]
    done = layertap("view", file, *given)
    assert (done.code, "warning" in done.err) == (0, False)
    expected = api.open(file).predict("pictures/a.png", "recipe.json")
    np.testing.assert_array_equal(WebPage(Path("page.html").read_bytes()).scores(), expected)


@pytest.mark.parametrize("options", [{}, {"batch": True}])
def test_a_finished_file_shows_its_own_heat_map(
    tmp_path: Path, pictures: Path, options: dict[str, Any]
) -> None:
    """Its pictures have any size; what the file does not compute is an error."""
    made = tiny.save(tiny.differentiable(states_axes=True), tmp_path / "made.onnx")
    finish(made, "app.onnx", heat_map="relu", method="layercam", **options)
    done = layertap("view", "app.onnx", "pictures/a.png", "-o", "page.html")
    assert done.code == 0, done.err
    page = WebPage(Path("page.html").read_bytes())
    model = api.open("app.onnx")
    assert page.data["samples"][0]["height"] == 16
    assert [one["output"] for one in page.data["scores"]] == ["probs"]
    np.testing.assert_array_equal(page.scores(), model.predict("pictures/a.png")["probs"])
    heat = page.data["heat"]
    assert (heat["layer"], [one["name"] for one in heat["methods"]]) == ("relu", ["layercam"])
    for at, target in enumerate(heat["classes"]):
        expected = model.cam("pictures/a.png", target=target).reshape(16, 12)
        np.testing.assert_allclose(page.heat_maps("layercam")[0, at], expected, atol=1e-6)
    model.view("pictures", "all.html")
    assert len(WebPage(Path("all.html").read_bytes()).data["samples"]) == 5
    other = layertap("view", "app.onnx", "pictures/a.png", "-o", "b.html", "--methods", "xgradcam")
    assert (other.code, "with the method layercam" in other.err) == (2, True)
    live = layertap("view", "app.onnx", "--live", "--engine", "gone", "-o", "b.html")
    assert live.code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "page.txt"], "must end in .html"),
        (["-o", "page.html", "--top", "0"], "--top must be at least 1, got 0."),
        (["-o", "page.html", "--channels", "0"], "--channels must be at least 1, got 0."),
        (["-o", "page.html", "--layers", "rellu"], "Did you mean 'relu'"),
        (["-o", "page.html", "--methods", "cam"], "unknown method 'cam'"),
        (["-o", "page.html", "--max-mb", "0"], "at least 1"),
    ],
)
def test_bad_options_are_errors_in_words(
    file: Path, pictures: Path, arguments: list[str], words: str
) -> None:
    done = layertap("view", file, "pictures/a.png", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert not Path("page.html").exists()
