"""Finds samples that read rows of tables, where the indices are any function of the inputs.

An index may be a bin, a rounded logarithm, or computed from several inputs. Only the part of the
model that computes the indices is run: on one value in all elements of an input, for values of
every magnitude; between two values whose indices are apart, on further values. Then the values that
give different indices are mixed. A sample counts only if tiny changes of its elements leave the
indices as they are, because rounding decides otherwise which row is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from layertap.format.card import TensorInfo
from layertap_export.keras_model.tracing import Trace

from .batches import Search
from .draws import Draw
from .rows_read import RowsRead
from .traced_part import TracedPart
from .uses import HEAVY

MOST_SAMPLES = 600_000
"""How many samples are tried, at most."""

MOST_ELEMENTS = 64
"""How many elements a sample has at most, for each of them to be tried by itself."""

MOST_CALLS = 3000
"""How many batches of a fixed size are tried, at most."""

COST = 3e8
"""About how many operations on numbers the samples may cost."""

CHUNK_ELEMENTS = 2e6
"""The largest number of elements of inputs and indices that are computed at once."""

TINY = 1e-5
"""The changes, as a share of each element, that must leave the indices of a sample as they are."""

MOST_COLUMNS = 1000
"""How many indices of each sample and table are looked at, at most."""

ROUNDS = 24
"""How often further values are tried between those that were."""

MIXED_ROUNDS = 8
MIXED_SAMPLES = 2000
"""How often values are mixed, and in how many samples at once."""

HEAVY_COST = 30.0
"""How many times as much as it has activations a model costs with operations of `HEAVY`."""

Arrays = list[NDArray[Any]]


class RowSearch:
    """A search for samples that read the rows which a model has not read."""

    def __init__(
        self,
        traced: Trace,
        rows: RowsRead,
        inputs: Sequence[TensorInfo],
        draws: Sequence[Draw],
        shapes: Sequence[tuple[int, ...]],
        per_sample: float,
    ) -> None:
        """
        Args:
            traced: the model.
            rows: which rows of its tables it has read.
            inputs: its inputs.
            draws: what is drawn for each.
            shapes: their shapes for the smallest batch, which all samples are multiples of.
            per_sample: about how many activations the model has for one sample.
        """
        self._inputs, self._draws = tuple(inputs), tuple(draws)
        self._tables = [table for table in rows.tables if not table.by_size]
        self._left = [~rows.seen(table) for table in self._tables]
        self._part = TracedPart(traced, [table.read[0] for table in self._tables])
        self._base = [
            draw.first(info, shape) for info, draw, shape in zip(inputs, draws, shapes, strict=True)
        ]
        self._unit = max((len(x) for x in self._base if x.ndim), default=1)
        elements = sum(x.size for x in self._base) / self._unit
        heavy = any(kind.startswith(HEAVY) for kind in self._part.operations)
        cost = HEAVY_COST * per_sample if heavy else elements * len(self._part.operations)
        most = MOST_SAMPLES if self._unit == 1 else MOST_CALLS * self._unit
        self._budget = int(min(most, max(64, COST / max(1.0, cost))))
        self._reserve = 0
        self._chunk = max(1, int(CHUNK_ELEMENTS / max(1.0, elements)))
        self._found: list[Arrays] = []
        self._values: dict[tuple[int, int | None], NDArray[Any]] = {}
        """By index of the input, and of the element of a sample or `None` for all elements: values
        that give different indices."""

    @classmethod
    def of(cls, traced: Trace, rows: RowsRead, inputs: Sequence[TensorInfo]) -> Search:
        """The search, as `Batches` takes it."""
        return lambda draws, shapes, cost: cls(traced, rows, inputs, draws, shapes, cost).run()

    def run(self) -> Arrays:
        """The samples that were found, one array for each input; empty if there are none."""
        try:
            for places in (self._searched(), self._elements()):
                self._reserve = self._budget // 2  # for mixtures
                for position, element in places:
                    if self._any_left:
                        self._along(position, element)
                if self._any_left and self._values:
                    self._mix()
        except tf.errors.OpError:  # the model does not take these values
            pass
        if not self._found:
            return []
        return [
            base if not base.ndim else np.concatenate([sample[i] for sample in self._found])
            for i, base in enumerate(self._base)
        ]

    @property
    def _any_left(self) -> bool:
        return any(left.any() for left in self._left)

    @property
    def _affordable(self) -> int:
        """How many samples may be tried: each is computed three times."""
        return max(0, self._budget - self._reserve) // 3

    def _searched(self) -> Iterator[tuple[int, int | None]]:
        """The inputs that have elements, and no truth values."""
        for position, (info, base) in enumerate(zip(self._inputs, self._base, strict=True)):
            if info.dtype != "bool" and base.ndim:
                yield position, None

    def _elements(self) -> Iterator[tuple[int, int]]:
        """The elements of a sample one by one, where there are few: columns of a table may have
        uses of their own."""
        for position, _ in self._searched():
            count = math.prod(self._base[position].shape[1:])
            if 1 < count <= MOST_ELEMENTS:
                yield from ((position, element) for element in range(count))

    # --- One value in all elements of an input, or in one ----------------------------------------

    def _along(self, position: int, element: int | None) -> None:
        rows = max(table.rows for table in self._tables)
        values = _grid(self._inputs[position], self._draws[position], rows)
        most = max(2, self._affordable)
        if len(values) > most:
            values = values[np.linspace(0, len(values) - 1, most).astype(int)]
        ids, good = self._indices(self._with(position, element, values))
        for _ in range(ROUNDS if values.dtype.kind in "iuf" else 0):
            between = _between(values, ids, good)[: self._affordable]
            if not len(between):
                break
            more, fine = self._indices(self._with(position, element, between))
            values, where = np.unique(np.concatenate([values, between]), return_index=True)
            ids, good = np.concatenate([ids, more])[where], np.concatenate([good, fine])[where]
        order = np.arange(len(values))
        if values.dtype.kind in "iuf":
            order = np.argsort(np.abs(values.astype(np.float64)), kind="stable")
        order = order[good[order]]
        values, ids = values[order], ids[order]
        if len(values) and ids.shape[1]:
            _, first = np.unique(ids, axis=0, return_index=True)
            # Where one value in all elements says nothing, as before a softmax, mixtures may.
            told = values[np.sort(first)] if len(first) > 1 else values
            if len(first) > 1 or element is None:
                self._values[position, element] = told
            before = [left.copy() for left in self._left]
            self._keep(position, element, values[self._choose(ids)], before)

    def _with(self, position: int, element: int | None, values: NDArray[Any]) -> Arrays:
        """A sample for each value: it is in all elements of one input, or in one of them."""
        samples = self._repeated(len(values))
        shape, dtype = samples[position].shape, self._base[position].dtype
        if element is None:
            column = values.reshape(-1, *[1] * (len(shape) - 1))
            samples[position] = np.broadcast_to(column, shape).astype(dtype)
        else:
            made = samples[position].reshape(len(values), -1).copy()
            made[:, element] = values
            samples[position] = made.reshape(shape)
        return samples

    def _repeated(self, count: int) -> Arrays:
        """The first sample of the seeded batch, so many times."""
        return [
            x if not x.ndim else np.broadcast_to(x[:1], (count, *x.shape[1:])) for x in self._base
        ]

    def _keep(
        self,
        position: int,
        element: int | None,
        values: NDArray[Any],
        before: list[NDArray[np.bool_]],
    ) -> None:
        """Keep the samples of these values; with several values in one sample where that reads the
        same rows.

        Args:
            before: the rows that were left before these values.
        """
        if not len(values):
            return
        inner = math.prod(self._base[position].shape[1:])
        samples = self._with(position, element, values)
        if inner > 1 and element is None:
            packed = self._repeated(-(-len(values) // inner))
            packed[position] = np.resize(values, packed[position].shape)
            ids, good = self._indices(packed)
            after, self._left = self._left, before
            self._choose(ids[good])
            if all((a == b).all() for a, b in zip(after, self._left, strict=True)):
                samples = [x[good] if x.ndim else x for x in packed]
            self._left = after
        self._found.append(samples)

    # --- Mixtures of these values ----------------------------------------------------------------

    def _mix(self) -> None:
        generator = np.random.default_rng(0)
        barren = 0
        for _ in range(MIXED_ROUNDS):
            count = min(MIXED_SAMPLES, self._budget // 3)
            if count < self._unit or barren == 2:
                return
            samples = [
                base if not base.ndim else self._mixed(i, count, generator)
                for i, base in enumerate(self._base)
            ]
            ids, good = self._indices(samples)
            usable = np.flatnonzero(good)
            chosen = usable[self._choose(ids[usable])]
            if len(chosen):
                self._found.append([x[chosen] if x.ndim else x for x in samples])
            barren = 0 if len(chosen) else barren + 1

    def _mixed(self, position: int, count: int, generator: np.random.Generator) -> NDArray[Any]:
        """An input of so many samples whose elements are drawn from values that tell."""
        base = self._base[position]
        shape = (count, *base.shape[1:])
        if (position, None) in self._values:
            found = generator.choice(self._values[position, None], shape).astype(base.dtype)
        else:
            seed = int(generator.integers(1 << 30))
            found = self._draws[position].array(self._inputs[position], shape, seed)
        columns = found.reshape(count, -1)
        for element in range(columns.shape[1]):
            if (position, element) in self._values:
                columns[:, element] = generator.choice(self._values[position, element], count)
        return columns.reshape(shape)

    # --- Indices ---------------------------------------------------------------------------------

    def _indices(self, samples: Arrays) -> tuple[NDArray[Any], NDArray[Any]]:
        """The rows that each sample reads, `(n, k)`, of all tables after one another; and whether
        tiny changes leave them as they are, and all rows exist, `(n,)`."""
        ids = self._computed(samples)
        good = np.ones(len(ids), bool)
        real = [
            x.dtype.kind == "f" and not draw.whole
            for x, draw in zip(samples, self._draws, strict=True)
        ]
        for change in (1 + TINY, 1 - TINY) if any(real) else ():
            changed = [
                (x * change).astype(x.dtype) if varies else x
                for x, varies in zip(samples, real, strict=True)
            ]
            good &= (self._computed(changed) == ids).all(1)
        for table, part in zip(self._tables, self._split(ids), strict=True):
            if table.strict:
                good &= (part >= 0).all(1)
        return ids, good

    def _computed(self, samples: Arrays) -> NDArray[Any]:
        count = max(len(x) for x in samples if x.ndim)
        self._budget -= count
        step = self._unit if self._unit > 1 else self._chunk
        found: list[list[NDArray[Any]]] = [[] for _ in self._tables]
        for start in range(0, count, step):
            part = [x[start : start + step] if x.ndim else x for x in samples]
            have = min(step, count - start)
            if have < self._unit:  # a batch of a fixed size
                part = [np.resize(x, (self._unit, *x.shape[1:])) if x.ndim else x for x in part]
            for into, table, index in zip(found, self._tables, self._part.run(part), strict=True):
                size = max(have, self._unit)
                ids = table.ids(index).ravel()
                width = ids.size // size if ids.size % size == 0 else 0
                ids = ids[: size * width].reshape(size, width)[:have]
                into.append(ids[:, :: -(-width // MOST_COLUMNS) or 1])
        parts = [np.concatenate(into) for into in found]
        self._widths = np.cumsum([part.shape[1] for part in parts])
        return np.concatenate(parts, axis=1).astype(np.int32)

    def _split(self, ids: NDArray[Any]) -> list[NDArray[Any]]:
        return np.split(ids, self._widths[:-1], axis=1)

    def _choose(self, ids: NDArray[Any]) -> NDArray[Any]:
        """Positions of samples that read rows which are left, and take note of these rows."""
        chosen: set[int] = set()
        for left, part in zip(self._left, self._split(ids), strict=True):
            rows, where = np.unique(part.ravel(), return_index=True)
            new = (rows >= 0) & left[rows]
            chosen.update((where[new] // max(1, part.shape[1])).tolist())
            left[rows[new]] = False
        return np.array(sorted(chosen), np.int64)


def _grid(info: TensorInfo, draw: Draw, rows: int) -> NDArray[Any]:
    """Values of every magnitude that an input may have, in order.

    Args:
        info: the input.
        draw: what is drawn for it.
        rows: how many rows the largest table has.
    """
    if draw.keys is not None:
        return np.array(draw.keys, object if info.dtype == "string" else info.dtype)
    dtype = np.dtype(info.dtype)
    if draw.fixed:
        low, high = draw.low, draw.high
        # The range is that of the smallest table.
        values = (
            np.arange(low, low + max(high - low, rows))
            if draw.whole
            else np.linspace(low, high, 2000)[:-1]
        )
    else:
        magnitudes = np.geomspace(1e-6, 1e12, 601)
        usual = np.linspace(draw.low, draw.high, 401)
        values = np.concatenate([-magnitudes, [0.0], magnitudes, usual])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.floor(values).clip(float(limits.min), float(limits.max))
    elif dtype.kind == "f":
        values = values[np.abs(values) < float(np.finfo(dtype).max) / 2]
    return np.unique(values.astype(dtype))


def _between(values: NDArray[Any], ids: NDArray[Any], good: NDArray[Any]) -> NDArray[Any]:
    """Values between neighbours whose indices are apart, or are not certain."""
    wide = values.astype(np.float64)
    apart = np.abs(np.diff(ids, axis=0)).max(axis=1, initial=0)
    jump = (apart > 1) | ((apart == 1) & ~(good[1:] & good[:-1]))
    width = np.diff(wide)
    least = 4 * TINY * np.maximum(np.abs(wide[1:]), np.abs(wide[:-1]))
    least = np.maximum(least, 1.0) if values.dtype.kind in "iu" else least
    gaps = np.flatnonzero(jump & (width > least))
    middles = wide[gaps] + width[gaps] / 2
    middles = np.floor(middles) if values.dtype.kind in "iu" else middles
    # The widest jumps first: there are the most rows.
    order = np.argsort(-apart[gaps], kind="stable")
    return np.setdiff1d(middles[order].astype(values.dtype), values)
