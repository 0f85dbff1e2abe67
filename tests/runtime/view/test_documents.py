"""Pictures as PNG, PDF and SVG files."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layertap.errors import OutputError, UsageError
from layertap.view.documents import save_picture

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def pdf_objects(data: bytes) -> dict[int, bytes]:
    """The objects of a PDF file, found by its table, which every reader uses."""
    start = int(re.findall(rb"startxref\n(\d+)\n%%EOF\n$", data)[0])
    head, *lines = data[start:].split(b"\n")
    assert head == b"xref"
    first, number = map(int, lines[0].split())
    rows = [line.split() for line in lines[1 : number + 1]]
    assert all(len(line) == 19 for line in lines[1 : number + 1])  # and the end of the line
    found = {}
    for index, (at, _, kind) in enumerate(rows, first):
        if kind == b"n":
            body = data[int(at) :]
            assert body.startswith(b"%d 0 obj\n" % index)
            found[index] = body[: body.index(b"\nendobj\n")]
    return found


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_pdf_holds_every_pixel_on_its_page(
    picture: Image.Image, mode: str, tmp_path: Path
) -> None:
    picture = picture.convert(mode)
    save_picture(picture, tmp_path / "a.pdf", width=84, page=(100, 200))
    objects = pdf_objects((tmp_path / "a.pdf").read_bytes())
    page = next(body for body in objects.values() if b"/Type /Page " in body)
    box = [float(x) for x in re.findall(rb"/MediaBox \[(.*?)\]", page)[0].split()]
    np.testing.assert_allclose(box, [0, 0, 100 / 25.4 * 72, 200 / 25.4 * 72], atol=0.01)
    image = next(body for body in objects.values() if b"/Subtype /Image" in body)
    assert b"/Width 30 /Height 20" in image
    stream = image[image.index(b"stream\n") + 7 : image.index(b"\nendstream")]
    assert len(stream) == int(re.findall(rb"/Length (\d+)", image)[0])
    assert zlib.decompress(stream) == picture.tobytes()
    content = next(body for body in objects.values() if b" cm /P Do" in body)
    numbers = re.findall(rb"q (\S+) 0 0 (\S+) (\S+) (\S+) cm", content)[0]
    found = [float(x) * 25.4 / 72 for x in numbers]  # width, height, left, bottom
    np.testing.assert_allclose(found, [84, 56, 8, 72], atol=0.01)


def test_an_svg_holds_every_pixel_on_its_page(picture: Image.Image, tmp_path: Path) -> None:
    save_picture(picture, tmp_path / "a.svg", width=84, page="a5")
    root = ET.fromstring((tmp_path / "a.svg").read_bytes())
    assert (root.get("width"), root.get("height")) == ("148mm", "210mm")
    assert root.get("viewBox") == "0 0 148 210"
    image = root.find(f"{SVG}image")
    assert image is not None
    place = [float(image.get(key, "")) for key in ("x", "y", "width", "height")]
    np.testing.assert_allclose(place, [32, 77, 84, 56], atol=0.01)
    kind, data = image.get(f"{XLINK}href", "").split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as inside:
        assert inside.tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("options", "size", "dpi"),
    [
        ({}, (30, 20), None),
        ({"dpi": 150}, (30, 20), 150),
        ({"width": 25.4}, (30, 20), 30),
        ({"width": 25.4, "dpi": 60}, (60, 40), 60),
        ({"width": 25.4, "dpi": 10}, (10, 7), 10),
    ],
)
def test_a_png_has_size_and_resolution(
    picture: Image.Image, tmp_path: Path, options: Any, size: Any, dpi: float | None
) -> None:
    save_picture(picture, tmp_path / "a.png", **options)
    with Image.open(tmp_path / "a.png") as found:
        assert found.size == size
        assert ("dpi" in found.info) == (dpi is not None)
        if dpi is not None:
            assert found.info["dpi"][0] == pytest.approx(dpi, abs=0.1)
        if size == (30, 20):
            assert found.tobytes() == picture.tobytes()


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_picture_gives_the_same_bytes(
    picture: Image.Image, tmp_path: Path, suffix: str
) -> None:
    files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for file in files:
        save_picture(picture, file)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.jpg", {}, "a picture is written as .png, .pdf, .svg, got "),
        ("a", {}, "a picture is written as .png, .pdf, .svg, got "),
        ("a.pdf", {"dpi": 0}, "dpi must be from 1 to 10000, got 0."),
        ("a.pdf", {"dpi": -1}, "dpi must be a finite number of at least 0, got -1."),
        ("a.pdf", {"width": 0}, "width must be from 1 to 5080 mm, got 0."),
        ("a.png", {"page": "a4"}, "a page is for PDF and SVG; a PNG file has only the picture."),
        ("a.pdf", {"page": "a12"}, "the page 'a12' is unknown; the pages are a3, a4, a5, letter"),
        (
            "a.pdf",
            {"page": "a5", "width": 150},
            "the picture is 150 x 100 mm, which the page a5 (148 x 210 mm) cannot hold. Give a "
            "smaller width, a larger dpi or a larger page.",
        ),
        (
            "a.pdf",
            {"page": (100, 20), "width": 90},
            "the picture is 90 x 60 mm, which the page (100 x 20 mm) cannot hold.",
        ),
        ("a.svg", {"dpi": 1, "page": "40x40"}, "the picture is 762 x 508 mm, which the page 40x40"),
        ("a.pdf", {"page": (100,)}, "page must be one of a3, a4, a5, letter, or (width, height)"),
        ("a.pdf", {"page": (100, 0)}, "the height of it must be from 1 to 5080 mm, got 0."),
        (
            "a.pdf",
            {"width": 5000, "dpi": 9999},
            "a width of 5000 mm at 9999 dpi has 1968307 pixels, but a picture has at most 20000.",
        ),
    ],
)
def test_what_cannot_be_written_is_an_error(
    picture: Image.Image, tmp_path: Path, name: str, options: Any, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        save_picture(picture, tmp_path / name, **options)
    assert str(caught.value).startswith(words)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_an_error(picture: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        save_picture(picture, tmp_path / "missing" / "a.pdf")
