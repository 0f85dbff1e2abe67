"""`layertap layers --on`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import layertap as package
from layertap.measuring.layer_statistics import LayerStatistics
from shell import layertap

TinyFile = Callable[[str], Path]


@pytest.fixture
def classifier(tiny_file: TinyFile) -> Path:
    return tiny_file("image_classifier")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{seed}.png")
    return tmp_path / "images"


def test_the_table_is_that_of_python(classifier: Path, folder: Path) -> None:
    done = layertap("layers", classifier, "--on", folder, "--layers", "relu", "pool")
    found = package.open(classifier).layer_statistics(folder, ["relu", "pool"])
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{found}\n"


def test_json_and_the_choice_of_layers(classifier: Path, folder: Path) -> None:
    done = layertap("layers", classifier, "--on", folder, "--type", "ReLU", "--json")
    data = json.loads(done.out)
    assert [row["name"] for row in data["layers"]] == ["relu"]
    assert data["images"] == 4


def test_images_that_fail_are_reported(classifier: Path, folder: Path) -> None:
    for number in range(7):
        (folder / f"broken{number}.png").write_bytes(b"no image")
    done = layertap("layers", classifier, "--on", folder, "--layers", "relu")
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[0] == "layertap: broken0.png: this is not an image in a format that Pillow reads."
    assert lines[-1] == "layertap: and 2 other images."
    assert "on 4 images, 7 failed" in done.out
    for number in range(4):
        (folder / f"{number}.png").unlink()
    done = layertap("layers", classifier, "--on", folder, "-o", folder / "out.json")
    assert (done.code, done.out) == (2, "")
    assert "none of the 7 images can be read" in done.err
    assert not (folder / "out.json").exists()


def test_drift_against_images_and_against_a_file_is_the_same(
    classifier: Path, folder: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.json"
    assert layertap("layers", classifier, "--on", folder, "-o", saved).code == 0
    assert LayerStatistics.load(saved).images == 4
    one = folder / "1.png"
    by_file = layertap("layers", classifier, "--on", one, "--against", saved)
    by_images = layertap("layers", classifier, "--on", one, "--against", folder)
    assert by_file == by_images
    assert by_file.out.startswith("image_classifier.onnx: 6 layers on 1 image, against 4 images\n")
    rows = json.loads(
        layertap("layers", classifier, "--on", folder, "--against", saved, "--json").out
    )
    assert {row["divergence"] for row in rows["layers"]} == {0.0}


class _Read(HTMLParser):
    """Collects the text and the tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_has_a_histogram_for_each_layer_and_no_script(
    classifier: Path, folder: Path, tmp_path: Path
) -> None:
    saved, page = tmp_path / "saved.json", tmp_path / "page.html"
    layertap("layers", classifier, "--on", folder, "-o", saved)
    args = ("--on", folder / "1.png", "--against", saved, "--page", page)
    done = layertap("layers", classifier, *args)
    assert done.err == f"wrote {page} (0.0 MB)\n"
    read = _Read(page.read_text("utf-8"))
    tags = [tag for tag, _ in read.tags]
    assert tags.count("svg") == tags.count("polyline") == 6
    assert "script" not in tags
    assert not [value for _, more in read.tags for key, value in more.items() if key == "src"]
    (policy,) = (more["content"] for _, more in read.tags if more.get("http-equiv"))
    assert "script-src 'none'" in str(policy)
    relu = package.open(classifier).layer_statistics(folder / "1.png", "relu")["relu"]
    assert f"{relu.mean:.4g}" in read.text


def test_the_areas_of_a_drawing_are_the_shares_of_the_values() -> None:
    """Half of the values are -1, a quarter 0, and a quarter 8."""
    from generators import tiny
    from layertap.measuring.pages import statistics_page

    made = tiny.model(
        [tiny.node("Identity", "x", "y")], [tiny.value("x", ["n", 4])], [tiny.value("y", ["n", 4])]
    )
    model = package.open(made.SerializeToString())
    batch = np.array([[-1, -1, 0, 8]] * 3, np.float32)
    page = statistics_page(model.layer_statistics(batch, "y")).decode()
    bars = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="[\d.]+" height="([\d.]+)"', page)
    assert len(bars) == 3
    heights = [float(height) for _, height in sorted(bars, key=lambda bar: float(bar[0]))]
    assert heights == [44, 22, 22]


def test_names_in_a_file_are_no_html(tmp_path: Path) -> None:
    from generators import tiny

    made = tiny.model(
        [tiny.node("Relu", "x", "<script>alert(1)</script>", name="r")],
        [tiny.value("x", ["n", 4])],
        [tiny.value("<script>alert(1)</script>", ["n", 4])],
    )
    file = tiny.save(made, tmp_path / "odd.onnx")
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    page = tmp_path / "page.html"
    assert layertap("layers", file, "--on", tmp_path / "x.npy", "--page", page).code == 0
    assert "&lt;script&gt;alert(1)" in page.read_text()
    assert "<script" not in page.read_text()


def test_the_layers_are_sorted_by_what_the_table_shows(
    classifier: Path, folder: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    more = ("--on", folder, "--sort", "zeros", "--page", page)
    names = [line.split()[1] for line in layertap("layers", classifier, *more).out.splitlines()[4:]]
    assert set(names[:2]) == {"relu", "drop"}
    text = page.read_text("utf-8")
    assert text.index(">relu<") < text.index(">image<")
    drift = ("--on", folder / "1.png", "--against", folder, "--sort", "shift", "--json")
    shifts = [
        row["shift"] for row in json.loads(layertap("layers", classifier, *drift).out)["layers"]
    ]
    assert [*map(abs, shifts)] == sorted(map(abs, shifts), reverse=True)


def test_a_page_tells_nan_from_infinity_and_shows_what_died(tmp_path: Path) -> None:
    from generators import tiny
    from layertap.measuring.drift import Drift
    from layertap.measuring.pages import statistics_page

    made = tiny.model(
        [tiny.node("Identity", "x", "y")], [tiny.value("x", ["n", 2])], [tiny.value("y", ["n", 2])]
    )
    model = package.open(made.SerializeToString())
    found = model.layer_statistics(np.array([[0, np.inf], [0, 1]], np.float32), "y")
    before = model.layer_statistics(np.array([[1, 1]], np.float32), "y")
    read = _Read(statistics_page(found, Drift(found, before)).decode())
    assert "Inf" in read.text
    assert "NaN, Inf" in read.text  # the drift
    assert "newly dead" in read.text
    read = _Read(statistics_page(before).decode())
    assert "Inf" not in read.text
    assert "saturated" not in read.text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--against", "x.json"],
            "--against is for the values of layers on images: give --on, too",
        ),
        (["-o", "x.json"], "-o is for the values of layers on images: give --on, too."),
        (["--batch-size", "2"], "--batch-size is for the values of layers on images"),
        (["--on", "IMAGES", "-o", "x.txt"], ".json"),
        (["--on", "IMAGES", "--page", "x.txt"], ".html"),
        (["--on", "nowhere"], "nowhere: there is no such file or folder."),
        (
            ["--on", "IMAGES", "--against", "FILE.json"],
            "'FILE.json' holds no layer statistics: No such file or directory. `layertap layers",
        ),
        (["--on", "IMAGES", "--sort", "deed"], "Did you mean 'dead'?"),
        (["--on", "nowhere", "--sort", "shift"], "the table has no column 'shift' to sort by."),
        (["--on", "IMAGES", "--against", "a.json", "b.png"], "not both"),
        (["--on", "IMAGES", "--size", "8x8"], "--size and --batch are for the table without --on"),
        (["--on", "IMAGES", "--layers", "rely"], "Did you mean 'relu'?"),
    ],
)
def test_bad_input(classifier: Path, folder: Path, more: list[str], message: str) -> None:
    done = layertap("layers", classifier, *[str(folder) if x == "IMAGES" else x for x in more])
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_an_interrupted_file_of_statistics_is_refused(
    classifier: Path, folder: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.json"
    layertap("layers", classifier, "--on", folder, "-o", saved)
    saved.write_bytes(saved.read_bytes()[:500])
    done = layertap("layers", classifier, "--on", folder, "--against", saved)
    assert (done.code, done.out) == (2, "")
    assert "saved.json' holds no layer statistics" in done.err
