"""The sizes of free axes that are tried, and those that users fix."""

from __future__ import annotations

from typing import Any

import pytest

import layertap
from layertap.format.card import TensorInfo
from layertap_export.verification.sizes import Layout, given_sizes, layouts

IMAGE = TensorInfo(name="image", shape=(None, None, None, 3), dtype="float32")
MASK = TensorInfo(name="mask", shape=(None, None, None), dtype="float32")
FIXED = TensorInfo(name="x", shape=(None, 4), dtype="float32")
STATED = {
    "image": ("batch", "image_height", "image_width", 3),
    "mask": ("batch", "mask_time", "mask_axis_2"),
    "x": ("batch", 4),
}


def test_a_size_is_given_by_its_symbol_or_by_the_end_of_it() -> None:
    inputs = [IMAGE, MASK]
    assert given_sizes({"image_height": 32}, inputs, STATED) == {(0, 1): 32}
    assert given_sizes({"height": 32, "time": 5}, inputs, STATED) == {(0, 1): 32, (1, 1): 5}
    assert given_sizes({"batch": 3}, inputs, STATED) == {(0, 0): 3, (1, 0): 3}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hieght": 4}, "the model has no free size 'hieght'. Its free sizes are batch, "),
        ({"height": 0}, "the size 'height' must be a whole number of at least 1, got 0."),
        ({"height": True}, "the size 'height' must be a whole number of at least 1, got True."),
        ({"height": 2.5}, "the size 'height' must be a whole number of at least 1, got 2.5."),
    ],
)
def test_a_wrong_size_is_refused(sizes: Any, message: str) -> None:
    with pytest.raises(layertap.UsageError) as caught:
        given_sizes(sizes, [IMAGE, MASK], STATED)
    assert str(caught.value).startswith(message)


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(layertap.UsageError, match=r"Did you mean 'image_height'"):
        given_sizes({"image_hieght": 4}, [IMAGE, MASK], STATED)


def test_a_size_that_is_given_is_the_same_in_every_layout() -> None:
    first = Layout(given={(0, 1): 50})
    for layout in layouts([IMAGE, MASK], first):
        for which in range(4):
            image, mask = layout.shapes([IMAGE, MASK], 2, which)
            assert image[0] == mask[0] == 2
            assert image[1] == 50
            assert image[3] == 3
            assert min(image + mask) >= 1


def test_inputs_without_free_sizes_have_one_layout() -> None:
    (layout,) = layouts([FIXED], Layout())
    assert layout.shapes([FIXED], 7) == ((7, 4),)
