"""Histograms with fixed bins, and the divergence of two of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.measuring import histogram

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def of(values: Any) -> histogram.Histogram:
    counts = histogram.empty()
    histogram.add(counts, histogram.bins_of(np.asarray(values, np.float32)))
    return counts


@settings(max_examples=200)
@given(NUMBERS)
def test_a_value_lies_between_the_edges_of_its_bin(number: float) -> None:
    (bin_,) = histogram.bins_of(np.array([number], np.float32))
    low, high = histogram.edges(int(bin_))
    assert low <= number <= high
    smallest = float(np.finfo(np.float32).smallest_normal)
    if abs(number) >= smallest * 1.125:
        assert 1.05 < max(abs(low), abs(high)) / min(abs(low), abs(high)) <= 1.125


@settings(max_examples=50)
@given(st.lists(NUMBERS, max_size=30))
def test_the_ordered_bins_are_the_whole_histogram(numbers: list[float]) -> None:
    counts = of(numbers)
    rows = histogram.ordered(counts)
    assert sum(count for *_, count in rows) == len(numbers)
    assert rows == sorted(rows)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(rows))
    assert np.array_equal(histogram.from_ordered(rows), counts)


@pytest.mark.parametrize("row", [(1.0, 1.1, 3), (1.0, 1.125, 0), (math.inf, math.inf, 1)])
def test_a_row_that_is_no_bin_is_refused(row: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="there is no bin"):
        histogram.from_ordered([row])


def test_the_divergence_is_that_of_the_formula() -> None:
    one, other = of([1.0] * 30 + [2.0] * 70), of([1.0] * 60 + [2.0] * 40)
    p, q = np.array([0.3, 0.7]), np.array([0.6, 0.4])
    middle = (p + q) / 2
    kl = [float(np.sum(x * np.log2(x / middle))) for x in (p, q)]  # its other form
    chance = (1 / 100 + 1 / 100) / (8 * math.log(2))
    assert histogram.divergence(one, other) == pytest.approx(sum(kl) / 2 - chance)


def test_the_divergence_of_equal_and_of_disjoint_histograms() -> None:
    one, other = of([1.0, 2.0, 4.0]), of([-1.0])
    assert histogram.divergence(one, one) == 0
    assert histogram.divergence(one, other) == pytest.approx(1)
    assert histogram.divergence(one, histogram.empty()) is None


def test_samples_of_one_distribution_diverge_by_little() -> None:
    """Without the correction it would be 0.02."""
    generator = np.random.default_rng(0)
    found = [
        histogram.divergence(of(generator.normal(size=1024)), of(generator.normal(size=3072)))
        for _ in range(10)
    ]
    assert all(one is not None and one < 0.008 for one in found)
    moved = histogram.divergence(
        of(generator.normal(size=1024)), of(generator.normal(0.5, 1, size=3072))
    )
    assert moved is not None
    assert moved > 0.03
