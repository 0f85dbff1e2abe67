"""How far Keras is from itself, where a file is over the tolerance.

Some networks magnify rounding: long recurrences, deep networks whose values vanish, differences of
large numbers. There Keras in float32 is further than the tolerance from the exact result, and so is
every program that adds up in another order. Such a layer passes if the file is about as close to
the exact result, Keras in float64, as Keras is. Where Keras cannot compute in float64, it passes if
Keras's own result moves as far when the input changes by a millionth.

In a chaotic network both errors are as large as the values, so a wrong weight would not show. It
does in float64, in which the file's own graph must agree with Keras, as far as Keras agrees with
itself in float64.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from layertap.compare.measures import difference
from layertap_export.errors import ExportError
from layertap_export.keras_model.subject import Run, Subject

from .card_like import CardLike
from .float64_graph import has_only_weights, in_float64
from .reference import precise_runner, runner
from .written_file import WrittenFile

CHANGE = 1e-6
"""The changes of the input, as a share of each element; its rounding is a sixteenth of that."""

FINE_CHANGE = 2e-15
"""The same in float64."""

CHANGE_COUNT = 3
"""How many changes are tried."""

SHARE = 3.0
"""How many times as far from float64 as Keras a file may be: both errors are random."""

GRAPH_SHARE = 10.0
"""The same where the file's graph agrees with Keras in float64, so that only rounding is left."""

GRAPH_SECONDS = 60.0
"""How long the computation of the file's graph in float64 may take."""

Values: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnError:
    """How far Keras is from itself in one layer, in the layer's scale."""

    keras: float
    """From Keras in float64; without it, how far Keras moves if the input changes by `CHANGE`."""
    file: float | None
    """How far the file is from Keras in float64, if that is known."""
    graph: float | None = None
    """How far the file's graph in float64 is from Keras in float64, if that is known."""
    fine: float = 0.0
    """How far Keras in float64 moves if the input changes by `FINE_CHANGE`."""

    def excuses(self, error: float, tolerance: float) -> bool:
        """Whether a file passes whose distance from Keras is over the tolerance."""
        if self.file is None:
            return error <= self.keras
        if self.graph is None:
            return self.file <= max(tolerance, SHARE * self.keras)
        agrees = self.graph <= max(tolerance, GRAPH_SHARE * self.fine)
        return agrees and self.file <= max(tolerance, GRAPH_SHARE * self.keras)


class KerasItself:
    """Measures how far Keras is from itself."""

    def __init__(
        self,
        file: WrittenFile,
        subject: Subject,
        card: CardLike,
        wanted: Collection[str],
        tolerance: float,
    ) -> None:
        """
        Args:
            file: the file.
            subject: the model.
            card: the card of the file, or its draft.
            wanted: names of the file's outputs.
            tolerance: largest scaled error that passes.
        """
        self._file, self._subject, self._card, self._wanted = file, subject, card, wanted
        self._tolerance = tolerance
        self._scales: Mapping[str, float] = {}

    def errors(
        self,
        arrays: Sequence[NDArray[Any]],
        values: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
        scales: Mapping[str, float],
    ) -> dict[str, OwnError]:
        """How far Keras is from itself on one batch, by the name of the output.

        Args:
            arrays: the batch.
            values: the file's value and Keras's of each output in question.
            scales: the least scales of the outputs that have one on this batch.
        """
        if not values:
            return {}
        self._scales = scales
        ours = {name: pair[0] for name, pair in values.items()}
        theirs = {name: pair[1] for name, pair in values.items()}
        batches = [list(arrays), *_changes(arrays, CHANGE)]
        runs = [theirs, *(_only(ours, self._keras(batch)) for batch in batches[1:])]
        exact = self._exact(batches, theirs)
        keras: dict[str, float] = {}
        file: dict[str, float | None] = {}
        for name in ours:
            truths = exact or [theirs] * len(runs)
            keras[name] = max(
                self._scaled(name, run[name], truth[name])
                for run, truth in zip(runs, truths, strict=True)
            )
            file[name] = self._scaled(name, ours[name], exact[0][name]) if exact else None
        near = [
            name
            for name, error in file.items()
            if error is not None and error <= max(self._tolerance, GRAPH_SHARE * keras[name])
        ]
        graph = self._of_graph(arrays, _only(near, exact[0])) if exact and near else {}
        doubtful = {name for name, error in graph.items() if error > self._tolerance}
        fine = self._fine(arrays, _only(doubtful, exact[0])) if exact and doubtful else {}
        return {
            name: OwnError(
                keras=keras[name],
                file=file[name],
                graph=graph.get(name),
                fine=fine.get(name, 0.0),
            )
            for name in ours
        }

    def _fine(self, arrays: Sequence[NDArray[Any]], exact: Values) -> dict[str, float]:
        """How far Keras in float64 is from itself."""
        assert self._copies is not None
        _, precise = self._copies
        wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in arrays]
        runs = [_only(exact, precise(batch)) for batch in _changes(wide, FINE_CHANGE)]
        return {
            name: max(self._scaled(name, run[name], x) for run in runs) for name, x in exact.items()
        }

    def _of_graph(self, arrays: Sequence[NDArray[Any]], exact: Values) -> dict[str, float]:
        """How far the file's graph in float64 is from Keras in float64, where that says something.

        Constants that were computed in float32 at the export differ by a rounding from those in
        float64, which a chaotic network magnifies too. So only agreement counts where there are
        such constants. Numbers of Keras's code that were rounded, as 0.1, are read as these numbers
        or as they are in the file.
        """
        feeds = {info.name: x for info, x in zip(self._card.inputs, arrays, strict=True)}
        until = time.monotonic() + GRAPH_SECONDS
        found: dict[str, float] = {}
        for unrounded in (True, False):
            values = in_float64(self._file, list(exact), feeds, until, unrounded=unrounded)
            for name, x in values.items():
                error = self._scaled(name, x, exact[name])
                found[name] = min(error, found.get(name, error))
            if all(error <= self._tolerance for error in found.values()):
                break
        if has_only_weights(self._file, self._subject.weights):
            return found
        return {name: error for name, error in found.items() if error <= self._tolerance}

    def _exact(
        self, batches: Sequence[Sequence[NDArray[Any]]], theirs: Values
    ) -> list[Values] | None:
        """Keras in float64 on these batches, of which the first gave `theirs`.

        `None` if there is no copy in float64 that can be trusted: a layer may not keep all that it
        computes with in its configuration, from which the copy is built. A copy in the model's own
        dtypes shows that.
        """
        if self._copies is None:
            return None
        same, precise = self._copies
        try:
            values = _only(theirs, same(batches[0]))
            if any(self._scaled(k, values[k], x) > self._tolerance for k, x in theirs.items()):
                return None
            return [_only(theirs, precise(batch)) for batch in batches]
        except Exception:  # noqa: BLE001 - a layer's own code may not take float64
            return None

    def _scaled(self, name: str, value: NDArray[Any], truth: NDArray[Any]) -> float:
        least = self._scales.get(name, 0.0)
        return difference(value, truth, least_scale=least, same_dtype=False).scaled

    @cached_property
    def _keras(self) -> Run:
        return runner(self._subject, self._card, self._wanted)

    @cached_property
    def _copies(self) -> tuple[Run, Run] | None:
        """A copy of the model in its own dtypes, and one in float64."""
        try:
            return (
                runner(self._subject.rebuilt(), self._card, self._wanted),
                precise_runner(self._subject, self._card, self._wanted),
            )
        except ExportError:
            return None


def _only(names: Collection[str], values: Values) -> Values:
    """The values of these outputs; those of a large network's other layers take much memory."""
    return {name: values[name] for name in names}


def _changes(arrays: Sequence[NDArray[Any]], change: float) -> Iterator[list[NDArray[Any]]]:
    """The same batch with tiny changes; integers stay as they are."""
    generator = np.random.default_rng(0)
    for _ in range(CHANGE_COUNT):
        yield [
            (x * (1 + change * generator.uniform(-1, 1, x.shape))).astype(x.dtype)
            if x.dtype.kind == "f"
            else x
            for x in arrays
        ]
