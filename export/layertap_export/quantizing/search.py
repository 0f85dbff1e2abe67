"""Finds the layers that have to stay more exact, so that a model keeps to a budget.

Every step measures a model. First all layers are quantised. If that is over the budget, each layer
is quantised alone, which gives the order of the damage; that may be measured on fewer samples,
because an order that is a little wrong raises some layers more, and keeps to the budget all the
same. Then bisections find how many of the worst layers have to be raised: to `STORED`; if even all
of them there are over the budget, to `FLOAT`, with the others either narrow or stored, whichever
gives the smaller model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .levels import Level, Levels


class Measured(NamedTuple):
    """A model that was measured."""

    error: float
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search."""

    levels: Mapping[str, Level]
    """The level of each layer."""
    trials: int
    """How many models were measured."""
    holds: bool
    """Whether the error is within the budget, with at least one layer quantised. If not, these
    levels are those with the smallest error."""


def search(
    layers: Sequence[str],
    start: Levels,
    budget: float,
    measure: Callable[[Levels], Measured],
    progress: Callable[[str], None] = lambda stage: None,
    *,
    roughly: Callable[[Levels], Measured] | None = None,
) -> Found:
    """Search for levels within a budget that leave much of a model quantised.

    Args:
        layers: those that may be quantised.
        start: levels below which layers must not go.
        budget: the largest error that is allowed.
        measure: measures the model at some levels.
        progress: called with what is being done.
        roughly: measures the models with one quantised layer, if `measure` shall not.
    """
    return _Search(layers, start, budget, measure, progress, roughly).run()


class _Search:
    def __init__(
        self,
        layers: Sequence[str],
        start: Levels,
        budget: float,
        measure: Callable[[Levels], Measured],
        progress: Callable[[str], None],
        roughly: Callable[[Levels], Measured] | None,
    ) -> None:
        self._start = {layer: start.get(layer, Level.NARROW) for layer in layers}
        self._layers = [layer for layer in layers if self._start[layer] is not Level.FLOAT]
        self._budget, self._measure, self._progress = budget, measure, progress
        self._known: dict[tuple[Level, ...], Measured] = {}
        self._roughly, self._rough_trials = roughly, 0
        self._best: tuple[float, dict[str, Level]] = (float("inf"), dict(self._start))

    def run(self) -> Found:
        layers = self._layers
        if not layers or self._holds(self._raised(layers, 0, Level.NARROW, Level.FLOAT)):
            return self._found(dict(self._start), True)
        worst = self._worst_first(Level.NARROW)
        levels = self._bisect(worst, Level.NARROW, Level.STORED)
        if levels is None:
            least = self._worst_first(Level.STORED)
            chains = [
                self._bisect(worst, Level.NARROW, Level.FLOAT),
                self._bisect(least, Level.STORED, Level.FLOAT),
            ]
            held = [chain for chain in chains if chain is not None]
            if not held:
                return self._found(self._best[1], False)
            levels = min(held, key=lambda one: self._measured(one).size)
        return self._found(levels, True)

    def _worst_first(self, level: Level) -> list[str]:
        """The layers, those first that do most damage if they alone are at a level."""
        damage: dict[str, float] = {}
        for number, layer in enumerate(self._layers, 1):
            self._progress(f"measuring layer {number} of {len(self._layers)}")
            alone = dict.fromkeys(self._layers, Level.FLOAT)
            levels = self._capped({**alone, layer: level})
            if self._roughly is None:
                damage[layer] = self._measured(levels).error
            else:
                damage[layer] = self._roughly(levels).error
                self._rough_trials += 1
        return sorted(self._layers, key=lambda layer: -damage[layer])

    def _bisect(self, worst: Sequence[str], low: Level, high: Level) -> dict[str, Level] | None:
        """The levels with the fewest of the worst layers at `high` and the others at `low`; `None`
        if the most are too few, or if nothing would be quantised."""
        too_few, enough = -1, len(worst) - (high is Level.FLOAT)
        if not self._holds(self._raised(worst, enough, low, high)):
            return None
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            self._progress(f"raising {middle} of {len(worst)} layers")
            if self._holds(self._raised(worst, middle, low, high)):
                enough = middle
            else:
                too_few = middle
        return self._raised(worst, enough, low, high)

    def _raised(
        self, worst: Sequence[str], count: int, low: Level, high: Level
    ) -> dict[str, Level]:
        up = set(worst[:count])
        return self._capped({layer: high if layer in up else low for layer in worst})

    def _capped(self, levels: Levels) -> dict[str, Level]:
        return {layer: max(least, levels.get(layer, least)) for layer, least in self._start.items()}

    def _holds(self, levels: dict[str, Level]) -> bool:
        return self._measured(levels).error <= self._budget

    def _measured(self, levels: dict[str, Level]) -> Measured:
        key = tuple(levels.values())
        if key not in self._known:
            self._known[key] = self._measure(levels)
            if self._known[key].error < self._best[0]:
                self._best = self._known[key].error, levels
        return self._known[key]

    def _found(self, levels: dict[str, Level], holds: bool) -> Found:
        return Found(levels, len(self._known) + self._rough_trials, holds)
