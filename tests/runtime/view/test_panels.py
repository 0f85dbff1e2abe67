"""Panels of pictures with titles."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from layertap.errors import InputError, LayertapWarning
from layertap.view import lettering
from layertap.view.panels import MARGIN, panel


@pytest.mark.parametrize("pictures", [[], [Image.new("L", (2, 2))], [("a", "b", "c")]])
def test_what_is_no_panel(pictures: Any) -> None:
    with pytest.raises(InputError, match=r"^panel expects pairs of a title and a picture"):
        panel(pictures)


def find(sheet: np.ndarray, picture: np.ndarray) -> list[int]:
    """The columns at which a picture starts, in the bottom row of a sheet."""
    top = sheet.shape[0] - MARGIN - picture.shape[0]
    strip = sheet[top : top + picture.shape[0]]
    width = picture.shape[1]
    columns = range(sheet.shape[1] - width + 1)
    return [x for x in columns if np.array_equal(strip[:, x : x + width], picture)]


def test_panel_shows_unchanged_pictures_side_by_side() -> None:
    generator = np.random.default_rng(0)
    large = [generator.integers(0, 256, (300, 200, 3), dtype=np.uint8) for _ in range(3)]
    sheet = panel([(f"title {i}", Image.fromarray(one)) for i, one in enumerate(large)])
    shown = np.asarray(sheet)
    assert [find(shown, one) for one in large] == [[MARGIN + i * (200 + MARGIN)] for i in range(3)]
    assert sheet.width == 3 * (200 + MARGIN) + MARGIN
    head = shown[: sheet.height - 300 - MARGIN]
    for i in range(3):  # each has its title above it
        left = MARGIN + i * (200 + MARGIN)
        assert (head[:, left : left + 200] < 128).any()
    plain = np.asarray(panel([("", Image.fromarray(one)) for one in large]))
    assert (plain[: plain.shape[0] - 300 - MARGIN] == 255).all()


def test_panel_fills_rows() -> None:
    generator = np.random.default_rng(0)
    large = [generator.integers(0, 256, (300, 200, 3), dtype=np.uint8) for _ in range(5)]
    sheet = panel([("title", Image.fromarray(one)) for one in large], columns=3)
    first = panel([("title", Image.fromarray(one)) for one in large[:3]])
    second = panel([("title", Image.fromarray(one)) for one in large[3:]])
    assert sheet.size == (first.width, 2 * first.height - MARGIN)
    shown = np.asarray(sheet)
    np.testing.assert_array_equal(shown[: first.height - MARGIN], np.asarray(first)[:-MARGIN])
    np.testing.assert_array_equal(
        shown[first.height - MARGIN :, : second.width], np.asarray(second)
    )


def test_small_pictures_are_enlarged_without_smoothing() -> None:
    small = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    shown = np.asarray(panel([("", Image.fromarray(small))]))
    assert find(shown, small.repeat(32, axis=0).repeat(32, axis=1)) == [MARGIN]


def test_long_titles_do_not_overlap() -> None:
    picture = Image.new("RGB", (300, 300), (255, 255, 255))
    shown = np.asarray(panel([("W" * 200, picture), ("", picture)]))
    head = shown[: shown.shape[0] - 300 - MARGIN]
    assert (head[:, MARGIN : MARGIN + 300] < 128).any()
    assert (head[:, MARGIN + 300 :] == 255).all()


@pytest.mark.parametrize("title", ["Œdème: 0.8", "心臓肥大 0.5", "two\nlines", "\t", ""])
@pytest.mark.parametrize("old", [False, True])
def test_every_title_can_be_drawn(monkeypatch: pytest.MonkeyPatch, title: str, old: bool) -> None:
    """Also with the font of Pillow 10.0, which has only one size and ASCII characters."""
    lettering._font.cache_clear()
    lettering._has.cache_clear()
    if old:
        small = ImageFont.load_default_imagefont()
        monkeypatch.setattr(ImageFont, "load_default", lambda: small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LayertapWarning)
        sheet = panel([(title, Image.new("L", (300, 300)))])
    assert sheet.width == 300 + 2 * MARGIN
    lettering._font.cache_clear()
    lettering._has.cache_clear()
