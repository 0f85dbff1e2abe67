"""The masks of RISE, beside the drawing of the paper done pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.cam import resize
from layertap.cam.random_masks import RandomMasks


@settings(max_examples=30, deadline=None)
@given(
    size=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    parts=st.integers(1, 7),
    smooth=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_is_cut_out_of_an_enlarged_grid(
    size: list[int], parts: int, smooth: bool, seed: int
) -> None:
    cells = [min(parts, one) for one in size]
    masks = RandomMasks(size, cells, 3, 0.5, [seed], smooth=smooth)
    sides = [math.ceil(one / few) for one, few in zip(size, cells, strict=True)]
    for index in range(3):
        grid = masks._grids[index]
        assert set(np.unique(grid)) <= {0.0, 1.0}
        large = grid
        for axis, (few, side) in enumerate(zip(cells, sides, strict=True)):
            if side == 1:
                continue
            moved = np.moveaxis(large, axis, -1)
            if smooth:
                moved = resize(moved, ((few + 1) * side,))
            else:
                moved = np.concatenate([moved[..., :1], moved], axis=-1).repeat(side, axis=-1)
            large = np.moveaxis(moved, -1, axis)
        cut = tuple(slice(at, at + one) for at, one in zip(masks._starts[index], size, strict=True))
        np.testing.assert_allclose(masks[index], large[cut], atol=1e-6)
        assert masks[index].shape == tuple(size)


def test_they_are_cut_out_anywhere() -> None:
    masks = RandomMasks((9, 4), (3, 4), 100, 0.5, [1], smooth=True)
    assert set(map(tuple, masks._starts.tolist())) == {(0, 0), (1, 0), (2, 0)}


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("keep", [0.2, 0.5])
def test_every_position_is_kept_as_often(smooth: bool, keep: float) -> None:
    masks = RandomMasks((13, 9), (3, 4), 4000, keep, [1], smooth=smooth)
    mean = masks.weighted(np.ones((4000, 1)))[0] / 4000
    assert np.abs(mean - keep).max() < 0.04
    if not smooth:
        assert all(set(np.unique(masks[k])) <= {0.0, 1.0} for k in range(50))


def test_weighted_sums_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(0).normal(size=(25, 3))
    masks = RandomMasks((6, 5), (3, 3), 25, 0.5, [2], smooth=True)
    wanted = np.einsum("mt,mhw->thw", weights, np.stack([masks[k] for k in range(25)]))
    np.testing.assert_allclose(masks.weighted(weights), wanted, atol=1e-6)
    monkeypatch.setattr("layertap.cam.random_masks.TOGETHER", 60)
    np.testing.assert_allclose(masks.weighted(weights), wanted, atol=1e-6)


def test_the_seed_decides() -> None:
    one, same, other = (
        RandomMasks((8, 8), (4, 4), 5, 0.5, [seed], smooth=True) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one[4], same[4])
    assert any((one[k] != other[k]).any() for k in range(5))
