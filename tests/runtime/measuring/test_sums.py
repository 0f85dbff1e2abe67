"""The sums of a layer's values, against numpy in float64 on whole arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.measuring import histogram
from layertap.measuring.sums import BLOCK, DRAWN, Bounds, Sums, merged, side_by_side, sums_of

SHAPES = [(5,), (1, 1), (7, 5), (4, 6, 3), (0, 3), (2, 3, 4, 5), (300, 300, 2)]


def expected(values: Any, axis: int | None) -> dict[str, Any]:
    """What the sums should be, from all values at once."""
    rows = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0)
    rows = rows.reshape(len(rows), math.prod(rows.shape[1:])).astype(np.float64)
    found: dict[str, Any] = {key: [] for key in ("number", "mean", "std", "low", "high")}
    for row in rows:
        kept = row[np.isfinite(row)]
        found["number"].append(kept.size)
        found["mean"].append(kept.mean() if kept.size else 0.0)
        found["std"].append(kept.std() if kept.size else 0.0)
        found["low"].append(kept.min(initial=np.inf))
        found["high"].append(kept.max(initial=-np.inf))
    return found


def agrees(sums: Sums, values: Any, axis: int | None) -> None:
    want = expected(values, axis)
    assert sums.number.tolist() == want["number"]
    assert sums.low.tolist() == want["low"]
    assert sums.high.tolist() == want["high"]
    std = np.sqrt(sums.squares / np.maximum(sums.number, 1))
    scale = np.maximum(np.abs(want["mean"]), want["std"])
    assert np.all(np.abs(sums.mean - want["mean"]) <= 2e-6 * scale)
    assert np.all(np.abs(std - want["std"]) <= 5e-5 * np.array(want["std"]) + 1e-12 * scale)
    assert sums.zeros == np.count_nonzero(values == 0)
    assert sums.nans == np.count_nonzero(np.isnan(values))
    assert sums.infinities == np.count_nonzero(np.isinf(values))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(["float32", "float16", "float64", "int32", "uint8", "bool"]),
    offset=st.sampled_from([0.0, 100.0, -1e4]),
    first=st.booleans(),
    seed=st.integers(0, 99),
    bad=st.sampled_from([None, np.nan, np.inf, -np.inf]),
    data=st.data(),
)
def test_the_sums_are_those_of_numpy(
    shape: tuple[int, ...],
    dtype: str,
    offset: float,
    first: bool,
    seed: int,
    bad: float | None,
    data: Any,
) -> None:
    """Whatever the order of the axes in memory; with mean far from 0, zeros, NaN and infinity."""
    generator = np.random.default_rng(seed)
    numbers = np.maximum(generator.normal(offset, 3, shape), offset)
    with np.errstate(all="ignore"):
        values = numbers.astype(dtype)
    if bad is not None and values.dtype.kind == "f" and values.size:
        values.reshape(-1)[generator.integers(values.size)] = bad
    if first and values.ndim > 1:  # as a layer that is computed channels first
        values = np.moveaxis(np.ascontiguousarray(np.moveaxis(values, -1, 0)), 0, -1)
    axis = data.draw(st.sampled_from([None, *range(len(shape))]))
    agrees(sums_of(values, axis, None), values, axis)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e30])
def test_squares_neither_overflow_nor_vanish(scale: float) -> None:
    values = (np.random.default_rng(0).normal(1, 1, (50, 3)) * scale).astype(np.float32)
    agrees(sums_of(values, 1, None), values, 1)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_merged_sums_are_those_of_all_values(sizes: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    parts = [generator.normal(50, 1, (size, 4)).astype(np.float32) for size in sizes]
    sums = [sums_of(part, 1, None) for part in parts]
    whole = sums[0]
    for other in sums[1:]:
        whole = merged(whole, other)
    agrees(whole, np.concatenate(parts), 1)


def test_a_layer_larger_than_a_block_is_the_same_in_every_order_of_memory() -> None:
    values = np.random.default_rng(0).normal(2, 1, (BLOCK + 7, 3)).astype(np.float32)
    turned = np.ascontiguousarray(values.T).T
    for one in (values, turned):
        agrees(sums_of(one, 1, None), values, 1)
        agrees(sums_of(one, None, None), values, None)


@pytest.mark.parametrize("size", [1, DRAWN, DRAWN + 1, 3 * BLOCK + 5])
def test_the_histogram_counts_all_values_of_small_layers_and_some_of_large_ones(size: int) -> None:
    values = np.random.default_rng(0).normal(size=size).astype(np.float32)
    bins = sums_of(values, None, None).bins
    if size <= DRAWN:
        assert sorted(bins) == sorted(histogram.bins_of(values))
    else:
        assert 0.9 * DRAWN <= len(bins) <= DRAWN
        below = sum(high <= 0 for bin_ in bins for high in [histogram.edges(int(bin_))[1]])
        assert abs(below / len(bins) - 0.5) < 0.06


def test_how_far_values_are_inside_of_bounds() -> None:
    values = np.array([[0.0, 6.0, 3.0], [6.0, 6.0, 5.5]], np.float32)
    sums = sums_of(values, 1, Bounds(0.0, 6.0))
    assert sums.inside.tolist() == [0.0, 0.0, 3.0]
    nan = np.array([[np.nan, 6.0, 3.0]], np.float32)
    assert sums_of(nan, 1, Bounds(0.0, 6.0)).inside.tolist() == [-np.inf, 0.0, 3.0]
    assert np.isnan(sums_of(values, 1, None).inside).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int32"])
def test_the_sums_of_concatenated_channels_are_those_of_the_parts(dtype: str) -> None:
    generator = np.random.default_rng(0)
    parts = [generator.normal(2, 3, (40, 30, n)).astype(dtype) for n in (3, 1, 5)]
    whole = np.concatenate(parts, axis=2)
    found = side_by_side(whole, [sums_of(part, 2, Bounds(0, 6)) for part in parts])
    assert found is not None
    agrees(found, whole, 2)
    assert np.isnan(found.inside).all()
    assert len(found.bins) == DRAWN
    assert set(found.bins) <= set(histogram.bins_of(whole.astype(np.float32).ravel()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_have_to_be_read(bad: float) -> None:
    parts = [np.ones((4, 2), np.float32), np.full((4, 1), bad, np.float32)]
    sums = [sums_of(part, 1, None) for part in parts]
    assert side_by_side(np.concatenate(parts, axis=1), sums) is None
