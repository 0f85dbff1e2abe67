"""How far Keras is from itself, where a file is over the tolerance.

Some networks magnify rounding: long recurrences, deep networks whose values vanish, differences of
large numbers. There Keras in float32 is further than the tolerance from the exact result, and so is
every program that adds up in another order. Such a layer passes if the file is about as close to
the exact result, Keras in float64, as Keras is. Where Keras cannot compute in float64, it passes if
Keras's own result moves as far when the input changes by a millionth, or if the file and Keras are
about as far from the file's own graph in float64: if a weight were wrong, Keras would be further,
and if onnxruntime computed an operator wrongly, the file.

In a chaotic network both errors are as large as the values, so a wrong weight would not show. It
does in float64, in which the file's own graph must agree with Keras in each sample, as far as Keras
agrees with itself in float64.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from layertap.comparing.measures import difference
from layertap_export.errors import ExportError
from layertap_export.keras_model.subject import Run, Subject

from .card_like import CardLike
from .finite import scale_of
from .float64_graph import has_only_weights, in_float64
from .reference import precise_runner, runner
from .written_file import WrittenFile

CHANGE = 1e-6
"""The changes of the input, as a share of each element; its rounding is a sixteenth of that."""

FINE_CHANGE = 2e-15
"""The same in float64."""

CHANGE_COUNT, MORE_CHANGES, MORE_UP_TO = 3, 12, 1e6
"""How many changes are tried; more where the layers in question have at most so many elements. Each
finds by half a chance that a value is so near a step, as of a rounding, that it may be on either
side."""

SHARE = 3.0
"""How many times as far from float64 as Keras a file may be: both errors are random."""

GRAPH_SHARE = 10.0
"""The same where the file's graph agrees with Keras in float64, so that only rounding is left."""

MOVED_SHARE = 1.5
"""How many times as far from Keras as Keras moves a file may be, where there is no float64."""

MOST_ROUNDING = 1e-2
"""The largest distance of a file from its own graph in float64 that excuses it."""

GRAPH_SECONDS = 60.0
"""How long the computation of the file's graph in float64 may take."""

Values: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnError:
    """How far Keras is from itself in one layer, in the layer's scale."""

    keras: float
    """From Keras in float64; without it, how far Keras moves if the input changes by `CHANGE`, or
    how far the file is from its graph in float64."""
    file: float | None
    """How far the file is from Keras in float64, if that is known."""
    agrees: bool | None = None
    """Whether the file's graph agrees with Keras in float64 in every sample, if that is known.
    Without float64, whether each sample of Keras moves about as far as the file is from it."""
    moved: float = 0.0
    """How far Keras in float64 moves if the input changes by `CHANGE`, if that is known."""
    rounding: float = 0.0
    """How far the file and Keras are from the file's own graph in float64, where that is alike, if
    Keras cannot compute in float64."""

    def reference(self, tolerance: float) -> float:
        """The error of Keras that excuses the file."""
        steps = self.file is not None and self.file > max(tolerance, GRAPH_SHARE * self.keras)
        return self.moved if steps else self.keras

    def excuses(self, error: float, tolerance: float) -> bool:
        """Whether a file passes whose distance from Keras is over the tolerance."""
        if self.file is None:
            moves = bool(self.agrees) and error <= MOVED_SHARE * self.keras
            return moves or error <= 2 * self.rounding
        if self.agrees is None:
            return self.file <= max(tolerance, SHARE * self.keras)
        return self.agrees and self.file <= max(tolerance, GRAPH_SHARE * self.keras, self.moved)


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
        small = sum(x.size for x in ours.values()) <= MORE_UP_TO
        count = MORE_CHANGES if small else CHANGE_COUNT
        batches = [list(arrays), *_changes(arrays, CHANGE, count)]
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
        moved: dict[str, float] = {}
        if exact:
            first, *others = exact
            moved = {
                name: max(self._scaled(name, other[name], first[name]) for other in others)
                for name in ours
            }
        near = [
            name
            for name, error in file.items()
            if error is not None
            and error <= max(self._tolerance, GRAPH_SHARE * keras[name], moved[name])
        ]
        graph = self._of_graph(arrays, _only(near, exact[0])) if exact and near else {}
        doubtful = {name for name, errors in graph.items() if errors.max() > self._tolerance}
        fine = self._fine(arrays, _only(doubtful, exact[0])) if exact and doubtful else {}
        agrees = {
            name: bool(
                (errors <= np.maximum(self._tolerance, GRAPH_SHARE * fine.get(name, 0.0))).all()
            )
            for name, errors in graph.items()
        }
        if not exact:
            agrees = {name: self._moves(name, ours[name], theirs[name], runs) for name in ours}
        rounding = {} if exact else self._rounding(arrays, ours, theirs)
        return {
            name: OwnError(
                keras=max(keras[name], rounding.get(name, 0.0)),
                file=file[name],
                agrees=agrees.get(name),
                moved=moved.get(name, 0.0),
                rounding=rounding.get(name, 0.0),
            )
            for name in ours
        }

    def _moves(
        self, name: str, ours: NDArray[Any], theirs: NDArray[Any], runs: Sequence[Values]
    ) -> bool:
        """Whether each sample of Keras moves about as far as the file is from it: in some samples
        of a chaotic network no weight would show."""
        moved = np.max([self._by_sample(name, run[name], theirs) for run in runs], 0)
        errors = self._by_sample(name, ours, theirs)
        return bool((errors <= np.maximum(self._tolerance, GRAPH_SHARE * moved)).all())

    def _rounding(
        self, arrays: Sequence[NDArray[Any]], ours: Values, theirs: Values
    ) -> dict[str, float]:
        """How far the file and Keras are from the file's own graph in float64, where that is alike;
        not where it is chaotic, because every weight would be as good there."""
        feeds = {info.name: x for info, x in zip(self._card.inputs, arrays, strict=True)}
        values = in_float64(self._file, list(ours), feeds, time.monotonic() + GRAPH_SECONDS)
        found = {}
        for name, x in values.items():
            errors = [self._scaled(name, value[name], x) for value in (ours, theirs)]
            if max(errors) <= min(MOST_ROUNDING, GRAPH_SHARE * min(errors)):
                found[name] = max(errors)
        return found

    def _fine(
        self, arrays: Sequence[NDArray[Any]], exact: Values
    ) -> dict[str, NDArray[np.float64]]:
        """How far Keras in float64 is from itself, for each sample."""
        assert self._copies is not None
        _, precise = self._copies
        wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in arrays]
        runs = [_only(exact, precise(batch)) for batch in _changes(wide, FINE_CHANGE, CHANGE_COUNT)]
        return {
            name: np.max([self._by_sample(name, run[name], x) for run in runs], 0)
            for name, x in exact.items()
        }

    def _of_graph(
        self, arrays: Sequence[NDArray[Any]], exact: Values
    ) -> dict[str, NDArray[np.float64]]:
        """How far the file's graph in float64 is from Keras in float64 in each sample, where that
        says something.

        Constants that were computed in float32 at the export differ by a rounding from those in
        float64, which a chaotic network magnifies too. So only agreement counts where there are
        such constants. Numbers of Keras's code that were rounded, as 0.1, are read as these numbers
        or as they are in the file.
        """
        feeds = {info.name: x for info, x in zip(self._card.inputs, arrays, strict=True)}
        until = time.monotonic() + GRAPH_SECONDS
        found: dict[str, NDArray[np.float64]] = {}
        for unrounded in (True, False):
            values = in_float64(self._file, list(exact), feeds, until, unrounded=unrounded)
            for name, x in values.items():
                errors = self._by_sample(name, x, exact[name])
                if name not in found or errors.max() < found[name].max():
                    found[name] = errors
            if all(errors.max() <= self._tolerance for errors in found.values()):
                break
        if has_only_weights(self._file, self._subject.weights):
            return found
        return {k: errors for k, errors in found.items() if errors.max() <= self._tolerance}

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

    def _by_sample(
        self, name: str, value: NDArray[Any], truth: NDArray[Any]
    ) -> NDArray[np.float64]:
        """The scaled error of each row, in the scale of all; of a number, one error."""
        if value.shape != truth.shape or not truth.shape or not truth.size:
            return np.array([self._scaled(name, value, truth)])
        scale = max(self._scales.get(name, 0.0), scale_of(truth))
        if not np.isfinite(scale):
            return np.array([self._scaled(name, value, truth)])
        return np.array(
            [
                difference(one, other, least_scale=scale, same_dtype=False).scaled
                for one, other in zip(value, truth, strict=True)
            ]
        )

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


def _changes(
    arrays: Sequence[NDArray[Any]], change: float, count: int
) -> Iterator[list[NDArray[Any]]]:
    """The same batch with tiny changes; whole numbers stay as they are, whatever their dtype.

    They may be tokens, which a model makes integers of: they would all become others.
    """
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield [
            np.where(
                x == np.floor(x), x, x * (1 + change * generator.uniform(-1, 1, x.shape))
            ).astype(x.dtype)
            if x.dtype.kind == "f"
            else x
            for x in arrays
        ]
