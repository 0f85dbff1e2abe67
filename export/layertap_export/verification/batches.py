"""The batches on which a file is compared.

What the inputs are used for determines the first draw, and tables the first sizes. Then Keras is
asked: other sizes and ranges are tried until it runs, and where possible until all its values are
finite. The model itself is the only one to know which sizes belong together, where an index ends
and from where on a logarithm exists.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from layertap.format.card import GoldenInput, TensorInfo
from layertap.images.preprocessing import Preprocessing
from layertap_export.errors import ExportError, keras_words

from .draws import Draw, first_draw, other_draws
from .finite import finite_share
from .rows_read import RowsRead
from .sizes import LARGER, SECOND, SMALLER, Layout, has_free_sizes, layouts
from .uses import Uses

Kind = Literal["seeded", "many", "rows", "zeros", "negative", "large", "sizes", "user"]
"""What a batch is for. `seeded` batches hold values as the model expects them, of two sizes; `many`
has more samples, where they take little time; `rows` go through every row of large tables; `user`
batches come from the user."""

Activations = dict[str, NDArray[Any]]
Run = Callable[[Sequence[NDArray[Any]]], Activations]
Search = Callable[[Sequence[Draw], Sequence[tuple[int, ...]], float], Sequence[NDArray[Any]]]
"""From what is drawn, the shapes of the smallest batch and the number of activations per sample to
samples, one array for each input; none if nothing was found."""

SEARCH_SECONDS = 60.0
"""How long sizes and ranges are tried on a model that does not run with the first ones."""

FIRST_ELEMENTS = 1e6
"""The largest number of activations in a first batch of more samples than one."""

FEW = 8
"""The most samples of the batches that need not touch all rows of a table."""

FIRST_SAMPLES, FIRST_WORK, GRADIENT_WORK = 64, 1e5, 5e3
"""The most samples of the first batch where they take little time, and about how many elements may
be computed for them, by `sample_work`; fewer for a file with gradients: those of a value near a
kink are not the same on all machines, so that the golden sample cannot keep them."""

MANY = 1000
"""The most samples of a model of which they take little time: a unit behind a relu may be 0 in all
of a few samples, and a branch be taken by one in hundreds."""

MANY_WORK = 1e6
"""About how many elements may be computed for these samples, by `sample_work`."""

LARGE_ELEMENTS = 8e6
"""From this number of activations per sample on, negative and large numbers are one batch."""

ROW_ELEMENTS = 3e7
"""The largest number of activations in a batch that goes through the rows of a table."""

MOST_ROWS = 100_000
"""The most rows of a table that such a batch goes through."""

WIDEST = 1000.0
"""The widest range of whole numbers that is looked for where the graph does not state it."""

LONGEST = 4096
"""The longest sequence that is tried to reach the last rows of learned positions."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch for all inputs of a model."""

    label: str
    """Its shape and origin: `2 x 320 x 320 x 3, seeded`."""
    arrays: tuple[NDArray[Any], ...]
    """In the order of the model's inputs."""
    golden: tuple[GoldenInput, ...] = ()
    """How to generate it again; of the first batch alone."""
    kind: Kind = "seeded"

    @property
    def expected(self) -> bool:
        """Whether it holds values as the model expects them."""
        return self.kind not in ("zeros", "negative", "large")

    @property
    def differentiable(self) -> bool:
        """Whether gradients are compared on it."""
        return self.kind in ("seeded", "user")


class Batches:
    """Finds the batches of a model, and runs it on them."""

    def __init__(
        self,
        inputs: Sequence[TensorInfo],
        uses: Uses | None,
        layers: Sequence[Any],
        recipe: Preprocessing | None,
        run: Run,
        *,
        sizes: Mapping[tuple[int, int], int],
        cost: Callable[[int], float] = lambda length: 0.0,
        work: Callable[[int], float] = lambda length: math.inf,
        gradients: bool = False,
        rows: RowsRead | None = None,
        search: Search | None = None,
        columns: Mapping[int, Draw] | None = None,
    ) -> None:
        """
        Args:
            inputs: the inputs, as the file has them.
            uses: what they are used for, if that is known.
            layers: the Keras layers, which say in which range images are.
            recipe: the preprocessing, which determines the range of an image's values.
            run: computes the model's values for a batch.
            sizes: sizes that the user has fixed, by the index of the input and its axis.
            cost: about how many activations one sample has, for sequences of a length.
            work: about how much work it is, see `sample_work`.
            gradients: whether the file has gradients.
            rows: takes note of the rows of tables that are read.
            search: finds samples that read the rows which are left.
            columns: what is drawn for inputs whose elements have uses of their own, by index.
        """
        self._inputs, self._run, self._rows, self._search = tuple(inputs), run, rows, search
        by_input = uses.by_input if uses else [[] for _ in inputs]
        columns = columns or {}
        self._draws = tuple(
            columns.get(index) or first_draw(info, found, layers, recipe)
            for index, (info, found) in enumerate(zip(inputs, by_input, strict=True))
        )
        short = {i for i, draw in enumerate(self._draws) if draw.all_rows > 1 or draw.fixed}
        short |= {i for table in (uses.tables if uses else ()) for i in table.pointwise}
        if uses and uses.loops:
            short |= set(range(len(inputs)))
        self._layout = Layout(short=frozenset(short), given=dict(sizes))
        self._products = frozenset(uses.products) if uses else frozenset()
        self._cost, self._work, self._gradients = cost, work, gradients
        self._first, self._needed, self._per_sample = 1, 1, 1.0
        self.notes: list[str] = []
        """What could not be run, in words."""

    def __iter__(self) -> Iterator[tuple[Batch, Activations]]:
        """The batches, each with the values that Keras computes for it."""
        first, values = self._settle()
        per_sample = sum(x.size for x in values.values()) / max(1, self._first)
        self._per_sample = per_sample
        yield from self._seen(first, values)
        values = {}
        few = min(self._needed, FEW)
        many = max(few, self._cheap(self._layout, MANY, MANY_WORK, per_sample))
        other = few if self._first > few else few + 1
        yield from self._further(SECOND, "seeded", seed=1, batch=other)
        if many > few + 1:
            shapes = self._layout.shapes(self._inputs, many)
            made = self._made("many", "seeded", shapes, 7)
            if made is not None:
                yield from self._seen(*made)
        yield from self._rest_of_rows(per_sample)
        large = per_sample > LARGE_ELEMENTS
        kinds: Sequence[tuple[Kind, str, float]] = (
            ("zeros", "zeros", 0.0),
            ("negative", "negative", -1.0),
            ("large", "times 100", 100.0),
        )
        if large:
            kinds = (kinds[0], ("large", "negative, times 100", -100.0))
        pairs = zip(self._draws, self._inputs, strict=True)
        if any(draw.varies(info) for draw, info in pairs):
            for kind, words, factor in kinds:
                more = 2 if kind == "negative" else 0
                # Large numbers magnify rounding: of many samples some would be near a tie.
                sizes = [many + more, few + more] if kind == "negative" else [few]
                yield from self._varied(kind, words, factor, sizes)
        if has_free_sizes(self._inputs, self._layout):
            yield from self._further(SMALLER, "sizes", seed=2, batch=few)
            yield from self._further(LARGER, "sizes", seed=3, batch=few)
        yield from self._longest()

    def user(self, samples: Sequence[tuple[str, Sequence[NDArray[Any]]]]) -> Iterator[Any]:
        """The user's own batches, each with its name."""
        for name, arrays in samples:
            label = f"{_shown([x.shape for x in arrays])}, {name}"
            yield from self._seen(
                Batch(label, tuple(arrays), kind="user"), self._keras(arrays, label)
            )

    def _keras(self, arrays: Sequence[NDArray[Any]], label: str) -> Activations:
        try:
            return self._run(arrays)
        except Exception as exc:
            raise ExportError(f"Keras cannot run the model on {label}: {keras_words(exc)}") from exc

    # --- The first batch -------------------------------------------------------------------------

    def _settle(self) -> tuple[Batch, Activations]:
        """The first batch, and with it the layout and the draws of the others.

        Raises:
            ExportError: Keras runs with none of the sizes and ranges that are tried.
        """
        started = time.monotonic()
        trouble: Exception | None = None
        for draws, layout in self._candidates():
            needed, more = self._first_size(draws, layout)
            for batch in dict.fromkeys((more, needed)):
                arrays, values = self._attempt(layout.shapes(self._inputs, batch), draws)
                if not isinstance(values, Exception):
                    self._draws, self._layout = draws, layout
                    self._needed, self._first = needed, batch
                    self._draws, arrays, values = self._widened(arrays, values)
                    return self._golden(arrays), values
                trouble = trouble or values
            if time.monotonic() - started > SEARCH_SECONDS:
                break
        raise ExportError(
            "Keras cannot run the model on a test batch: "
            f"{keras_words(trouble) if trouble else ''} {self.way_out}"
        ) from trouble

    @property
    def way_out(self) -> str:
        """What the user can do if the batches are not what the model takes."""
        names = ", ".join(info.name for info in self._inputs)
        return (
            "Give a batch that it takes: --sample FILE.npz with the names "
            f"{names} (samples= in Python); or the sizes of its free axes: --size NAME=VALUE "
            "(sizes=)."
        )

    def _candidates(self) -> Iterator[tuple[tuple[Draw, ...], Layout]]:
        """Draws and sizes in the order in which they are tried: whole numbers too large for a table
        are more likely than a network that needs large inputs, and quicker to rule out."""
        plain, first = self._draws, self._layout
        sizes = list(layouts(self._inputs, first, self._products))[1:]
        moderate = [layout for layout in sizes if layout.doublings <= 0]
        large = [layout for layout in sizes if layout.doublings > 0]
        others = list(self._other_draws())
        names = any(draw.whole or draw.keys is not None for draw in plain) or any(
            info.dtype == "string" or np.dtype(info.dtype).kind in "iu" for info in self._inputs
        )
        yield plain, first
        yield from ((plain, layout) for layout in moderate)
        if names:
            yield from ((draws, first) for draws in others)
        yield from ((plain, layout) for layout in large)
        if not names:
            yield from ((draws, first) for draws in others)
        yield from ((draws, layout) for layout in moderate for draws in others)

    def _other_draws(self) -> Iterator[tuple[Draw, ...]]:
        """Another draw for one input, then for all."""
        plain = self._draws
        others = [list(other_draws(i, d)) for i, d in zip(self._inputs, plain, strict=True)]
        for index, found in enumerate(others):
            for draw in found:
                yield (*plain[:index], draw, *plain[index + 1 :])
        for choice in range(max(map(len, others)) if len(plain) > 1 else 0):
            yield tuple(
                found[min(choice, len(found) - 1)] if found else draw
                for found, draw in zip(others, plain, strict=True)
            )

    def _first_size(self, draws: Sequence[Draw], layout: Layout) -> tuple[int, int]:
        """How many samples touch all rows of small tables, within bounds; and how many the first
        batch has, which may be more."""
        needed, shapes = 1, layout.shapes(self._inputs, 1)
        for draw, shape in zip(draws, shapes, strict=True):
            if draw.open:
                needed = max(needed, 7)
            if draw.rows > 1:
                needed = max(needed, -(-draw.rows // max(1, math.prod(shape))))
        most = FIRST_ELEMENTS / max(1.0, self._cost(self._length(shapes)))
        needed = int(max(1, min(needed, most)))
        work = GRADIENT_WORK if self._gradients else FIRST_WORK
        return needed, max(needed, self._cheap(layout, FIRST_SAMPLES, work))

    def _length(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """The largest size of a free axis."""
        return max(
            (
                have
                for info, shape in self._free(shapes)
                for size, have in zip(info.shape[1:], shape[1:], strict=True)
                if size is None
            ),
            default=1,
        )

    def _cheap(self, layout: Layout, most: int, work: float, per_sample: float = 1.0) -> int:
        """How many samples take little time; 0 if the size of the batch is fixed.

        Args:
            layout: the sizes of the inputs.
            most: the most samples.
            work: about how many elements may be computed.
            per_sample: how many activations one sample has, at least.
        """
        if any(info.shape and info.shape[0] is not None for info in self._inputs):
            return 0
        length = self._length(layout.shapes(self._inputs, 1))
        return min(most, int(work / max(1.0, per_sample, self._work(length))))

    def _attempt(
        self, shapes: Sequence[tuple[int, ...]], draws: Sequence[Draw]
    ) -> tuple[tuple[NDArray[Any], ...], Activations | Exception]:
        """A first batch, and Keras's values, or why there are none."""
        try:
            arrays = self._drawn(shapes, draws)
            values = self._run(arrays)
        except Exception as exc:  # noqa: BLE001 - what Keras raises has no common class but this
            return (), exc
        # A deep network may shrink small sizes to nothing.
        empty = [name for name, value in values.items() if value.size == 0]
        if empty and has_free_sizes(self._inputs, self._layout):
            return arrays, ValueError(f"layer {empty[0]!r} returns an empty array at this size")
        return arrays, values

    def _drawn(
        self, shapes: Sequence[tuple[int, ...]], draws: Sequence[Draw]
    ) -> tuple[NDArray[Any], ...]:
        """The first batch, as the golden sample generates it."""
        return tuple(
            draw.first(info, shape)
            for info, shape, draw in zip(self._inputs, shapes, draws, strict=True)
        )

    def _golden(self, arrays: Sequence[NDArray[Any]]) -> Batch:
        shapes = [x.shape for x in arrays]
        golden = tuple(
            draw.golden(info, shape)
            for info, shape, draw in zip(self._inputs, shapes, self._draws, strict=True)
        )
        return Batch(f"{_shown(shapes)}, seeded", tuple(arrays), golden)

    def _widened(
        self, arrays: tuple[NDArray[Any], ...], values: Activations
    ) -> tuple[tuple[Draw, ...], tuple[NDArray[Any], ...], Activations]:
        """Draws for which Keras is finite in as many elements as possible, and whole numbers as
        far as Keras takes them."""
        draws = list(self._draws)
        shapes = [x.shape for x in arrays]
        for index, (info, draw) in enumerate(zip(self._inputs, draws, strict=True)):
            if finite_share(values) < 1 and not draw.fixed and draw.keys is None:
                for other in other_draws(info, draw):
                    if other.whole or info.dtype == "bool":
                        continue
                    tried = [*draws[:index], other, *draws[index + 1 :]]
                    found, better = self._attempt(shapes, tried)
                    if not isinstance(better, Exception) and finite_share(better) > finite_share(
                        values
                    ):
                        draws, arrays, values = tried, found, better
                        if finite_share(values) == 1:
                            break
            if draws[index].open:
                low, high = draws[index].high - draws[index].low, 0.0
                while low < WIDEST and high - low != 1:
                    middle = 2 * low if not high else (low + high) // 2
                    tried = [*draws]
                    tried[index] = replace(draws[index], high=draws[index].low + middle)
                    found, wider = self._attempt(shapes, tried)
                    if isinstance(wider, Exception) or finite_share(wider) < finite_share(values):
                        high = middle
                    else:
                        draws, arrays, values, low = tried, found, wider, middle
        return tuple(draws), arrays, values

    # --- Further batches -------------------------------------------------------------------------

    def _seen(self, batch: Batch, values: Activations) -> Iterator[tuple[Batch, Activations]]:
        if self._rows is not None:
            self._rows.add(batch.arrays)
        yield batch, values

    def _further(
        self, which: int, kind: Kind, *, seed: int, batch: int
    ) -> Iterator[tuple[Batch, Activations]]:
        """A batch of another size, with the first choice of sizes that Keras takes."""
        words = "seeded" if kind == "seeded" else "other sizes"
        for choice in range(self._layout.choices(self._inputs, which)):
            shapes = self._layout.shapes(self._inputs, batch, which, choice)
            made = self._made(kind, words, shapes, seed)
            if made is not None:
                yield from self._seen(*made)
                return
        if kind == "seeded":  # the model takes one size only
            shapes = self._layout.shapes(self._inputs, batch)
            made = self._made(kind, words, shapes, seed)
            if made is None:
                shapes = self._layout.shapes(self._inputs, self._first)
                made = self._made(kind, words, shapes, seed)
            if made is not None:
                yield from self._seen(*made)
        elif which == LARGER:
            yield from self._largest()

    def _largest(self) -> Iterator[tuple[Batch, Activations]]:
        """A batch of the largest size that the model takes, if that has one free axis."""
        free = [info for info in self._inputs if None in info.shape[1:]]
        if any(info.shape[1:].count(None) > 1 for info in free):
            return
        shapes = self._layout.shapes(self._inputs, 1)
        low = max(shape[info.shape.index(None, 1)] for info, shape in self._free(shapes))
        shapes = self._layout.shapes(self._inputs, 1, LARGER)
        high = max(shape[info.shape.index(None, 1)] for info, shape in self._free(shapes))
        best = None
        while high - low > 1:
            middle = (low + high) // 2
            layout = replace(self._layout, exact=middle)
            made = self._made("sizes", "largest size", layout.shapes(self._inputs, 1), 3)
            low, high, best = (low, middle, best) if made is None else (middle, high, made)
        if best is not None:
            yield from self._seen(*best)

    def _free(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[TensorInfo, tuple[int, ...]]]:
        """The inputs that have a free size, each with its shape in numbers."""
        pairs = zip(self._inputs, shapes, strict=True)
        return [(info, shape) for info, shape in pairs if None in info.shape[1:]]

    def _made(
        self,
        kind: Kind,
        words: str,
        shapes: Sequence[tuple[int, ...]],
        seed: int,
        factor: float | None = None,
    ) -> tuple[Batch, Activations] | None:
        """A batch of these shapes, unless Keras does not take it."""
        for stepwise in (False, True):
            # Some indices must go through all their range, as those of segments.
            arrays = tuple(
                draw.first(info, shape)
                if stepwise and not draw.varies(info)
                else draw.array(info, shape, seed, factor)
                for info, shape, draw in zip(self._inputs, shapes, self._draws, strict=True)
            )
            try:
                values = self._run(arrays)
                break
            except Exception:  # noqa: BLE001 - what Keras raises has no common class but this
                continue
        else:
            return None
        if has_free_sizes(self._inputs, self._layout) and not all(x.size for x in values.values()):
            return None
        return Batch(f"{_shown(shapes)}, {words}", arrays, kind=kind), values

    def _varied(
        self, kind: Kind, words: str, factor: float, sizes: Sequence[int]
    ) -> Iterator[tuple[Batch, Activations]]:
        for size in dict.fromkeys((*sizes, self._first)):
            shapes = self._layout.shapes(self._inputs, size)
            made = self._made(kind, words, shapes, 4, factor)
            if made is not None:
                yield from self._seen(*made)
                return
        values = {
            "negative": "negative values",
            "times 100": "values times 100",
            "negative, times 100": "negative values times 100",
        }.get(words, words)
        self.notes.append(f"not compared on {values}: the model does not take them")

    def _rest_of_rows(self, per_sample: float) -> Iterator[tuple[Batch, Activations]]:
        """Batches that read the rows of the tables that the first ones did not."""
        for batch in self.reading_rows(per_sample):
            try:
                values = self._run(batch.arrays)
            except Exception:  # noqa: BLE001 - what Keras raises has no common class but this
                continue
            yield from self._seen(batch, values)

    def reading_rows(self, per_sample: float) -> Iterator[Batch]:
        """Batches for the rows of tables that were not read, until all were or nothing is left to
        be tried: one that goes through the range of the inputs, and those that a search finds.

        Args:
            per_sample: the number of activations that are compared for each sample.
        """
        if self._rows is None or not self._rows.left:
            return
        batch, complete = self._every_row(per_sample)
        if self._adds(batch):
            yield batch
        if not complete or not self._rows.left:
            return  # it would have read more, as that for one layer alone does
        for batch in self._searched(max(1, int(ROW_ELEMENTS / max(1.0, per_sample)))):
            if self._adds(batch):
                yield batch

    def _adds(self, batch: Batch) -> bool:
        """Whether a batch reads further rows, as far as that can be computed."""
        try:
            return self._rows is not None and self._rows.adds(batch.arrays)
        except Exception:  # noqa: BLE001 - what Keras raises has no common class but this
            return False

    def _every_row(self, per_sample: float) -> tuple[Batch, bool]:
        """A batch that goes through the range of all inputs that select rows, as far as its size
        permits; and whether that was the whole range."""
        needed = 1
        for draw, shape in zip(self._draws, self._layout.shapes(self._inputs, 1), strict=True):
            rows = min(draw.all_rows, MOST_ROWS)
            if rows > 1:
                needed = max(needed, -(-rows // max(1, math.prod(shape))))
        most = int(ROW_ELEMENTS / max(1.0, per_sample))
        shapes = self._layout.shapes(self._inputs, max(1, min(needed, most)))
        arrays = tuple(
            draw.every_row(info, shape)
            if draw.all_rows > 1 and not draw.ascending
            else draw.array(info, shape, 5)
            for info, shape, draw in zip(self._inputs, shapes, self._draws, strict=True)
        )
        return Batch(f"{_shown(shapes)}, every row", arrays, kind="rows"), needed <= most

    def _searched(self, most: int) -> Iterator[Batch]:
        """Batches of at most so many samples that a search found."""
        found, unit = self._samples, self._layout.shapes(self._inputs, 1)
        size = max((shape[0] for shape in unit if shape), default=1)
        count = min(most, max((len(x) for x in found if x.ndim), default=0))
        step = count if size == 1 else size  # the batch may be fixed
        for start in range(0, count, max(1, step)):
            arrays = tuple(
                np.resize(x[start : start + step], (step, *x.shape[1:])) if x.ndim else x
                for x in found
            )
            label = f"{_shown([x.shape for x in arrays])}, further rows"
            yield Batch(label, arrays, kind="rows")

    @cached_property
    def _samples(self) -> Sequence[NDArray[Any]]:
        if self._search is None:
            return ()
        shapes = self._layout.shapes(self._inputs, 1)
        return self._search(self._draws, shapes, self._per_sample)

    def _longest(self) -> Iterator[tuple[Batch, Activations]]:
        """A batch as long as learned positions are, if their last rows were not read."""
        if self._rows is None:
            return
        unread = [table for table in self._rows.unread if table.by_size]
        lengths = {table.rows for table in unread if table.rows <= LONGEST}
        for length in sorted(lengths):
            layout = replace(self._layout, exact=length)
            made = self._made("sizes", "other sizes", layout.shapes(self._inputs, 1), 6)
            if made is not None:
                yield from self._seen(*made)


def _shown(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(" x ".join(map(str, shape)) or "1" for shape in shapes)
