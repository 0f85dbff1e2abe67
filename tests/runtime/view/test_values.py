"""The values of layers as a page holds them, read back as its scripts do."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import layertap
from generators import tiny
from layertap._engine.program import program_of
from layertap.view.room import blocks
from layertap.view.values import (
    block_means,
    layer_values,
    number,
    packed_maps,
    quantised,
    statistics,
)

MAPS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=3, max_side=9),
    elements=st.floats(width=32),
)


def levels_as_values(low: Any, high: Any, levels: Any) -> np.ndarray:
    """What the script of the page computes."""
    first, last = (np.float64(one).reshape(-1, *(1,) * (levels.ndim - 1)) for one in (low, high))
    found: np.ndarray = np.where(levels == 255, np.nan, first + levels * ((last - first) / 254))
    return found


@given(MAPS)
def test_levels_are_values_within_half_a_step(maps: np.ndarray) -> None:
    low, high, levels = quantised(maps)
    found = levels_as_values(low, high, levels)
    finite = np.isfinite(maps)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    step = (high.astype(np.float64) - low).reshape(-1, *(1,) * (maps.ndim - 1)) / 508
    allowed = np.broadcast_to(step * (1 + 1e-9) + 1e-45, maps.shape)
    errors = np.abs(np.where(finite, found, 0) - np.where(finite, maps, 0).astype(np.float64))
    assert (errors <= allowed).all()
    for channel, known in enumerate(finite):
        if known.any():
            assert low[channel] <= maps[channel][known].min()
            assert high[channel] >= maps[channel][known].max()


@given(MAPS, st.integers(1, 10))
def test_packed_maps_have_the_statistics_of_the_whole_map(maps: np.ndarray, side: int) -> None:
    data, count = packed_maps(maps, side), len(maps)
    heads = np.frombuffer(data[: 24 * count], "<f4").reshape(6, count)
    flat = maps.reshape(count, -1)
    np.testing.assert_array_equal(heads[2], flat.min(axis=1))
    np.testing.assert_array_equal(heads[3], flat.max(axis=1))
    with np.errstate(all="ignore"):
        mean = flat.mean(axis=1, dtype=np.float64).astype(np.float32)
    np.testing.assert_allclose(heads[4], mean, rtol=2e-7)
    pixels = np.prod(blocks(maps.shape[1:], side))
    assert len(data) == count * (24 + pixels)


def test_blocks_are_means_also_at_the_edge() -> None:
    maps = np.arange(2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
    found = block_means(maps, 3)
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found[1, 0, 0], maps[1, :3, :3].mean())
    np.testing.assert_allclose(found[0, 1, 2], maps[0, 3:, 6:].mean())
    assert block_means(maps, 1) is maps


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64", "bool"])
def test_statistics_are_exact(dtype: str) -> None:
    values = (np.random.default_rng(0).normal(size=(3, 4, 5)) * 50).astype(dtype)
    found = statistics(values)
    assert found["low"] == float(values.min())
    assert found["high"] == float(values.max())
    assert found["mean"] == pytest.approx(float(values.mean(dtype=np.float64)), rel=1e-12)
    assert found["zeros"] == int((values == 0).sum())
    assert (found["size"], found["bad"]) == (60, 0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_numbers_that_json_lacks_are_words() -> None:
    values = np.array([[1.0, np.nan, np.inf, -np.inf, 0.0]], np.float32)
    found = statistics(values)
    assert (found["low"], found["bad"], found["zeros"]) == ("NaN", 3, 1)
    assert [number(x) for x in (np.inf, -np.inf, 2)] == ["Infinity", "-Infinity", 2.0]
    _, _, levels = quantised(values)
    assert levels.tolist() == [[254, 255, 255, 255, 0]]


def test_values_of_a_layer_have_their_channels_first(classifier: layertap.Model) -> None:
    program = program_of(classifier)
    maps = np.random.default_rng(0).random((2, 8, 6, 4)).astype(np.float32)
    found = layer_values(program, "relu", maps)
    assert found is not None
    np.testing.assert_array_equal(found.maps, np.moveaxis(maps[0], -1, 0))
    assert layer_values(program, "relu", [maps]) is None
    assert layer_values(program, "relu", maps[:0]) is None
    video = layer_values(program, "relu", np.zeros((1, 5, 8, 6, 4), np.float32))
    assert video is not None
    assert (video.maps.shape, video.cut, video.sizes) == ((4, 8, 6), (2,), (5,))


def test_one_position_is_a_vector() -> None:
    program = program_of(layertap.open(tiny.channels_first().SerializeToString()))
    found = layer_values(program, "any", np.zeros((2, 7, 1, 1), np.float32))
    assert found is not None
    assert found.maps.shape == (7,)
    scalar = layer_values(program, "any", np.float32(3)[None][0].reshape(()))
    assert scalar is None or scalar.maps.shape == (1,)
