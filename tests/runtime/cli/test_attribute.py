"""`layertap attribute`, and how `cam` writes pictures on paper."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import layertap as api
from generators import tiny
from shell import layertap


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.save(tiny.differentiable(), tmp_path / "model.onnx")


def test_values_pictures_and_report_are_written(file: Path, pictures: Path) -> None:
    done = layertap("attribute", file, pictures, "--target", "dog", "-o", "out", "--steps", "8")
    assert done.code == 0
    model = api.open(file)
    report = json.loads(Path("out/attribute.json").read_text(encoding="utf-8"))
    assert (report["method"], report["colormap"]) == ("integrated_gradients", "RdBu_r")
    assert [Path(entry["image"]).name for entry in report["images"]] == [
        f"{name}.png" for name in "abcde"
    ]
    for entry in report["images"]:
        values = np.load(Path("out", entry["maps"]))
        expected = model.attribute(entry["image"], "integrated_gradients", "dog", steps=8)[0]
        np.testing.assert_allclose(values, expected, atol=1e-6)
        assert entry["targets"][0]["score"] == pytest.approx(
            float(model.predict(entry["image"])[0, 1]), abs=1e-6
        )
        drawn = model.picture(entry["image"], target="dog", method="integrated_gradients", steps=8)
        with Image.open(Path("out", entry["overlay"])) as found:
            assert np.abs(np.asarray(found, int) - np.asarray(drawn, int)).max() <= 40
            assert found.size == drawn.size


def test_options_reach_the_method(file: Path, pictures: Path) -> None:
    options = ["--method", "smoothgrad", "--samples", "3", "--noise", "0.5", "--seed", "7"]
    command = ("attribute", file, "pictures/a.png", "--target", "cat", "0", "-o", "out")
    assert layertap(*command, *options).code == 0
    expected = api.open(file).attribute(
        "pictures/a.png", "smoothgrad", ["cat", 0], samples=3, noise=0.5, seed=7
    )
    np.testing.assert_allclose(np.load("out/a.attribute.npy"), expected[0], atol=1e-6)


def test_methods_without_gradients_take_any_file(file: Path, pictures: Path) -> None:
    model = api.open(file)
    command = ("attribute", file, "pictures/a.png", "--target", "cat", "-o", "out")
    done = layertap(
        *command, "--method", "kernelshap", "--window", "4", "3", "--baseline", "mean", "--input",
        "image",
    )  # fmt: skip
    assert done.code == 0, done.err
    wanted = model.attribute("pictures/a.png", "kernelshap", "cat", window=(4, 3), baseline="mean")
    np.testing.assert_allclose(np.load("out/a.attribute.npy"), wanted[0], atol=1e-6)
    background = np.random.default_rng(0).random((3, 8, 6, 3), np.float32)
    np.save("others.npy", background)
    for method in ("kernelshap", "expected_gradients"):
        done = layertap(
            *command, "--method", method, "--background", "others.npy", "--samples", "96"
        )
        assert done.code == 0, done.err
        wanted = model.attribute("pictures/a.png", method, "cat", background=background, samples=96)
        np.testing.assert_allclose(np.load("out/a.attribute.npy"), wanted[0], atol=1e-6)


@pytest.mark.parametrize("format_", ["png", "pdf", "svg"])
def test_pictures_of_a_run_before_are_removed(file: Path, pictures: Path, format_: str) -> None:
    command = ("attribute", file, "-o", "out", "--method", "saliency", "--target", "dog")
    assert layertap(*command, "pictures/a.png", "--format", format_).code == 0
    assert Path(f"out/a.attribute.{format_}").exists()
    done = layertap(*command, "pictures/b.png")
    assert "removed 2 files of the run before from out\n" in done.err
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "attribute.json", "b.attribute.npy", "b.attribute.png",
    ]  # fmt: skip


def test_a_width_on_paper_is_that_of_the_picture(file: Path, pictures: Path) -> None:
    options = ["--width", "50.8mm", "--dpi", "200"]
    for format_ in ("png", "pdf", "svg"):
        done = layertap("cam", file, "pictures/a.png", "-o", "out", *options, "--format", format_)
        assert done.code == 0
    assert layertap("cam", file, "pictures/a.png", "-o", "two", *options).code == 0
    with Image.open("two/a.cam.png") as picture:
        assert picture.width == 400
        assert picture.info["dpi"][0] == pytest.approx(200, abs=0.1)
    assert 'width="50.8mm"' in Path("out/a.cam.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dpi", "0"], "--dpi must be from 1 to 10000, got 0."),
        (["--format", "jpg"], "--format must be 'png', 'pdf', 'svg', got 'jpg'."),
        (["--page", "a4"], "--page is for --format pdf and svg; a PNG file has no page."),
        (
            ["--format", "pdf", "--page", "a5", "--width", "200mm"],
            "the picture is 200 x ",
        ),
        (["--width", "84"], "--width must be a length with its unit, as in 84mm, 8.4cm, 3.3in or"),
        (["--width", "0mm"], "--width must be a length with its unit, as in 84mm"),
        (["--colormap", "virdis"], "the colormap 'virdis' is unknown; the colormaps are jet,"),
        (["--opacity", "hot"], "--opacity must be 'fixed' or 'heat', got 'hot'."),
        (["--show", "picture"], "--show must be 'figure', 'overlay', 'map', got 'picture'."),
        (["--contours", "-1"], "--contours must be at least 0, got -1."),
        (["--percentile", "101"], "--percentile must be above 0 and at most 100, got 101."),
        (["--show", "map", "--caption", "a"], "--caption is for --show figure, got --show map."),
        (["--font", "gone.ttf"], "the font 'gone.ttf' cannot be read: there is no such file."),
        (["--input", "imag"], "there are no attributions to 'imag'; there are to 'image'. Did you"),
        (["--method", "gradcm"], "unknown method 'gradcm'; the methods are saliency,"),
        (
            ["--method", "saliency", "--window", "3"],
            "--window is for --method occlusion, kernelshap, got --method saliency.",
        ),
        (
            ["--method", "saliency", "--samples", "3"],
            "--samples is for --method rise, kernelshap, smoothgrad, expected_gradients, got "
            "--method saliency.",
        ),
        (
            ["--method", "kernelshap", "--background", "a.png"],
            "--background must be a .npy or .npz file with a ready batch, got a.png.",
        ),
        (["--width", "20px"], "a width of 20 pixels leaves no room for 2 pictures in a row."),
    ],
)
def test_invalid_options_are_errors(
    file: Path, pictures: Path, options: list[str], words: str
) -> None:
    """No picture is written."""
    done = layertap("attribute", "model.onnx", "pictures/a.png", "-o", "out", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"layertap: {words}")
    assert not list(Path().rglob("*attribute.*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scale", "common"], "--scale is an option of --sheet. Add --sheet FOLDER."),
        (["--format", "pdf"], "--format is an option of --sheet. Add --sheet FOLDER."),
        (["--sheet", "s", "--channels", "9"], "channel 9 does not exist: the layer has 4, 0 to 3."),
        (["--sheet", "s", "--scale", "all"], "--scale must be own or common, got 'all'."),
        (["--sheet", "s", "--columns", "0"], "--columns must be at least 1, got 0."),
    ],
)
def test_invalid_options_of_sheets(
    file: Path, pictures: Path, options: list[str], words: str
) -> None:
    done = layertap("run", "model.onnx", "pictures/a.png", "--layers", "conv", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"layertap: {words}\n"


def test_options_of_sheets_reach_them(file: Path, pictures: Path) -> None:
    options = ["--channels", "3", "1", "--scale", "common", "--colormap", "viridis"]
    options += ["--statistics", "--columns", "2", "--caption", "two"]
    command = ("run", file, "pictures/a.png", "--layers", "conv", "--sheet", "s")
    assert layertap(*command, *options).code == 0
    expected = api.open(file).sheet(
        "pictures/a.png", "conv", channels=[3, 1], scale="common", colormap="viridis",
        statistics=True, columns=2, caption="two",
    )  # fmt: skip
    with Image.open("s/a.conv.png") as found:
        assert found.tobytes() == expected.tobytes()
