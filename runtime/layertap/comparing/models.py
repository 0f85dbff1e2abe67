"""Compares two files, layer by layer, on the same samples.

Of each layer two errors are measured: how far its values in the second file are from those in the
first, and how far they are where the second file computes the layer from the first file's values of
the layers before it. The second is what is born in the layer; the rest was inherited.

Only some layers of some samples are in memory at a time, see `stages`; sums are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap._cut.plan import peel
from layertap._engine.library import available_threads, import_onnxruntime
from layertap._engine.program import Program
from layertap.cam.scores import ends_in_activation
from layertap.errors import ImageError, InputError, LayertapError, UsageError
from layertap.format.layer import channel_axis
from layertap.format.select import Selector
from layertap.format.text import shape_text

from . import sizes
from .classes import best_classes
from .comparison import Comparison, device_text
from .inputs import Batch, Sides, batches
from .matching import Matches, Pair, Tensor, match, no_layer_selected, tensors_of, when_computed
from .measures import Accumulated
from .row import LayerComparison
from .sizes import bytes_of_layers
from .stages import (
    FromOthers,
    Group,
    Stage,
    carried,
    divided,
    forget,
    groups,
    nbytes_of,
    one_by_one,
    readers,
    run_rounds,
    sharing_memory,
)
from .tolerances import allowed_errors

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe


def compare_programs(
    a: Program,
    b: Program,
    inputs: Any = None,
    layers: Selector | Iterable[Selector] | None = None,
    *,
    tolerance: float | None = None,
    born: bool = True,
    preprocess: Recipe | None = None,
    failed: Callable[[str, ImageError], None] | None = None,
) -> Comparison:
    """See `layertap.compare`.

    Args:
        failed: called with each image that cannot be read, and the reason; it is left out then.
    """
    matches = matched(a, b, layers)
    when = when_computed(b, [pair.b for pair in matches.pairs])
    pairs = sorted(matches.pairs, key=lambda pair: when(pair.b))
    plans = [
        program.plan([tensor.tensor for tensor in tensors])
        for program, tensors in ((a, [p.a for p in pairs]), (b, [p.b for p in pairs]))
    ]
    notes: list[str] = []
    sides = Sides(a, b, plans[0].needs, plans[1].needs)
    nbytes = bytes_of_layers(a, [pair.a.name for pair in pairs], inputs, preprocess)
    size = max(1, min(sizes.MOST_SAMPLES, sizes.STAGE_BYTES // max(sum(nbytes), 1)))
    given = batches(sides, inputs, size, preprocess, notes, failed)
    allowed_a, allowed_b = allowed_errors(a, tolerance), allowed_errors(b, tolerance)
    leaves = peel(b.graph, [pair.b.tensor for pair in pairs])
    measured = [
        _Measured(
            a,
            pair,
            leaves[pair.b.tensor].source,
            max(allowed_a.of(pair.a.tensor), allowed_b.of(pair.b.tensor)),
        )
        for pair in pairs
    ]
    with sharing_memory(a, b) as (own_a, own_b):
        samples = _Comparing(own_a, own_b, pairs, measured, nbytes, born).run(given)
    if not samples:
        raise InputError("there is no sample to compare on. Give at least one.")
    return Comparison(
        a=_side(a),
        b=_side(b),
        samples=samples,
        tolerance=max(allowed_a.tolerance, allowed_b.tolerance),
        layers=tuple(one.row(born) for one in measured),
        only_a=matches.only_a,
        only_b=matches.only_b,
        notes=tuple(notes),
    )


def _side(program: Program) -> str:
    version = import_onnxruntime().__version__
    return device_text(program.name, program.engine.device, version)


def matched(a: Program, b: Program, layers: Selector | Iterable[Selector] | None) -> Matches:
    """The layers that both files have, of those that are asked for.

    Args:
        a: the first file.
        b: the second file.
        layers: which layers of the first file, see `Model.select`; by default all but scores of
            attention, and outputs.

    Raises:
        LayerNotFoundError: a selector matches nothing.
        UsageError: the files share no layer, or none of the selected ones.
    """
    ours, hidden_a = tensors_of(a, scores=layers is not None)
    theirs, hidden_b = tensors_of(b, scores=layers is not None)
    found = match(ours, theirs, hidden_a, hidden_b)
    if not found.pairs:
        raise UsageError(_nothing_shared(a, b, found))
    if layers is None:
        return found
    names = {layer.name for layer in a.select(layers)}
    if not names:
        raise no_layer_selected()
    some = found.among(names)
    if not some.pairs:
        reasons = {found.only_a.get(name, "") for name in names}
        raise UsageError(
            f"{b.name} has none of the selected layers of {a.name}: {'; '.join(sorted(reasons))}."
        )
    return some


def _nothing_shared(a: Program, b: Program, found: Matches) -> str:
    shapes = [reason for reason in found.only_a.values() if reason.startswith("other shapes")]
    inputs = [
        ", ".join(f"{info.name} {shape_text(info.shape)}" for info in program.inputs)
        for program in (a, b)
    ]
    if shapes:
        return (
            f"{a.name} and {b.name} share no layer of one shape: their inputs are {inputs[0]} and "
            f"{inputs[1]}. Export both at one size."
        )
    few = [", ".join(repr(layer.name) for layer in program.layers[:3]) for program in (a, b)]
    return (
        f"{a.name} and {b.name} share no layer: {few[0] or 'no layers'}, ... in one, "
        f"{few[1] or 'no layers'}, ... in the other. Compare two files of one model."
    )


class _Measured:
    """What is known of one pair so far."""

    def __init__(self, a: Program, pair: Pair, source: str, allowed: float) -> None:
        """
        Args:
            a: the first file.
            pair: the layer in both files.
            source: the tensor that it is a view of in the second file.
            allowed: the largest scaled error that passes.
        """
        self.pair, self.source, self.allowed = pair, source, allowed
        self.total = Accumulated(partial(_channels, a, pair.a.tensor))
        self.born = Accumulated(sums=False)
        self.unknown = ""
        self.passes_on = False
        """Whether the layer is a view of a layer before it, in which all of the error is born."""
        self._classes = _Classes(a, pair)

    def add(self, a: Any, b: Any) -> float:
        """Compare the values of a batch; return the largest difference."""
        if not hasattr(a, "dtype") or not hasattr(b, "dtype"):
            self.total.problem = "it is not an array"
            return math.inf
        self._classes.add(a, b)
        return self.total.add(b, a)

    def add_born(self, a: Any, b: Any) -> None:
        """Compare values that were computed from the first file's values."""
        if not self.passes_on:
            self.born.add(b, a)

    def add_inherited_none(self, difference: float) -> None:
        """Count a difference as born, because nothing before it differs."""
        if not self.passes_on:
            self.born.max_abs = max(self.born.max_abs, difference)
            self.born.problem = self.born.problem or self.total.problem

    def row(self, born: bool) -> LayerComparison:
        """The result."""
        total = self.total
        known = born and not self.unknown
        error: float | None = None
        if known:
            error = math.inf if self.born.problem else self._share(self.born.max_abs)
        return LayerComparison(
            name=self.pair.a.name,
            other_name=self.pair.b.name,
            type=self.pair.a.type,
            scaled=total.scaled,
            allowed=self.allowed,
            max_abs=total.max_abs,
            cosine=total.cosine,
            snr=total.snr,
            channels=total.channels_beyond(self.allowed),
            born=error,
            born_unknown=self.unknown if born else "it was not asked for",
            top_class=self._classes.share,
            problem=total.problem,
            tensors=tuple(dict.fromkeys([self.pair.b.tensor, self.source])),
            nodes=self.pair.b.nodes,
        )

    def _share(self, largest: float) -> float:
        if self.total.unequal is not None:
            return self.total.scaled if largest else 0.0
        return largest / self.total.scale if self.total.scale else largest


def _channels(program: Program, tensor: str, rank: int) -> int | None:
    """The axis of the channels, unless that is all there is."""
    return channel_axis(program.axes(tensor, rank)) or None


class _Classes:
    """How often two outputs have the same best class."""

    def __init__(self, program: Program, pair: Pair) -> None:
        tensor = pair.a.tensor
        self._is_output = tensor in {info.name for info in program.outputs}
        self._final = self._is_output and ends_in_activation(program, tensor)
        self._same = self._all = 0

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        if not self._is_output or a.shape != b.shape:
            return
        ours, theirs = (best_classes(x, self._final) for x in (a, b))
        if ours is not None and theirs is not None:
            self._same += int(np.count_nonzero(ours == theirs))
            self._all += ours.size

    @property
    def share(self) -> float | None:
        """`None` for what has no classes."""
        return self._same / self._all if self._all else None


class _Sample(NamedTuple):
    """A batch on its way through the stages."""

    batch: Batch
    live_a: dict[str, Any]
    """What later stages of the first file read."""
    live_b: dict[str, Any]
    values: dict[str, Any]
    """The first file's values of layers, by source of the second file."""
    differing: set[str]
    """The sources and inputs of the second file whose values differ."""


class _Comparing:
    """Runs both files through all stages."""

    def __init__(
        self,
        a: Program,
        b: Program,
        pairs: Sequence[Pair],
        measured: Sequence[_Measured],
        nbytes: Sequence[int],
        born: bool,
    ) -> None:
        self._a, self._b, self._pairs, self._measured = a, b, pairs, measured
        self._born = born
        self._sources = [one.source for one in measured]
        self._stages = divided(nbytes, self._sources, sizes.STAGE_BYTES)
        self._carried_a = carried(a.graph, [[pairs[x].a.tensor for x in s] for s in self._stages])
        self._carried_b = carried(b.graph, [[pairs[x].b.tensor for x in s] for s in self._stages])
        self._known: dict[str, Tensor] = {}
        for pair, source, one in zip(pairs, self._sources, measured, strict=True):
            one.passes_on = source in self._known
            self._known.setdefault(source, pair.b)
        self._reads = readers(b.graph, [pair.b.tensor for pair in pairs]) if born else {}
        stage_of = {self._sources[x]: at for at, s in enumerate(self._stages) for x in s}
        self._last_read: dict[str, int] = {}
        for source, reads in self._reads.items():
            for name in reads:
                self._last_read[name] = max(self._last_read.get(name, 0), stage_of[source])
        self._inputs = dict(zip(b.graph.inputs, a.graph.inputs, strict=False))

    def run(self, given: Iterator[Batch]) -> int:
        """Compare all batches; return the number of samples."""
        total = 0

        def begin(batch: Batch) -> _Sample:
            nonlocal total
            total += batch.count
            sample = _Sample(batch, {}, {}, {}, set())
            self._note_inputs(sample)
            return sample

        with ThreadPoolExecutor(available_threads(), "layertap-comparing") as pool:

            def stage(number: int) -> Callable[[_Sample], None]:
                return partial(self._stage(number), each=pool.map)

            run_rounds(
                given,
                len(self._stages),
                begin,
                stage,
                self._end,
                sizes.WAITING_BYTES,
                sizes.MOST_SAMPLES,
            )
        return total

    def _note_inputs(self, sample: _Sample) -> None:
        """Note which inputs of the second file are not those of the first."""
        for name, value in sample.batch.b.items():
            other = sample.batch.a.get(self._inputs.get(name, ""))
            if other is None or not _equal(value, other):
                sample.differing.add(name)

    def _end(self, sample: _Sample, number: int) -> int:
        """Forget what no stage after this one reads; return the bytes that are left."""
        forget(sample.live_a, self._carried_a.last, number)
        forget(sample.live_b, self._carried_b.last, number)
        forget(sample.values, self._last_read, number)
        return nbytes_of(sample.live_a, sample.live_b, sample.values)

    def _stage(self, number: int) -> _RunStage:
        indices = self._stages[number]
        some = [self._pairs[at] for at in indices]
        a = Stage(self._a, [pair.a.tensor for pair in some], self._carried_a.tensors[number])
        b = Stage(self._b, [pair.b.tensor for pair in some], self._carried_b.tensors[number])
        members: dict[str, list[str]] = {}
        at_tensor: dict[str, list[int]] = {}
        for at in indices:
            pair = self._pairs[at]
            names = members.setdefault(self._sources[at], [])
            if pair.b.tensor not in names:
                names.append(pair.b.tensor)
            at_tensor.setdefault(pair.b.tensor, []).append(at)
        made = {
            name: tensors
            for name, tensors in members.items()
            if name not in self._b.graph.inputs and name not in self._b.graph.initializers
        }
        computed = groups(made, self._reads) if self._born else []
        return _RunStage(self, indices, a, b, computed, at_tensor)


class _RunStage:
    """One stage of both files, and the groups of layers whose own errors are measured."""

    def __init__(
        self,
        whole: _Comparing,
        indices: Sequence[int],
        a: Stage,
        b: Stage,
        computed: Sequence[Group],
        at_tensor: Mapping[str, Sequence[int]],
    ) -> None:
        self._whole, self._indices, self._a, self._b = whole, indices, a, b
        self._groups = [(group, self._from_others(group)) for group in computed]
        self._at_tensor = at_tensor

    def _from_others(self, group: Group) -> FromOthers:
        return FromOthers(self._whole._b, group, self._whole._known)

    def __call__(self, sample: _Sample, each: Callable[..., Iterator[Any]]) -> None:
        """Run a batch."""
        whole = self._whole
        values_a, late = self._a(sample.batch.a, sample.live_a)
        sample.live_a.update(late)
        values_b, late = self._b(sample.batch.b, sample.live_b)
        sample.live_b.update(late)
        pairs = whole._pairs

        def total(at: int) -> float:
            pair = pairs[at]
            return whole._measured[at].add(values_a[pair.a.tensor], values_b[pair.b.tensor])

        differences = dict(zip(self._indices, each(total, self._indices), strict=True))
        for at, difference in differences.items():
            source = whole._sources[at]
            sample.values.setdefault(source, values_a[pairs[at].a.tensor])
            if difference:
                sample.differing.add(source)
        if whole._born:
            self._measure_born(sample, values_a, differences, each)

    def _measure_born(
        self,
        sample: _Sample,
        values_a: Mapping[str, Any],
        differences: Mapping[int, float],
        each: Callable[..., Iterator[Any]],
    ) -> None:
        whole = self._whole
        left = set(self._indices)
        runs = list(self._groups)
        while runs:
            group, run = runs.pop(0)
            members = [at for name in group.tensors for at in self._at_tensor[name]]
            if sample.differing.isdisjoint(group.reads):
                continue  # all of the error is born here
            left.difference_update(members)
            try:
                found = run(whole_inputs(whole, sample), sample.values)
            except LayertapError as exc:
                if len(group.tensors) > 1:
                    some = one_by_one(whole._b, group, whole._reads)
                    replaced = [(one, self._from_others(one)) for one in some]
                    runs[:0] = replaced
                    known = [item for item in self._groups if item[0] is not group]
                    self._groups = [*known, *replaced]
                    left.update(members)
                else:
                    for at in members:
                        whole._measured[at].unknown = str(exc)
                continue

            def born(at: int) -> None:
                pair = whole._pairs[at]
                whole._measured[at].add_born(values_a[pair.a.tensor], found[pair.b.tensor])  # noqa: B023

            list(each(born, members))
        for at in left:
            whole._measured[at].add_inherited_none(differences[at])


def whole_inputs(whole: _Comparing, sample: _Sample) -> dict[str, Any]:
    """The inputs of the second file as the first file was fed."""
    b = sample.batch.b
    found: dict[str, Any] = {}
    for name, value in b.items():
        other: Any = sample.batch.a.get(whole._inputs.get(name, ""), value)
        same = getattr(other, "shape", None) == getattr(value, "shape", None)
        found[name] = other.astype(value.dtype, copy=False) if same else value
    return found


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if not (hasattr(one, "dtype") and hasattr(other, "dtype")) or one.shape != other.shape:
        return False
    nan = one.dtype.kind in "fc" and other.dtype.kind in "fc"
    return bool(np.array_equal(one, other, equal_nan=nan))
