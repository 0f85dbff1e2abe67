"""Runs a collection through some layers and adds up their values, in one pass.

Each worker reduces the values of an image as soon as they are computed, so that only the sums are
kept. Layers that would take too much memory together are computed in groups, one after another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._arguments import count
from layertap._engine.program import Program
from layertap.comparing.stages import divided
from layertap.errors import ImageError, InputError, UsageError
from layertap.extract.columns import Column, Columns
from layertap.extract.inputs import check_fits, check_readable, fixed_batch, recipe_for
from layertap.extract.progress import Meter, Progress, Reporter, reporter_for
from layertap.extract.sources import find_items
from layertap.extract.workers import Chunk, default_batch, default_workers, run_chunks
from layertap.format.cost import activation_costs
from layertap.format.layer import Layer, channel_axis

from . import histogram
from .bounds import bounds_of
from .concatenations import concatenations
from .layer_statistics import LayerStatistics, values_of
from .sums import Bounds, Sums, merged, side_by_side, sums_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layertap._engine.feeds import Recipe
    from layertap._engine.program import Fetch

GROUP_BYTES = 1 << 30
"""Most bytes of activations that are computed at once for one image, if there are several layers.
"""

CHUNK = 8
"""Images that a worker runs before it hands over their sums."""

KEY = "sums"


class _Asked(NamedTuple):
    """A layer to measure."""

    layer: Layer
    axis: int | None
    """The axis of the channels, the axis of the samples counted."""
    bounds: Bounds | None
    parts: tuple[int, ...]
    """Indices of the layers whose channels are its channels, side by side, if there are some."""


class _Plan(NamedTuple):
    """What is run."""

    asked: tuple[_Asked, ...]
    groups: tuple[tuple[int, ...], ...]
    """Indices in `asked` of the layers that are computed together."""
    whole: bool
    """Whether images are run one by one, because a layer has no row for each image."""
    input: str
    """The name of the input that images are fed to."""


class _Work(NamedTuple):
    """What `run_chunks` reads of the work of columns."""

    input: str


class _Measuring(Columns):
    """The sums of the layers, as one column of objects: for each image a list of `Sums`."""

    def __init__(self, program: Program, plan: _Plan) -> None:
        super().__init__(program, (), None, None, (Column(KEY, KEY, {}, "object", (), ()),))
        self._plan = plan
        self._fetches: list[Fetch] = []

    def on(self, program: Program) -> Columns:
        return _Measuring(program, self._plan)

    @property
    def work(self) -> Any:
        return _Work(self._plan.input)

    def start(self) -> None:
        with self._lock:
            if not self._fetches:
                self._fetches = [self._fetch(group) for group in self._plan.groups]

    def _fetch(self, group: Sequence[int]) -> Fetch:
        tensors = [str(self._plan.asked[index].layer.tensor) for index in group]
        return self.program.fetch(list(dict.fromkeys(tensors)))

    def __call__(self, batch: NDArray[Any], *, watch: bool = False) -> dict[str, NDArray[Any]]:
        program, plan, rows = self.program, self._plan, len(batch)
        size = fixed_batch(program, plan.input) or (1 if plan.whole else rows)
        found: list[list[Sums | str]] = [[""] * len(plan.asked) for _ in range(rows)]
        for start in range(0, rows, size):
            # A model whose batch has a fixed size: the last part is filled up.
            part = np.take(batch, range(start, start + size), 0, mode="clip")
            feeds = program.prepare([plan.input], {plan.input: part}, None, watch=watch)
            places = range(start, min(start + size, rows))
            for group, fetch in zip(plan.groups, self._fetches, strict=True):
                values = fetch(feeds)
                for index in group:
                    one = plan.asked[index]
                    array = values[str(one.layer.tensor)]
                    for place in places:
                        row = _row(one, array, place - start, size)
                        if isinstance(row, str):
                            found[place][index] = row
                            continue
                        axis = one.axis
                        if axis is not None and row.ndim < array.ndim:
                            axis -= 1
                        found[place][index] = _sums(one, row, axis, found[place])
        column = np.empty(rows, object)  # numpy would make a table of lists of one length
        for place in range(rows):
            column[place] = found[place]
        return {KEY: column}


def _sums(one: _Asked, row: NDArray[Any], axis: int | None, found: Sequence[Sums | str]) -> Sums:
    """The sums of a layer's values, from those of other layers of the image if they are known."""
    parts = [part for index in one.parts if not isinstance(part := found[index], str)]
    known = side_by_side(row, parts) if one.parts and len(parts) == len(one.parts) else None
    return known or sums_of(row, axis, one.bounds)


def _row(one: _Asked, array: Any, place: int, size: int) -> NDArray[Any] | str:
    """The values of a layer that belong to one image of a batch, or why there are none."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        return "its values are not numbers"
    if _alone(one.layer):
        return array
    if array.ndim == 0 or len(array) != size:
        return array if size == 1 else f"it does not have a row for each of {size} images"
    row: NDArray[Any] = array[place]
    return row


def _alone(layer: Layer) -> bool:
    """Whether a layer has no row for each image, so that images have to be run one by one."""
    return layer.per_sample is False or (layer.axes or "N").find("N") > 0


def layer_statistics(
    program: Program,
    source: Any,
    layers: Any = None,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    preprocess: Recipe | None = None,
    progress: Progress | Reporter = None,
) -> LayerStatistics:
    """See `Model.layer_statistics`."""
    batch = default_batch(program) if batch_size is None else count("batch_size", batch_size)
    threads = default_workers() if workers is None else count("workers", workers)
    recipe = recipe_for(program, preprocess)
    plan, left_out = _planned(program, layers, recipe.size if recipe else None)
    items = find_items(source, recipe=recipe, digest=False, unique=False)
    check_readable(program, items, recipe)
    check_fits(program, items, plan.input)
    total = len(items.items)
    held = max(CHUNK, batch)
    chunks = (
        Chunk(number, first, min(held, total - first))
        for number, first in enumerate(range(0, total, held))
    )
    sums: list[Sums | None] = [None] * len(plan.asked)
    counts = [histogram.empty() for _ in plan.asked]
    failures: dict[str, str] = {}
    reporter = reporter_for(progress)
    meter = Meter(reporter, total, 0, 0)
    done = 0
    try:
        for finished in run_chunks(
            program,
            items,
            _Measuring(program, plan),
            recipe,
            chunks,
            batch=1 if plan.whole else batch,
            workers=threads,
            ordered=True,
            stop=threading.Event(),
        ):
            first = finished.chunk.first
            for row, found in enumerate(finished.blocks[KEY], first):
                if row in finished.failed:
                    failures[items.items[row].id] = finished.failed[row]
                    continue
                done += 1
                for index, part in enumerate(found):
                    if isinstance(part, str):
                        left_out[plan.asked[index].layer.name] = part
                        continue
                    histogram.add(counts[index], part.bins)
                    before = sums[index]
                    sums[index] = part if before is None else _merged(plan, index, before, part)
            meter.update(done, len(failures))
    finally:
        meter.close()
        items.close()
    if not done:
        name, reason = next(iter(failures.items()))
        which = "the image cannot" if total == 1 else f"none of the {total:,} images can"
        raise ImageError(f"{which} be read. {name}: {reason}")
    rows = [
        values_of(
            one.layer.name,
            one.layer.type,
            one.layer.index,
            whole,
            counts[index],
            one.axis is not None,
            one.bounds,
        )
        for index, one in enumerate(plan.asked)
        if (whole := sums[index]) is not None and one.layer.name not in left_out
    ]
    if not rows:
        raise _nothing(left_out)
    path = program.source.path
    name = "the model" if path is None else path.name
    return LayerStatistics(rows, name, done, failures, left_out)


def _merged(plan: _Plan, index: int, one: Sums, other: Sums) -> Sums:
    if len(one.number) != len(other.number):
        raise InputError(
            f"{plan.asked[index].layer.name!r} has {len(one.number)} channels for some images and "
            f"{len(other.number)} for others. Leave it out."
        )
    return merged(one, other)


def _planned(
    program: Program, asked: Any, size: tuple[int, int] | None
) -> tuple[_Plan, dict[str, str]]:
    """What is run for the layers that are asked for, and why others are left out."""
    selected = program.select(asked)
    if not selected:
        if program.select(None):
            raise UsageError("no layers were given. Leave `layers` out for all of them.")
        raise UsageError(f"{program.name} has no layers whose values it gives.")
    left_out: dict[str, str] = {}
    kept: list[Layer] = []
    fixed = any((fixed_batch(program, name) or 1) > 1 for name in program.graph.inputs)
    for layer in selected:
        if _alone(layer) and fixed:
            left_out[layer.name] = "it has no row for each image, and the batch has a fixed size"
        else:
            kept.append(layer)
    # A file without a card does not say which tensors have a row for each image.
    whole = program.card is None or any(map(_alone, kept))
    if not kept:
        raise _nothing(left_out)
    bounds = bounds_of(program, kept)
    plan = program.plan(list(dict.fromkeys(str(layer.tensor) for layer in kept)))
    if len(plan.needs) != 1:
        listed = ", ".join(map(repr, plan.needs)) or "none"
        raise UsageError(
            f"a collection gives one input for each item, but {program.name} needs "
            f"{len(plan.needs)} ({listed}) for these layers."
        )
    axes = [_channels(program, layer) for layer in kept]
    parts = concatenations(program, kept, axes)
    rows = tuple(
        _Asked(layer, axes[at], bounds.get(layer.name), parts.get(at, ()))
        for at, layer in enumerate(kept)
    )
    groups = tuple(_grouped(program, kept, size))
    return _Plan(rows, groups, whole, plan.needs[0]), left_out


def _nothing(left_out: Mapping[str, str]) -> UsageError:
    name, reason = next(iter(left_out.items()))
    return UsageError(f"no layer can be measured. {name!r}: {reason}.")


def _channels(program: Program, layer: Layer) -> int | None:
    """The axis of the channels, if their number does not depend on the image."""
    if len(layer.shape) < 2:
        return None
    axes = layer.axes or program.axes(str(layer.tensor), len(layer.shape))
    found = channel_axis(axes)
    return found if found is not None and layer.shape[found] is not None else None


def _grouped(
    program: Program, layers: Sequence[Layer], size: tuple[int, int] | None
) -> Iterator[tuple[int, ...]]:
    """The indices of the layers that are computed together, by the bytes of their activations."""
    nbytes = [cost.nbytes or 0 for cost in activation_costs(layers, program.card, size)]
    return map(tuple, divided(nbytes, [str(layer.tensor) for layer in layers], GROUP_BYTES))
