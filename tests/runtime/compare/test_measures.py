"""How far two arrays are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layertap.compare.measures import Difference, difference, scaled

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
