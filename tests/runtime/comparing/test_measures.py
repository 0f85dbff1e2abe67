"""How far two arrays are apart."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.comparing import measures
from layertap.comparing.measures import Accumulated, Difference, difference, scaled

Array = np.ndarray[Any, Any]
INF, NAN = float("inf"), float("nan")


def test_an_error_is_divided_by_the_largest_expected_value() -> None:
    expected = np.array([[1.0, -4.0]], np.float32)
    found = difference(expected + np.float32(0.5), expected)
    assert found == Difference(0.5, 0.125)


@pytest.mark.parametrize(("least", "wanted"), [(0.0, 0.25), (1.0, 0.25), (8.0, 0.0625)])
def test_the_scale_is_at_least_the_one_given(least: float, wanted: float) -> None:
    found = difference(np.array([2.5]), np.array([2.0]), least_scale=least)
    assert (found.max_abs, found.scaled) == (0.5, wanted)


def test_an_error_against_zeros_is_not_divided() -> None:
    assert difference(np.array([0.0, 3.0]), np.zeros(2)) == Difference(3.0, 3.0)
    assert scaled(3.0, 0.0) == 3.0


@pytest.mark.parametrize(
    ("actual", "expected", "problem"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "shape (2, 3) instead of (3, 2)"),
        (np.zeros(2, np.float32), np.zeros(2), "dtype float32 instead of float64"),
        (np.array([NAN]), np.array([1.0]), "NaN or infinite"),
        (np.array([1.0]), np.array([NAN]), "NaN or infinite"),
        (np.array([INF]), np.array([NAN]), "NaN or infinite"),
        (np.array([INF, 1.0]), np.array([-INF, 1.0]), "NaN or infinite"),
    ],
)
def test_a_problem_is_infinitely_far(actual: Any, expected: Any, problem: str) -> None:
    assert difference(actual, expected) == Difference(INF, INF, problem)


def test_values_that_are_not_finite_equal_themselves() -> None:
    values = np.array([NAN, INF, -INF, 2.0])
    assert difference(values, values.copy()) == Difference(0.0, 0.0)
    assert difference(values + 1, values) == Difference(1.0, 0.5)


def test_another_dtype_may_be_allowed() -> None:
    found = difference(np.array([1.5], np.float32), np.array([1.0]), same_dtype=False)
    assert found == Difference(0.5, 0.5)


@pytest.mark.parametrize(
    ("actual", "expected", "share"),
    [
        (np.array(["a", "b"], object), np.array(["a", "c"], object), 0.5),
        (np.array([1j, 2j, 3j, 4j]), np.array([1j, 2j, 3j, 5j]), 0.25),
        (np.array([], object), np.array([], object), 0.0),
    ],
)
def test_values_that_are_not_real_are_counted(actual: Any, expected: Any, share: float) -> None:
    assert difference(actual, expected) == Difference(share, share)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64"])
def test_all_real_dtypes_are_subtracted(dtype: str) -> None:
    """Also unsigned ones, which would wrap around."""
    found = difference(np.array([0, 1, 1], dtype), np.array([1, 1, 1], dtype))
    assert found == Difference(1.0, 1.0)


def test_arrays_without_elements_do_not_differ() -> None:
    assert difference(np.zeros((0, 3)), np.zeros((0, 3))) == Difference(0.0, 0.0)


def test_the_larger_difference_keeps_the_first_problem() -> None:
    one, other = Difference(1.0, 0.5), Difference(0.5, 2.0)
    assert one.larger(other) == Difference(1.0, 2.0)
    bad = Difference(INF, INF, "shape")
    assert one.larger(bad) == bad
    assert bad.larger(Difference(INF, INF, "dtype")).problem == "shape"


VALUES = [0.0, -0.0, 1.5, -2.0, 3e38, -3e38, 1e-40, INF, -INF, NAN]
TYPES = ["float64", "float32", "float16", "int8", "int64", "uint8", "bool"]


@given(
    st.sampled_from(TYPES),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 9), st.integers(0, 9)), max_size=4),
    st.sampled_from([0, 1, 4, 5, 101]),
    st.sampled_from([0.0, 2.5]),
)
def test_blocks_give_what_the_whole_arrays_give(
    dtype: str, changed: list[tuple[int, int, int]], size: int, least: float
) -> None:
    """Also where values that are not finite, or too large to subtract, stand in some blocks."""
    expected = np.arange(size) % 3
    pair = [expected.astype(np.float64), expected.astype(np.float64)]
    for at, *chosen in changed:
        for array, value in zip(pair, chosen, strict=True):
            array[at : at + 1] = VALUES[value]
    with np.errstate(all="ignore"):
        if not dtype.startswith("float"):
            pair = [np.nan_to_num(array, posinf=1, neginf=0).clip(0, 100) for array in pair]
        actual, wanted = (array.astype(dtype) for array in pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "BLOCK", 4)
        found = difference(actual, wanted, least_scale=least)
    assert found == pytest.approx(_in_one_piece(actual, wanted, least), nan_ok=True)


def _in_one_piece(actual: Any, expected: Any, least: float) -> tuple[float, float, str]:
    finite = np.isfinite(expected)
    others = np.array_equal(actual[~finite], expected[~finite], equal_nan=True)
    if not others or not np.isfinite(actual[finite]).all():
        return INF, INF, "NaN or infinite"
    dtype = np.float32 if actual.dtype in (np.float32, np.float16) else np.float64
    with np.errstate(over="ignore"):
        apart = np.abs(actual[finite].astype(dtype) - expected[finite].astype(dtype))
    error = float(apart.max(initial=0))
    scale = max(float(np.abs(expected[finite].astype(dtype)).max(initial=0)), least)
    return error, error / scale if scale else error, ""


# --- Batch by batch -----------------------------------------------------------------------------


@st.composite
def arrays_in_batches(draw: st.DrawFn) -> tuple[list[tuple[Array, Array]], int | None]:
    """Pairs of arrays of one shape except for the samples, in any order of axes in memory."""
    rank = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 17, 40]), min_size=rank - 1, max_size=rank - 1))
    seed, order = draw(st.integers(0, 99)), draw(st.permutations(range(rank)))
    generator = np.random.default_rng(seed)
    pairs = []
    dtypes = st.sampled_from([np.float32, np.float64, np.float16])
    dtype, other = draw(dtypes), draw(dtypes)
    for count in draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)):
        shape = (count, *sizes)
        stored = tuple(shape[axis] for axis in order)
        expected = generator.normal(size=stored).astype(dtype).transpose(np.argsort(order))
        noise = generator.normal(size=shape) * 10.0 ** draw(st.integers(-4, 0))
        actual = (expected + noise).astype(other)
        pairs.append((actual, expected))
    axis = draw(st.none() | st.integers(1, rank - 1)) if rank > 1 else None
    return pairs, axis


@given(arrays_in_batches())
def test_what_is_accumulated_is_that_of_all_at_once(
    drawn: tuple[list[tuple[Array, Array]], int | None],
) -> None:
    pairs, axis = drawn
    found = Accumulated(lambda rank: axis)
    for actual, expected in pairs:
        found.add(actual, expected)
    ours, theirs = (
        np.concatenate([pair[at] for pair in pairs]).astype(np.float64) for at in (0, 1)
    )
    gap = ours - theirs
    scale = np.abs(theirs).max()
    near = partial(pytest.approx, rel=1e-4)
    assert found.scale == near(scale)
    assert found.max_abs == near(np.abs(gap).max())
    assert found.scaled == near(np.abs(gap).max() / scale)
    if (gap**2).sum() > 1e-12:
        assert found.snr == pytest.approx(
            10 * np.log10((theirs**2).sum() / (gap**2).sum()), abs=0.01
        )
    cosine = (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert found.cosine == pytest.approx(cosine, abs=1e-5)
    if axis is None:
        assert found.channels_beyond(0.1) is None
    else:
        by_channel = np.abs(gap).max(axis=tuple(at for at in range(gap.ndim) if at != axis))
        assert found.channels_beyond(0.1) == near((by_channel > 0.1 * scale).mean())


def test_nearly_equal_arrays_have_an_exact_cosine() -> None:
    """Out of the products of both, it would be 1 to all digits of float32."""
    expected = np.ones(1000, np.float32)
    actual = expected.copy()
    actual[::2] += np.float32(1e-4)
    found = Accumulated()
    found.add(actual, expected)
    exact = actual.astype(np.float64)
    cosine = exact.sum() / np.linalg.norm(exact) / np.sqrt(1000)
    assert 1 - found.cosine == pytest.approx(1 - cosine, rel=1e-2)


@pytest.mark.parametrize(
    ("actual", "expected", "scaled_error", "problem"),
    [
        ([1.0, np.nan], [1.0, np.nan], 0.0, ""),
        ([1.0, np.inf], [1.0, np.inf], 0.0, ""),
        ([1.5, np.inf], [1.0, np.inf], 0.5, ""),
        ([1.0, np.inf], [1.0, -np.inf], np.inf, "NaN or infinite"),
        ([1.0, 2.0], [1.0, np.nan], np.inf, "NaN or infinite"),
        ([1.0, np.nan], [1.0, 2.0], np.inf, "NaN or infinite"),
        ([3e38, 0.0], [-3e38, 0.0], 2.0, ""),
        ([0.0, 0.0], [0.0, 0.0], 0.0, ""),
        ([0.5, 0.0], [0.0, 0.0], 0.5, ""),
    ],
)
def test_what_is_not_finite_is_equal_only_to_itself(
    actual: list[float], expected: list[float], scaled_error: float, problem: str
) -> None:
    found = Accumulated()
    found.add(np.array(actual, np.float32), np.array(expected, np.float32))
    assert found.scaled == pytest.approx(scaled_error)
    assert found.problem == problem


def test_other_shapes_and_values_that_are_no_numbers() -> None:
    found = Accumulated()
    assert found.add(np.zeros(3), np.zeros(4)) == np.inf
    assert found.problem == "shape (3,) instead of (4,)"
    words = Accumulated()
    words.add(np.array(["a", "b"], object), np.array(["a", "c"], object))
    words.add(np.array(["a", "b"], object), np.array(["a", "b"], object))
    assert words.scaled == 0.25
    assert np.isnan(words.cosine)
    nothing = Accumulated()
    assert nothing.add(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0
    assert nothing.scaled == 0.0
