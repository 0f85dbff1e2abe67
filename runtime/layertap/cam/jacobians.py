"""Jacobians: the derivatives of every score with respect to every value of a layer.

The file computes the gradient of one weighted sum of its scores in a run. With weights of 1 for one
score and 0 for the others that is one row of the Jacobian; a file that takes several rows of
weights for one sample computes as many rows in one run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layertap._arguments import count, number
from layertap._engine.empty import is_empty_batch, with_samples
from layertap.errors import UsageError, suggest
from layertap.format.select import as_selectors, is_integer, is_single

from . import available
from .axes import copies, sample_axis
from .gradients import Seed, by_row, choose, from_starts, prepare, starts_of
from .scores import classes_last, labels_of
from .targets import Array

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap._engine.program import Fetch, Program
    from layertap.format.card import Gradients

MAX_GB = 2.0
"""Largest size of a result, in GB (10^9 bytes), that is not refused."""

BATCH = 32
"""Rows that are computed in one run."""


def jacobian(
    program: Program,
    inputs: Any,
    layers: Any = None,
    rows: Any = None,
    preprocess: Recipe | None = None,
    *,
    batch_size: int = BATCH,
    max_gb: float = MAX_GB,
) -> Any:
    """See `Model.jacobian`."""
    batch_size, max_gb = count("batch_size", batch_size), number("max_gb", max_gb)
    gradients = available.require(program)
    if layers is None:
        asked = [*available.of_inputs(program, gradients, program.inputs).values()]
    else:
        asked = as_selectors(layers)
    wanted = choose(program, gradients, asked)
    if not wanted:
        return {}
    feeds = prepare(program, gradients, wanted.values(), (), inputs, preprocess)
    kept = slice(None)
    if is_empty_batch(feeds):  # the Jacobian of one sample has the right shape
        feeds, kept = with_samples(feeds, 1), slice(0)
    found = _Jacobian(program, gradients, feeds, wanted, rows, batch_size, max_gb).compute()
    values = {name: found[name][kept] for name in wanted}
    single = len(wanted) == 1 and (layers is None or is_single(program.layers, asked))
    return next(iter(values.values())) if single else values


class _Jacobian:
    """Computes the rows for a batch."""

    def __init__(
        self,
        program: Program,
        gradients: Gradients,
        feeds: Mapping[str, Any],
        wanted: Mapping[str, str],
        rows: Any,
        batch_size: int,
        max_gb: float,
    ) -> None:
        self._program, self._gradients = program, gradients
        self._feeds, self._wanted = feeds, wanted
        self._rows, self._batch_size, self._max_gb = rows, batch_size, max_gb
        self._seed = Seed(program, gradients)
        first, value = next(iter(feeds.items()))
        self._samples = int(value.shape[sample_axis(program, first, value.ndim)])

    def compute(self) -> dict[str, Array]:
        """By name of the layer, `(n, *scores, *layer)`."""
        found: dict[str, Array] = {}
        starts = starts_of(self._program, self._gradients, self._wanted)
        output = self._gradients.output
        fetch = self._program.fetch([*dict.fromkeys([output, *starts])])
        for sample in range(self._samples):
            feeds = copies(self._program, self._feeds, sample, self._samples, 1)
            values = fetch(feeds)
            shape = classes_last(self._program, output, values[output]).shape[1:]
            chosen = Rows(self._rows, shape, labels_of(self._program, output))
            fetch_late, fed = from_starts(self._program, self._wanted, feeds, starts, values)
            at = 0
            for part in self._parts(fetch_late, fed, chosen):
                for name, value in part.items():
                    if name not in found:
                        found[name] = self._empty(name, value, chosen)
                    found[name][sample, at : at + len(value)] = value
                at += len(next(iter(part.values())))
        return {
            name: value.reshape(self._samples, *chosen.shape, *value.shape[2:])
            for name, value in found.items()
        }

    def _empty(self, name: str, value: Array, chosen: Rows) -> Array:
        """Memory for the result.

        Raises:
            UsageError: it would be too large.
        """
        shape = (self._samples, len(chosen.indices), *value.shape[1:])
        nbytes = math.prod(shape) * value.itemsize
        if nbytes > self._max_gb * 1e9:
            raise UsageError(
                f"the Jacobian of {len(chosen.indices)} scores with respect to {name!r} for "
                f"{self._samples} samples takes {nbytes / 1e9:.2g} GB, and max_gb is "
                f"{self._max_gb:g}. Give rows=, fewer samples, a layer with fewer values, or a "
                "larger max_gb."
            )
        return np.empty(shape, value.dtype)

    def _parts(
        self, fetch: Fetch, fed: Mapping[str, Any], chosen: Rows
    ) -> Iterator[dict[str, Array]]:
        """Some rows at a time, by name of the layer, `(rows, *layer)`."""
        step = self._batch_size if self._gradients.broadcasts else 1
        for first in range(0, len(chosen.indices), step):
            weights, places = chosen.weights(slice(first, first + step))
            seed = self._seed(weights, places)
            values = fetch({**fed, self._seed.name: seed})
            slopes = by_row(self._program, self._wanted, values)
            yield {name: slopes[tensor] for name, tensor in self._wanted.items()}


class Rows:
    """Which scores are differentiated: rows of the Jacobian."""

    def __init__(
        self, rows: Any, scores: Sequence[int], labels: Sequence[str] | None = None
    ) -> None:
        """
        Args:
            rows: a score, or several in a list; `None` for all. A score is the index of a class or
                its label, or where there are several positions a tuple of indices, class last.
            scores: the shape of one sample's scores, `(..., classes)`.
            labels: of the classes.

        Raises:
            UsageError: there is no such score.
        """
        self._scores = tuple(scores)
        self._labels = labels if labels and len(labels) == self._scores[-1] else ()
        if rows is None:
            self.indices = list(np.ndindex(*self._scores))
            self.shape = self._scores
        elif self._is_one(rows):
            self.indices, self.shape = [self._index(rows)], ()
        else:
            self.indices = [self._index(one) for one in _items(rows)]
            self.shape = (len(self.indices),)

    def _is_one(self, rows: Any) -> bool:
        if isinstance(rows, tuple):
            return len(self._scores) > 1 and all(is_integer(one) for one in rows)
        return isinstance(rows, str) or is_integer(rows)

    def _index(self, row: Any) -> tuple[int, ...]:
        if isinstance(row, str):
            if len(self._scores) > 1 or row not in self._labels:
                near = suggest(row, self._labels)
                raise UsageError(f"rows: no score is called {row!r}.{near} {self._expected}")
            return (self._labels.index(row),)
        parts = [row] if is_integer(row) else _items(row)
        if len(parts) != len(self._scores) or not all(map(is_integer, parts)):
            raise UsageError(f"rows: {row!r} is not a score. {self._expected}")
        if any(not -size <= one < size for one, size in zip(parts, self._scores, strict=True)):
            raise UsageError(f"rows: {row!r} is out of range. {self._expected}")
        return tuple(int(one) % size for one, size in zip(parts, self._scores, strict=True))

    @property
    def _expected(self) -> str:
        one = "an index or a label" if self._labels else "an index"
        if len(self._scores) > 1:
            one = f"a tuple of {len(self._scores)} indices, class last,"
        return f"Give {one} of the scores, which have the shape {self._scores}, or a list of these."

    def weights(self, part: slice) -> tuple[Array, Array | None]:
        """The weights of some rows: of the classes, `(rows, classes)`, and of the positions,
        `(rows, ...)`, if there are several."""
        chosen = np.array(self.indices[part], np.intp).reshape(-1, len(self._scores))
        along = np.arange(len(chosen))
        weights = np.zeros((len(chosen), self._scores[-1]), np.float32)
        weights[along, chosen[:, -1]] = 1
        if len(self._scores) == 1:
            return weights, None
        places = np.zeros((len(chosen), *self._scores[:-1]), np.float32)
        at = (along, *(chosen[:, axis] for axis in range(chosen.shape[1] - 1)))
        places[at] = 1
        return weights, places


def _items(rows: Any) -> list[Any]:
    try:
        items = list(rows)
    except TypeError:
        raise UsageError(f"rows must be a score or a list of scores, got {rows!r}.") from None
    if not items:
        raise UsageError("rows is empty. Leave it out for all scores.")
    return items
