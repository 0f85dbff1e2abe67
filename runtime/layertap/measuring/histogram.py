"""Histograms with fixed bins: the same for every layer, every collection and every file.

The bins are spaced by powers of 2 on both sides of 0, each power in 8 equal parts, so a bin is 6 to
12 percent wide. They need no range, so that histograms of batches, collections and files can be
added and compared, and the number of a bin is the upper 12 bits of a float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

BINS = 1 << 12
"""Number of bins, those of NaN and infinities included, which stay empty."""

_SHIFT = 20
_NEGATIVE = BINS // 2

Histogram: TypeAlias = "NDArray[np.int64]"
"""Number of values by bin, `(BINS,)`."""


def empty() -> Histogram:
    """A histogram of no values."""
    return np.zeros(BINS, np.int64)


def bins_of(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bin of each value, `(n,)`, from finite values that are contiguous in memory."""
    bins: NDArray[np.uint16] = (values.view(np.uint32) >> np.uint32(_SHIFT)).astype(np.uint16)
    bins[bins == _NEGATIVE] = 0  # -0.0, and numbers too small for a float32
    return bins


def add(counts: Histogram, bins: NDArray[np.uint16]) -> None:
    """Count values by their bins."""
    counts += np.bincount(bins, minlength=BINS)


def edges(index: int) -> tuple[float, float]:
    """The values between which a bin lies, the lower one first.

    The bin around 0 holds what is closer to 0 than 1.5e-39.
    """
    positive = index % _NEGATIVE
    low, high = (
        float(np.array(code << _SHIFT, np.uint32).view(np.float32))
        for code in (positive, positive + 1)
    )
    high = min(high, float(np.finfo(np.float32).max))
    if positive == 0:
        return -high, high
    return (low, high) if index < _NEGATIVE else (-high, -low)


def ordered(counts: Histogram) -> list[tuple[float, float, int]]:
    """The bins that are not empty: lower edge, upper edge and count, the lowest first."""
    used = np.flatnonzero(counts)
    return sorted((*edges(int(index)), int(counts[index])) for index in used)


def from_ordered(rows: Iterable[tuple[float, float, int]]) -> Histogram:
    """The histogram that `ordered` gave these rows of.

    Raises:
        ValueError: an edge is not that of a bin, or a count is less than 1.
    """
    counts = empty()
    for low, high, count in rows:
        middle = np.array([low + (high - low) / 2], np.float32)
        index = int(bins_of(middle)[0])
        if edges(index) != (low, high) or count < 1:
            raise ValueError(f"there is no bin of {count} values from {low} to {high}")
        counts[index] += count
    return counts


def divergence(one: Histogram, other: Histogram) -> float | None:
    """The Jensen-Shannon divergence of two histograms in bits: 0 if equal, 1 if without overlap.

    `H((p + q) / 2) - (H(p) + H(q)) / 2`, with `H(p) = -sum(p * log2(p))` (Lin, Divergence measures
    based on the Shannon entropy, IEEE Transactions on Information Theory 37(1), 1991). Unlike
    a population stability index, it has a meaning where a bin is empty in one of them.

    Two samples of one distribution never agree exactly. So the bins are joined to two for
    each power of 2, and what chance adds on average is subtracted:
    `(bins - 1) / (8 ln 2) * (1 / n + 1 / m)` for `n` and `m` values (Miller, Note on the bias of
    information estimates, 1955, applied to each of the entropies).

    Returns:
        Between 0 and 1; `None` if a histogram has no values.
    """
    if not (one.any() and other.any()):
        return None
    # Two bins for each power of 2: with more, chance would hide small differences.
    one, other = _coarser(one), _coarser(other)
    n, m = int(one.sum()), int(other.sum())
    p, q = one / n, other / m
    found = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    # Bins that only one of them has are a difference, which no chance needs to explain.
    bins = int(np.count_nonzero((one > 0) & (other > 0)))
    chance = max(bins - 1, 0) / (8 * math.log(2)) * (1 / n + 1 / m)
    return min(max(float(found) - chance, 0.0), 1.0)


def _coarser(counts: Histogram) -> Histogram:
    joined: Histogram = counts.reshape(-1, 4).sum(axis=1)
    return joined


def _entropy(shares: NDArray[np.float64]) -> float:
    shares = shares[shares > 0]
    return float(-np.sum(shares * np.log2(shares)))
