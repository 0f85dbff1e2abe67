"""`layertap.extract.rows`: an array in parts is indexed as numpy indexes one array."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layertap.extract.rows import Rows

SHAPE = (11, 3, 2)
WHOLE = np.arange(66, dtype=np.float32).reshape(SHAPE)


def split(cuts: list[int], missing: int | None = None) -> tuple[Rows, Any]:
    ends = [0, *sorted(cuts), len(WHOLE)]
    whole = WHOLE.copy()
    parts: list[tuple[range, Any]] = []
    for at, (start, stop) in enumerate(itertools.pairwise(ends)):
        if start < stop:
            parts.append((range(start, stop), None if at == missing else WHOLE[start:stop]))
            if at == missing:
                whole[start:stop] = np.nan
    return Rows(parts, SHAPE, WHOLE.dtype), whole


CUTS = st.lists(st.integers(0, 11), max_size=4)
LISTS = st.lists(st.integers(-11, 10), max_size=5)


@given(
    CUTS,
    st.none() | st.integers(0, 3),
    hnp.basic_indices(SHAPE, allow_newaxis=True)
    | hnp.arrays(np.bool_, 11)
    | LISTS
    | LISTS.map(tuple).map(list)
    | st.tuples(st.integers(-11, 10), st.slices(3), st.integers(-2, 1))
    | st.tuples(LISTS, st.slices(3))
    | st.tuples(st.slices(11), st.lists(st.integers(-3, 2)))
    | hnp.integer_array_indices((11,), result_shape=hnp.array_shapes(max_dims=2)).map(
        lambda x: x[0]
    ),
)
def test_it_is_indexed_as_numpy_does(cuts: list[int], missing: int | None, at: Any) -> None:
    rows, whole = split(cuts, missing)
    if isinstance(at, list) and not at:
        at = np.array(at, int)
    if isinstance(at, tuple) and at and isinstance(at[0], list) and not at[0]:
        at = (np.array(at[0], int), *at[1:])
    found, right = rows[at], whole[at]
    assert np.shape(found) == np.shape(right)
    np.testing.assert_array_equal(found, right)
    assert np.asarray(found).dtype == WHOLE.dtype


@given(CUTS, st.lists(st.integers(0, 10), min_size=1, max_size=4), st.data())
def test_lists_of_two_axes_are_combined(cuts: list[int], at: list[int], data: Any) -> None:
    other = data.draw(st.lists(st.integers(0, 2), min_size=len(at), max_size=len(at)))
    rows, whole = split(cuts)
    np.testing.assert_array_equal(rows[at, other], whole[at, other])


def test_it_looks_like_an_array() -> None:
    rows, whole = split([4])
    assert (rows.shape, rows.dtype, rows.ndim) == (SHAPE, np.float32, 3)
    assert (len(rows), rows.size, rows.nbytes) == (11, 66, 264)
    assert repr(rows) == "<float32 of (11, 3, 2) in 2 parts>"
    np.testing.assert_array_equal(np.asarray(rows), whole)
    assert np.asarray(rows, np.float64).dtype == np.float64
    assert [row.sum() for row in rows] == [row.sum() for row in whole]
    assert np.mean(rows) == whole.mean()
    with pytest.raises(ValueError, match="in several parts"):
        np.array(rows, copy=False)


@pytest.mark.parametrize("at", [11, -12, [0, 11], [True] * 10, [0.5], "bn"])
def test_indices_that_do_not_exist(at: Any) -> None:
    with pytest.raises(IndexError):
        split([4])[0][at]


def test_a_part_that_is_not_accessed_is_not_read() -> None:
    class Unread:
        def __getitem__(self, at: Any) -> Any:
            raise AssertionError

    parts = [(range(6), WHOLE[:6]), (range(6, 11), Unread())]
    rows = Rows(parts, SHAPE, WHOLE.dtype)
    assert rows[2:5].base is not None  # a view: not even copied
    np.testing.assert_array_equal(rows[[5, 0]], WHOLE[[5, 0]])
    np.testing.assert_array_equal(rows[3], WHOLE[3])
