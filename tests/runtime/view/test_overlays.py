"""Overlays of heat maps on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layertap.cam import resize
from layertap.errors import InputError, LayertapError, UsageError
from layertap.view import overlays
from layertap.view.colormaps import COLORMAPS, colored
from layertap.view.overlays import overlay


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def heat() -> np.ndarray:
    return np.random.default_rng(1).random((20, 30)).astype(np.float32)


@pytest.mark.parametrize("name", COLORMAPS)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_overlay_mixes_picture_and_colours(
    pixels: np.ndarray, heat: np.ndarray, name: str, alpha: float
) -> None:
    """Neither the picture nor the heat map is normalized."""
    found = overlay(Image.fromarray(pixels), heat, colormap=name, alpha=alpha)
    assert (found.mode, found.size) == ("RGB", (30, 20))
    expected = (1 - alpha) * pixels + alpha * colored(heat, name).astype(np.float64)
    np.testing.assert_allclose(np.asarray(found), expected, atol=0.5)


def test_overlay_converts_grey_and_resizes_the_map(pixels: np.ndarray) -> None:
    grey = Image.fromarray(pixels).convert("L")
    small = np.random.default_rng(1).random((4, 5)).astype(np.float32)
    found = overlay(grey, small)
    whole = overlay(grey.convert("RGB"), resize(small, (20, 30)))
    assert found.tobytes() == whole.tobytes()
    assert np.ptp(np.asarray(found), axis=-1).any()


def test_invalid_alpha_or_shape_is_an_error(pixels: np.ndarray, heat: np.ndarray) -> None:
    picture = Image.fromarray(pixels)
    with pytest.raises(UsageError) as caught:
        overlay(picture, heat, alpha=1.5)
    assert str(caught.value) == "alpha must be between 0 and 1, got 1.5."
    with pytest.raises(InputError) as wrong:
        overlay(picture, np.stack([heat, heat]))
    assert str(wrong.value) == (
        "a heat map must have the shape (h, w), got (2, 20, 30). Give one of them, as in heat[0]."
    )


def test_pictures_in_any_form(pixels: np.ndarray, heat: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    expected = overlay(image, heat).tobytes()
    forms: list[Any] = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        pixels,
        pixels.astype(np.int64),
        pixels.astype(np.float32),
        pixels / 255.0,
    ]
    assert [overlay(form, heat).tobytes() == expected for form in forms] == [True] * len(forms)
    assert overlay(image, heat[None, None]).tobytes() == expected
    grey = Image.fromarray(pixels[:, :, 0])
    assert overlay(pixels[:, :, 0], heat).tobytes() == overlay(grey, heat).tobytes()


@pytest.mark.parametrize(
    ("picture", "map_", "words"),
    [
        (
            np.full((2, 2, 3), -1.0),
            np.zeros((2, 2)),
            "the pixels of a picture must be in 0..255 or 0..1, got values from -1 to -1. Give the "
            "image itself, not the batch that was prepared from it.",
        ),
        (
            np.zeros((1, 2, 2, 3), np.uint8),
            np.zeros((2, 2)),
            "image array: its shape is (1, 2, 2, 3), but it must be (height, width) or (height, "
            "width, channels) with 1, 3 or 4 channels.",
        ),
        ("missing.png", np.zeros((2, 2)), "missing.png: there is no such file."),
        (np.zeros((2, 2), np.uint8), "hot", "a heat map must be an array (h, w), got a str."),
        (
            np.zeros((2, 2), np.uint8),
            np.zeros((0, 2)),
            "the heat map is empty: its shape is (0, 2).",
        ),
    ],
)
def test_what_is_no_picture_or_no_map(picture: Any, map_: Any, words: str) -> None:
    with pytest.raises(LayertapError) as caught:
        overlay(picture, map_)
    assert str(caught.value) == words


def lines_of(heat: np.ndarray, contours: int, signed: bool = False) -> np.ndarray:
    """Which pixels of a black picture 400 x 400 are white, where only lines can be."""
    black = np.zeros((400, 400), np.uint8)
    drawn = overlay(black, heat, alpha=0, contours=contours, signed=signed)
    return np.asarray(drawn)[:, :, 0] > 127


@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize(
    ("least", "signed", "contours", "levels"),
    [
        (0.0, False, 1, [0.5]),
        (0.0, False, 3, [0.25, 0.5, 0.75]),
        (-1.0, False, 3, [0.25, 0.5, 0.75]),
        (-1.0, True, 1, [-0.5, 0.5]),
        (-1.0, True, 2, [-2 / 3, -1 / 3, 1 / 3, 2 / 3]),
    ],
)
def test_contour_lines_are_where_the_map_has_their_levels(
    along: int, least: float, signed: bool, contours: int, levels: list[float]
) -> None:
    """0 has no line, and neither has a level that is reached but not crossed, such as 1."""
    ramp = np.linspace(least, 1, 400, dtype=np.float32)
    heat = np.tile(ramp, (400, 1))
    white = lines_of(heat, contours, signed) if along else lines_of(heat.T, contours, signed).T
    assert (white == white[0]).all()
    places = np.flatnonzero(white[0])
    groups = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    found = [ramp[group].mean() for group in groups]
    assert np.allclose(found, levels, atol=0.004)
    assert all(1 <= len(group) <= 3 for group in groups)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_map_has_no_contour_line(value: float) -> None:
    assert not lines_of(np.full((8, 8), value, np.float32), 3).any()


@pytest.mark.parametrize("opacity", ["fixed", "heat"])
def test_a_picture_does_not_depend_on_how_many_rows_are_drawn_at_once(
    opacity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (300, 200, 3)).astype(np.uint8)
    heat = generator.uniform(-1, 1, (9, 7)).astype(np.float32)
    whole = overlay(picture, heat, opacity=opacity, signed=True, contours=3)
    monkeypatch.setattr(overlays, "_STRIP", 200)
    parts = overlay(picture, heat, opacity=opacity, signed=True, contours=3)
    assert np.array_equal(whole, parts)
