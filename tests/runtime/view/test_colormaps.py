"""Colormaps, compared with matplotlib's tables."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from layertap.errors import UsageError
from layertap.view.colormaps import COLORMAPS, colored, shades

HASHES = {
    "jet": "56e3b193af0deb90933861ee0e90f94d7591c1d62625bdf2b4c989f66677fa40",
    "viridis": "18545f7c72a02f02a54f2e3f6ff9dcf357e0190ab9117a1f8fae44c6eaf179e0",
    "inferno": "e24e8bd38b972989f64c42856b2b274df5ada3a62bc01bf8e83500a2ea938ad4",
    "cividis": "40881f40490dc08ae8b1442b52b01c7169d27124ccb4a501cd0ee290079cc1e1",
    "gray": "72432263dbfe17abc40ed269f24c7a344e077e3671007dfc8a2f3851f8193dc2",
    "RdBu_r": "30ef5f031ef175840578d6c6df9182497fb061db9b3b731d1c2afd081620237c",
    "magma": "f95197e8391d18e2c1db50f2a1ab8650ab7c2a9acb781704a8156872615f002b",
}
"""SHA-256 of the tables that were compared with those of matplotlib 3.11. It is not installed for
the tests, because Keras would import it."""

ROUNDED = 0.5 / 255 + 1e-6
"""Tolerance for colours that are rounded to integers in 0..255."""


@pytest.mark.parametrize("name", COLORMAPS)
def test_tables_equal_matplotlibs(name: str) -> None:
    assert (shades(name).shape, shades(name).dtype) == ((256, 3), np.uint8)
    assert hashlib.sha256(shades(name).tobytes()).hexdigest() == HASHES[name]


@pytest.mark.parametrize("name", COLORMAPS)
def test_tables_equal_the_installed_matplotlib(name: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    theirs = matplotlib.colormaps[name](np.arange(256))[:, :3]
    np.testing.assert_allclose(shades(name) / 255, theirs, atol=ROUNDED)
    heat = np.linspace(-0.2, 1.2, 2802).reshape(3, -1)
    found = colored(heat, name)
    np.testing.assert_allclose(found / 255, matplotlib.colormaps[name](heat)[..., :3], atol=ROUNDED)


@pytest.mark.parametrize("name", COLORMAPS)
def test_heat_is_rounded_to_256_colours(name: str) -> None:
    """As in matplotlib: the first colour for 0 to 1/256, and so on; the last colour for 1."""
    heat = np.linspace(-0.2, 1.2, 2802).reshape(3, -1)
    found = colored(heat, name)
    assert (found.shape, found.dtype) == ((3, 934, 3), np.uint8)
    indices = [min(max(math.floor(value * 256), 0), 255) for value in heat.ravel()]
    np.testing.assert_array_equal(found, shades(name)[indices].reshape(found.shape))


@pytest.mark.parametrize(
    ("name", "cold", "middle", "hot"),
    [
        ("jet", (0, 0, 128), (125, 255, 122), (128, 0, 0)),
        ("viridis", (68, 1, 84), (33, 145, 140), (253, 231, 37)),
        ("magma", (0, 0, 4), (183, 55, 121), (252, 253, 191)),
        ("RdBu_r", (5, 48, 97), (247, 246, 246), (103, 0, 31)),
    ],
)
def test_known_values_have_known_colours(
    name: str, cold: tuple[int, ...], middle: tuple[int, ...], hot: tuple[int, ...]
) -> None:
    found = colored([0.0, 0.5, 1.0], name)
    np.testing.assert_allclose(found.astype(int), [cold, middle, hot], atol=1)


def test_nan_and_infinity_are_clipped() -> None:
    found = colored([float("nan"), float("-inf"), float("inf")])
    assert found.tolist() == colored([0.0, 0.0, 1.0]).tolist()


def test_unknown_colormap_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        colored(0.5, "virdis")
    assert str(caught.value) == (
        "the colormap 'virdis' is unknown; the colormaps are jet, viridis, magma, inferno, "
        "cividis, gray, RdBu_r. Did you mean 'viridis', "
        "'cividis'?"
    )
