"""Shapley values, beside their definition: the mean gain of a player over all orders."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap.cam import shapley
from layertap.errors import UsageError


def game(players: int, seed: int) -> dict[bytes, np.ndarray]:
    """A value for every set of players, with nothing in common; two targets."""
    generator = np.random.default_rng(seed)
    sets = itertools.product((False, True), repeat=players)
    return {np.array(one, bool).tobytes(): generator.normal(size=2) for one in sets}


def by_definition(players: int, worth: dict[bytes, np.ndarray]) -> np.ndarray:
    """`sum over sets S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))`."""
    found = np.zeros((players, 2))
    for i in range(players):
        for members in itertools.product((False, True), repeat=players):
            if members[i]:
                continue
            without = np.array(members, bool)
            joined = without.copy()
            joined[i] = True
            size = int(without.sum())
            share = math.factorial(size) * math.factorial(players - size - 1)
            gain = worth[joined.tobytes()] - worth[without.tobytes()]
            found[i] += share / math.factorial(players) * gain
    return found


def solved(players: int, samples: int | None, seed: int, worth: Any) -> np.ndarray:
    """By the regression; `worth` takes rows of members."""
    chosen = shapley.coalitions(players, samples, seed)
    ends = worth(np.array([[False] * players, [True] * players]))
    return shapley.values(chosen, worth(chosen.members), ends[0], ends[1])


@settings(max_examples=25, deadline=None)
@given(players=st.integers(1, 7), seed=st.integers(0, 1000))
def test_all_sets_give_the_definition(players: int, seed: int) -> None:
    worth = game(players, seed)
    found = solved(
        players,
        None,
        0,
        lambda rows: np.array([worth[row.tobytes()] for row in rows]).reshape(-1, 2),
    )
    np.testing.assert_allclose(found, by_definition(players, worth), atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(players=st.integers(2, 40), more=st.integers(0, 200), seed=st.integers(0, 1000))
def test_a_sum_of_players_is_exact_from_any_samples(players: int, more: int, seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(players, 2))
    found = solved(players, 2 * players + more, seed, lambda rows: rows @ weights + 3)
    np.testing.assert_allclose(found, weights, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(players=st.integers(2, 30), more=st.integers(0, 300), seed=st.integers(0, 1000))
def test_the_sets(players: int, more: int, seed: int) -> None:
    """No more than asked for, none twice, each with its complement, and the kernel's weight in all
    for each size."""
    samples = 2 * players + more
    chosen = shapley.coalitions(players, samples, seed)
    rows = {row.tobytes() for row in chosen.members}
    assert len(rows) == len(chosen.members) <= samples
    assert {(~row).tobytes() for row in chosen.members} == rows
    sizes = chosen.members.sum(axis=1)
    assert sizes.min() >= 1
    assert sizes.max() <= players - 1
    kernel = {s: (players - 1) / (s * (players - s)) for s in range(1, players)}
    if len(rows) == 2**players - 2:
        for size, weight in kernel.items():
            assert chosen.weights[sizes == size].sum() == pytest.approx(weight)
    elif samples >= 2 * players + 2:
        assert chosen.weights.sum() == pytest.approx(sum(kernel.values()))
    assert chosen.weights[sizes == 1].sum() == pytest.approx(kernel[1])


def test_draws_come_close() -> None:
    """Pairs of 16 players matter: the values are those of the exact halves, with little noise."""
    generator = np.random.default_rng(5)
    pairs = np.triu(generator.normal(size=(16, 16)), 1)
    single = generator.normal(size=16)

    def worth(rows: np.ndarray) -> np.ndarray:
        one = rows.astype(float)
        third = one[:, :3].prod(axis=1) * 4
        return (one @ single + np.einsum("mi,ij,mj->m", one, pairs, one) + third)[:, None]

    wanted = single + (pairs.sum(axis=0) + pairs.sum(axis=1)) / 2
    wanted[:3] += 4 / 3
    few = np.abs(solved(16, 200, 1, worth)[:, 0] - wanted).max()
    many = np.abs(solved(16, 4000, 1, worth)[:, 0] - wanted).max()
    assert many < 0.05
    assert many < few < 1


def test_a_value_that_is_not_finite() -> None:
    found = solved(3, None, 0, lambda rows: np.where(rows[:, :1], np.nan, 1.0))
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("players", "samples", "message"),
    [
        (
            1025,
            None,
            "kernelshap takes at most 1024 players, got 1025. Give a larger window=, so that fewer "
            "patches are compared.",
        ),
        (
            20,
            39,
            "kernelshap of 20 players needs at least 40 samples, got 39. Give more samples=, or a "
            "larger window=.",
        ),
        (
            2,
            1,
            "kernelshap of 2 players needs at least 2 samples, got 1. Give more samples=, or a "
            "larger window=.",
        ),
    ],
)
def test_numbers_that_do_not_fit(players: int, samples: int | None, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        shapley.coalitions(players, samples, 0)
    assert str(caught.value) == message
