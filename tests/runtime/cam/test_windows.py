"""Windows and patches over positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.cam import windows
from layertap.errors import UsageError

SIZES = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=3
)


@settings(max_examples=50, deadline=None)
@given(SIZES)
def test_windows_cover_everything_and_are_of_one_size(axes: list[tuple[int, int, int]]) -> None:
    size = [one for one, _, _ in axes]
    window = [min(wide, one) for one, wide, _ in axes]
    stride = [min(step, wide) for (_, _, step), wide in zip(axes, window, strict=True)]
    covered = np.zeros(size, int)
    boxes = windows.sliding(size, window, stride)
    for box in boxes:
        assert covered[box].shape == tuple(window)
        covered[box] += 1
    assert covered.min() >= 1
    assert len({str(box) for box in boxes}) == len(boxes)


@settings(max_examples=50, deadline=None)
@given(SIZES)
def test_patches_divide_the_positions(axes: list[tuple[int, int, int]]) -> None:
    size = [one for one, _, _ in axes]
    window = [min(wide, one) for one, wide, _ in axes]
    index = windows.patches(size, window)
    counts = [-(-one // wide) for one, wide in zip(size, window, strict=True)]
    assert sorted(set(index.ravel().tolist())) == list(range(int(np.prod(counts))))
    for position in np.ndindex(*size):
        patch = np.ravel_multi_index(
            [at // wide for at, wide in zip(position, window, strict=True)], counts
        )
        assert index[position] == patch


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [(None, (2, 3)), (4, (4, 4)), (np.int64(4), (4, 4)), ((1, 5), (1, 5)), ({"x": 2}, (2, 2)),
     ({"other": 2}, (2, 3))],
)  # fmt: skip
def test_what_may_be_given(asked: Any, wanted: tuple[int, ...]) -> None:
    found = windows.of_size("window", asked, "x", (8, 8), default=(2, 3), most=(8, 8))
    assert found == wanted


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (0, "window must be at least 1, got 0."),
        ("a", "window must be an integer of at least 1, got 'a'."),
        ((1, 0), "each size in window must be at least 1, got 0."),
        (
            (1, 2, 3),
            "window must be one integer, or one for each of the 2 axes of positions of 'x', got "
            "(1, 2, 3).",
        ),
        (
            9,
            "window must be at most 8 x 9 for 'x', which has 8 x 9 positions, got 9 x 9.",
        ),
    ],
)
def test_what_may_not_be_given(asked: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        windows.of_size("window", asked, "x", (8, 9), default=(1, 1), most=(8, 9))
    assert str(caught.value) == message
