"""Shapley values by a weighted linear regression: KernelSHAP.

Lundberg and Lee 2017: A Unified Approach to Interpreting Model Predictions.
https://arxiv.org/abs/1705.07874
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from layertap.errors import UsageError

Floats = npt.NDArray[np.float64]

MOST_PLAYERS = 1024
"""The regression has a matrix of at least twice as many rows as players."""


class Coalitions(NamedTuple):
    """Sets of players, without the empty set and the set of all."""

    members: npt.NDArray[np.bool_]
    """`(sets, players)`."""
    weights: Floats
    """`(sets,)`: the weight of each in the regression."""


def coalitions(players: int, samples: int | None, seed: int) -> Coalitions:
    """The sets of players whose scores the regression is made from.

    A set of `s` of `n` players has the weight `(n - 1) / (C(n, s) s (n - s))`, the Shapley kernel
    (theorem 2 of the paper). If `samples` allows it, all sets are used, and the values are exact.
    Otherwise the sets of the smallest and largest sizes are all used, as long as they take no more
    than their share of `samples`; the others are drawn in pairs of a set and its complement.

    Args:
        players: their number.
        samples: the largest number of sets; `None` for twice the players and 2,048.
        seed: of the draws.

    Raises:
        UsageError: there are too many players, or too few samples for them.
    """
    if players > MOST_PLAYERS:
        raise UsageError(
            f"kernelshap takes at most {MOST_PLAYERS} players, got {players}. Give a larger "
            "window=, so that fewer patches are compared."
        )
    if players < 2:
        return Coalitions(np.zeros((0, players), bool), np.zeros(0))
    samples = 2 * players + 2048 if samples is None else samples
    possible = 2**players - 2
    if samples < min(2 * players, possible):
        raise UsageError(
            f"kernelshap of {players} players needs at least {min(2 * players, possible)} samples, "
            f"got {samples}. Give more samples=, or a larger window=."
        )
    sizes = range(1, players // 2 + 1)
    kernel = {size: (players - 1) / (size * (players - size)) for size in sizes}
    # A size and that of the complements go together, except for exactly half of the players.
    share = {size: one * (1 if 2 * size == players else 2) for size, one in kernel.items()}
    left, rows, weights = samples, [], []
    for size in sizes:
        sets = math.comb(players, size) * (1 if 2 * size == players else 2)
        rest = sum(share[other] for other in sizes if other >= size)
        # Without all sets of one player, and of all but one, values could be undetermined.
        if size > 1 and left * share[size] / rest < sets * (1 - 1e-8) and left < possible:
            break
        for chosen in itertools.combinations(range(players), size):
            row = np.zeros(players, bool)
            row[list(chosen)] = True
            both = [row] if 2 * size == players else [row, ~row]
            rows += both
            weights += [share[size] / sets] * len(both)
        left -= sets
        possible -= sets
    else:
        return Coalitions(np.array(rows), np.array(weights))
    remaining = [other for other in sizes if other >= size]
    drawn = _drawn(players, remaining, [share[one] for one in remaining], left // 2, seed)
    total = sum(drawn.values())
    rest = sum(share[other] for other in remaining)
    for packed, times in drawn.items():
        rows.append(np.frombuffer(packed, bool))
        weights.append(rest * times / total)
    return Coalitions(np.array(rows), np.array(weights))


def _drawn(
    players: int, sizes: list[int], shares: list[float], pairs: int, seed: int
) -> dict[bytes, int]:
    """Random sets and their complements, with how often each was drawn."""
    generator = np.random.default_rng(seed)
    found: dict[bytes, int] = {}
    chances = np.array(shares) / sum(shares)
    for size in generator.choice(sizes, size=pairs, p=chances):
        row = np.zeros(players, bool)
        row[generator.choice(players, size, replace=False)] = True
        for one in (row, ~row):
            found[one.tobytes()] = found.get(one.tobytes(), 0) + 1
    return found


def values(chosen: Coalitions, scores: Floats, empty: Floats, whole: Floats) -> Floats:
    """The Shapley value of each player, `(players, targets)`; they add up to `whole - empty`.

    Args:
        scores: of the sets, `(sets, targets)`.
        empty: of the empty set, `(targets,)`.
        whole: of all players, `(targets,)`.
    """
    players = chosen.members.shape[1]
    total = whole - empty
    if players < 2:
        return np.broadcast_to(total, (players, len(total))).astype(np.float64)
    if not (np.isfinite(scores).all() and np.isfinite(total).all()):
        return np.full((players, len(total)), np.nan)
    # The last value follows from the sum, which leaves a regression for the others.
    members = chosen.members.astype(np.float64)
    last = members[:, -1:]
    scale = np.sqrt(chosen.weights)[:, None]
    left = (members[:, :-1] - last) * scale
    right = (scores - empty - last * total) * scale
    others = np.linalg.lstsq(left, right, rcond=None)[0]
    return np.concatenate([others, (total - others.sum(axis=0))[None]])
