"""Which part of an image a model sees, compared with what `load_image` does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.images.load import load_image
from layertap.images.region import seen_region

sides = st.integers(8, 60)


@given(height=sides, width=sides, size=st.tuples(sides, sides), shorter_side=st.integers(8, 60),
       geometry=st.sampled_from(["whole", "aspect", "shorter"]))  # fmt: skip
def test_the_region_is_what_the_loader_reads(
    height: int, width: int, size: tuple[int, int], shorter_side: int, geometry: str
) -> None:
    """The loader is given images whose pixels are their own places."""
    known: dict[str, dict[str, Any]] = {
        "whole": {},
        "aspect": {"keep_aspect_ratio": True},
        "shorter": {"shorter_side": shorter_side},
    }
    options = known[geometry]
    region = seen_region(height, width, size, **options)
    for axis, start, end in ((0, region.top, region.bottom), (1, region.left, region.right)):
        length = (height, width)[axis]
        places = np.arange(1, length + 1, dtype=np.uint16) * 1000
        shape = (-1, 1) if axis == 0 else (1, -1)
        image = np.ascontiguousarray(np.broadcast_to(places.reshape(shape), (height, width)))
        read = load_image(
            image, size=size, color_mode="grayscale", interpolation="bilinear", **options
        )[:, :, 0]
        line = read.max(axis=1 - axis) / 1000 - 0.5  # the centre of pixel 0 is at 0.5
        new = size[axis]
        expected = start + (np.arange(new) + 0.5) * (end - start) / new
        reach = max(1.0, (end - start) / new) + 1  # of the filter
        inner = (expected > reach) & (expected < length - reach)
        # The filter's weights are not quite symmetric where the sizes do not divide one another.
        near = 0.15 * max(1.0, (end - start) / new)
        np.testing.assert_allclose(line[inner], expected[inner], atol=near)
        outside = (expected < -0.5) | (expected > length + 0.5)
        assert (read.max(axis=1 - axis)[outside] == 0).all()  # which is padded


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (0, 0, 400, 200)),
        ({"size": None, "shorter_side": 100}, (0, 0, 400, 200)),
        ({"size": (100, 100)}, (0, 0, 400, 200)),
        ({"size": (100, 100), "keep_aspect_ratio": True}, (100, 0, 300, 200)),
        ({"size": (100, 50), "keep_aspect_ratio": True}, (150, 0, 250, 200)),
        ({"size": (100, 100), "shorter_side": 100}, (100, 0, 300, 200)),
        ({"size": (50, 50), "shorter_side": 100}, (150, 50, 250, 150)),
        ({"size": (100, 100), "shorter_side": 50}, (0, -100, 400, 300)),  # padded
    ],
)
def test_known_regions(options: dict[str, Any], expected: tuple[float, ...]) -> None:
    assert seen_region(200, 400, **options) == expected
