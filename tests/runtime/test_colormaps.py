"""Colour maps, beside matplotlib's tables."""

from __future__ import annotations

import numpy as np
import pytest

from layertap.colormaps import COLORMAPS, colored, shades
from layertap.errors import UsageError


@pytest.mark.parametrize("name", COLORMAPS)
def test_the_tables_are_matplotlibs(name: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    theirs = matplotlib.colormaps[name](np.arange(256))[:, :3]
    assert shades(name).shape == (256, 3)
    # Rounded to whole numbers of 0..255, and no further.
    np.testing.assert_allclose(shades(name) / 255, theirs, atol=0.5 / 255 + 1e-9)


@pytest.mark.parametrize("name", COLORMAPS)
def test_heat_takes_the_colours_that_matplotlib_gives_it(name: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    heat = np.linspace(-0.2, 1.2, 2802).reshape(3, -1)
    theirs = matplotlib.colormaps[name](heat)[..., :3]
    found = colored(heat, name)
    assert (found.shape, found.dtype) == ((3, 934, 3), np.uint8)
    np.testing.assert_allclose(found / 255, theirs, atol=0.5 / 255 + 1e-9)


@pytest.mark.parametrize(
    ("name", "cold", "middle", "hot"),
    [
        ("jet", (0, 0, 128), (125, 255, 122), (128, 0, 0)),
        ("viridis", (68, 1, 84), (33, 145, 140), (253, 231, 37)),
        ("magma", (0, 0, 4), (183, 55, 121), (252, 253, 191)),
    ],
)
def test_known_colours(
    name: str, cold: tuple[int, ...], middle: tuple[int, ...], hot: tuple[int, ...]
) -> None:
    found = colored([0.0, 0.5, 1.0], name)
    np.testing.assert_allclose(found.astype(int), [cold, middle, hot], atol=1)


def test_what_is_no_number() -> None:
    found = colored([float("nan"), float("-inf"), float("inf")])
    assert found.tolist() == colored([0.0, 0.0, 1.0]).tolist()


def test_a_name_that_is_none() -> None:
    with pytest.raises(UsageError) as caught:
        colored(0.5, "virdis")
    assert str(caught.value) == (
        "there is no colour map 'virdis'; there are jet, viridis, magma. Did you mean 'viridis'?"
    )
