"""The range of the values that a recipe returns, against the recipe itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.format.recipe import value_range
from layertap.images.preprocessing import Preprocessing

NUMBERS = st.floats(-300, 300, width=32)
POSITIVE = st.floats(0.0078125, 300, width=32)


def per_channel(numbers: Any) -> Any:
    return numbers | st.lists(numbers, min_size=3, max_size=3)


SCALINGS = (
    st.none()
    | st.sampled_from(["tf", "torch", "caffe"]).map(lambda mode: {"mode": mode})
    | st.fixed_dictionaries(
        {
            "mode": st.just("standardize"),
            "mean": per_channel(NUMBERS),
            "std": per_channel(POSITIVE),
        }
    )
    | st.fixed_dictionaries(
        {"mode": st.just("rescale"), "scale": per_channel(NUMBERS)},
        optional={"offset": per_channel(NUMBERS)},
    )
)


@given(SCALINGS)
def test_the_range_is_that_of_black_and_white(scaling: Any) -> None:
    data = {"scaling": scaling}
    recipe = Preprocessing.from_dict(data)
    black_and_white = np.stack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)])
    batch = recipe.batch(list(black_and_white))
    for found in (value_range(data), value_range(recipe.to_dict())):
        assert found is not None
        scale = max(abs(found.low), abs(found.high), 1)
        assert abs(found.low - batch.min()) < 1e-4 * scale
        assert abs(found.high - batch.max()) < 1e-4 * scale


@given(SCALINGS | st.just({"mode": "samplewise"}), st.integers(0, 2**32 - 1))
def test_what_a_recipe_returns_is_in_its_range(scaling: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, rng.integers(2, 257), (4, 4, 3), dtype=np.int64).astype(np.uint8)
    batch = Preprocessing.from_dict({"scaling": scaling}).batch([pixels])
    found = value_range({"scaling": scaling})
    assert found is not None
    assert found.can_hold(float(batch.min()), float(batch.max()))


def test_grey_of_16_bits_keeps_its_values() -> None:
    data = {"color_mode": "grayscale", "scaling": {"mode": "standardize", "mean": 99, "std": 9}}
    found = value_range(data)
    assert found is not None
    pixels = np.array([[0, 60000]], np.uint16)
    batch = Preprocessing.from_dict(data).batch([pixels])
    assert found.can_hold(float(batch.min()), float(batch.max()))
    assert not found.can_hold(0, 255)  # pixels of 8 bits that were not centred
    deep = value_range({"color_mode": "grayscale", "depth": "scale"})
    assert deep is not None
    assert not deep.can_hold(0, 60000)


@pytest.mark.parametrize(
    "recipe",
    [
        {"scaling": "tf"},
        {"scaling": {"mode": "none"}},
        {"scaling": {"mode": "standardize", "mean": 1}},
        {"scaling": {"mode": "standardize", "mean": 1, "std": 0}},
        {"scaling": {"mode": "standardize", "mean": [1, 2], "std": [1, 2, 3]}},
        {"scaling": {"mode": "rescale", "scale": "large"}},
        [],
    ],
)
def test_an_invalid_recipe_has_no_range(recipe: Any) -> None:
    assert value_range(recipe) is None
