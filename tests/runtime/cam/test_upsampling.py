"""Bilinear resizing, beside a formula of its own and beside OpenCV."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from layertap.cam import resize

SIZES = [
    ((10, 10), (320, 320)),
    ((10, 7), (224, 320)),
    ((3, 2), (7, 5)),
    ((1, 1), (4, 3)),
    ((1, 5), (6, 5)),
    ((20, 30), (7, 9)),
    ((8, 8), (8, 8)),
    ((2, 2), (1, 1)),
]


def by_the_formula(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """Pixel by pixel, in float64."""
    height, width = values.shape
    out = np.empty(size)
    for i in range(size[0]):
        y = min(max((i + 0.5) * height / size[0] - 0.5, 0), height - 1)
        top, bottom = math.floor(y), math.ceil(y)
        for j in range(size[1]):
            x = min(max((j + 0.5) * width / size[1] - 0.5, 0), width - 1)
            left, right = math.floor(x), math.ceil(x)
            upper = values[top, left] * (1 - (x - left)) + values[top, right] * (x - left)
            lower = values[bottom, left] * (1 - (x - left)) + values[bottom, right] * (x - left)
            out[i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return out


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_it_is_bilinear(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=old).astype(np.float32)
    found = resize(values, new)
    assert (found.shape, found.dtype) == (new, np.float32)
    np.testing.assert_allclose(found, by_the_formula(values, new), atol=1e-6)


GOLDEN = [
    [0, 0.1, 0.5, 0.9, 1],
    [0.2857143, 0.3, 0.3571429, 0.4142857, 0.4285714],
    [1.142857, 0.9, -0.0714286, -1.042857, -1.285714],
    [2, 1.5, -0.5, -2.5, -3],
    [3.285714, 2.957143, 1.642857, 0.3285714, 0],
    [4.571429, 4.414286, 3.785714, 3.157143, 3],
    [5, 4.9, 4.5, 4.1, 4],
]


def test_values_that_opencv_gave() -> None:
    """`cv2.resize(..., (5, 7), interpolation=cv2.INTER_LINEAR)` of OpenCV 5.0.0 and 4.11.0."""
    values = np.array([[0, 1], [2, -3], [5, 4]], np.float32)
    np.testing.assert_allclose(resize(values, (7, 5)), GOLDEN, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_it_is_opencvs(old: tuple[int, int], new: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    values = np.random.default_rng(0).normal(size=old).astype(np.float32)
    expected = cv2.resize(values, new[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize(values, new), expected, atol=1e-5)


def test_only_the_last_axes_are_resized() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    whole = resize(values, (9, 6))
    assert whole.shape == (2, 3, 9, 6)
    np.testing.assert_array_equal(whole[1, 2], resize(values[1, 2], (9, 6)))


def test_one_axis_and_three() -> None:
    ramp = np.arange(4.0)
    np.testing.assert_allclose(resize(ramp, (8,)), [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    volume = np.random.default_rng(0).normal(size=(2, 3, 4))
    found = resize(volume, (4, 3, 8))
    np.testing.assert_allclose(found[:, 1], resize(volume[:, 1], (4, 8)), atol=1e-6)
