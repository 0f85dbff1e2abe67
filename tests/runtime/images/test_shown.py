"""Images as pictures for people."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layertap.errors import ImageError, InputError
from layertap.images.load import load_image
from layertap.images.shown import shown


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "YCbCr"])
def test_colours_are_those_that_the_model_is_given(pixels: np.ndarray, mode: str) -> None:
    image = Image.fromarray(pixels).convert(mode)
    found = shown(image)
    assert found.mode in ("L", "RGB")
    np.testing.assert_array_equal(np.asarray(found.convert("RGB")), load_image(image))


@pytest.mark.parametrize("transparency", [b"\x00" * 9, 3])
def test_transparency_is_dropped_without_a_warning(pixels: np.ndarray, transparency: Any) -> None:
    image = Image.fromarray(pixels).convert("P")
    image.info["transparency"] = transparency
    np.testing.assert_array_equal(np.asarray(shown(image)), load_image(image))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["array", "png", "tiff"])
@pytest.mark.parametrize("highest", [65535, 30000, 4096])
def test_16_bits_are_scaled_as_by_the_recipe(form: str, highest: int) -> None:
    deep = np.random.default_rng(1).integers(0, highest, (6, 5), dtype=np.uint16)
    deep[0, 0] = highest
    source: Any = deep
    if form != "array":
        buffer = io.BytesIO()
        Image.fromarray(deep).save(buffer, form)
        source = buffer.getvalue()
    expected = np.round(load_image(source, depth="scale")[:, :, 0])
    assert np.abs(np.asarray(shown(source)) - expected).max() <= (highest < 65535)
    assert shown(source).mode == "L"


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_dark_or_unknown_ranges_are_drawn_in_their_own(dtype: Any) -> None:
    """12 bits in a file of 16, Hounsfield units, floats."""
    values = np.array([[0, 1000], [2000, 4000]], dtype)
    if dtype != np.uint16:
        values = (values - 1000).astype(dtype)
    image = Image.fromarray(values)
    assert np.asarray(shown(image)).tolist() == [[0, 64], [128, 255]]


def test_values_that_are_no_numbers_are_at_the_ends() -> None:
    values = np.array([[np.nan, -5], [np.inf, 5]], np.float32)
    assert np.asarray(shown(Image.fromarray(values))).tolist() == [[0, 0], [255, 255]]
    nothing = Image.fromarray(np.full((2, 2), np.nan, np.float32))
    assert np.asarray(shown(nothing)).tolist() == [[0, 0], [0, 0]]


def test_the_image_itself_is_not_changed(pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    shown(image).putpixel((0, 0), (1, 2, 3))
    assert image.tobytes() == pixels.tobytes()


def test_what_is_no_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: there is no such file\.$"):
        shown(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"got values from -1 to 1\. Give the image itself"):
        shown(np.array([[-1.0, 1.0]]))
    with pytest.raises(ImageError, match="it has no pixels"):
        shown(Image.new("L", (0, 3)))
