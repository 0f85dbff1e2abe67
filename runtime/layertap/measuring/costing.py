"""Computes what layers cost: from the shapes in one run of the file, and from timed runs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layertap._arguments import count
from layertap._cut.facts import parsed
from layertap._engine.program import Program
from layertap.errors import UsageError
from layertap.format.graph import Node
from layertap.format.layer import ITEM_BYTES, Layer
from layertap.format.operators import MOVERS
from layertap.format.wire import content, find_text

from .crossing import Crossings, Place, Sources, layers_of
from .layer_costs import LayerCost, LayerCosts
from .operations import multiply_adds
from .owners import Owners
from .profiling import Profile, Ran, Tensor, profiled
from .samples import is_random, sample

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe

RUNS = 10
"""Timed runs, of which the medians are taken."""

WIDENED = "InsertedPrecisionFreeCast_"
"""How onnxruntime names a Cast to float32 that it adds: for the tensor that it reads."""

MOST_CROSSING = 4
"""Most tensors that cross where a model is cut in two."""


def layer_costs(
    program: Program,
    layers: Any = None,
    *,
    size: Sequence[int] | None = None,
    measure: Any = None,
    runs: int = RUNS,
    preprocess: Recipe | None = None,
) -> LayerCosts:
    """See `Model.cost`."""
    runs = count("runs", runs)
    selected = _selected(program, layers)
    outputs = [info.name for info in program.outputs]
    if not outputs:
        raise UsageError(f"{program.name} has no outputs, so nothing in it costs anything.")
    inputs: Any = sample(program, size)
    given = inputs if measure is None or is_random(measure) else measure
    owners, crossings = Owners(program), Crossings(program)
    traced = profiled(program, outputs, inputs, runs=1, unoptimized=True).runs[0]
    sizes = {name: Tensor(str(value.dtype), value.shape) for name, value in inputs.items()}
    equations = _equations(program)
    done: defaultdict[int | None, int] = defaultdict(int)
    nodes = program.graph.nodes
    for ran in traced:
        at = owners.node_of(ran, crossings.kept)
        owner = None if at is None else owners.of_node[at]
        node = None if at is None else nodes[at]
        done[owner] += _work(ran, node, equations)
        if node is not None:
            # An output that is left out is in neither list.
            sizes |= dict(zip(filter(None, node.writes), ran.writes, strict=False))
        elif ran.name.startswith(WIDENED) and ran.reads:
            # The CPU computes some operators in other ones, with other names, in float32.
            sizes.setdefault(ran.name.removeprefix(WIDENED), ran.reads[0])
    times: dict[int | None, float] | None = None
    whole = None
    if measure is not None:
        profile = profiled(program, outputs, _prepared(program, given, preprocess), runs=runs)
        whole = 1000 * statistics.median(profile.seconds)
        times = _milliseconds(profile, owners, whole)
    path = program.source.path
    table = _Table(program, crossings, owners, sizes, done, times)
    every = {layer.index: table.row(layer) for layer in program.layers}
    return LayerCosts(
        [every[layer.index] for layer in selected],
        list(every.values()),
        model="the model" if path is None else path.name,
        inputs={name: tuple(value.shape) for name, value in inputs.items()},
        input_bytes=sum(sizes[name].nbytes for name in inputs),
        multiply_adds=sum(done.values()),
        parameters=sum(layer.parameters for layer in program.layers if layer.parent is None),
        milliseconds=whole,
        unassigned=None if times is None else times.get(None, 0.0),
        device=program.engine.device,
    )


def _selected(program: Program, layers: Any) -> list[Layer]:
    """The layers that are asked for; all, those that are not exposed included, without a choice."""
    found = list(program.layers) if layers is None else program.select(layers)
    if not found:
        raise UsageError(f"{program.name} has no layers.")
    return found


def _prepared(program: Program, given: Any, preprocess: Recipe | None) -> Mapping[str, Any]:
    """What is run: the inputs by name."""
    needs = list(program.graph.inputs)
    return program.prepare(needs, given, preprocess, watch=False)


class _Table:
    """Makes the rows."""

    def __init__(
        self,
        program: Program,
        crossings: Crossings,
        owners: Owners,
        sizes: Mapping[str, Tensor],
        done: Mapping[int | None, int],
        times: Mapping[int | None, float] | None,
    ) -> None:
        """
        Args:
            sizes: of the tensors that were seen.
            done: multiply-adds by layer.
            times: milliseconds by layer, if they were measured.
        """
        self._crossings, self._sizes = crossings, sizes
        self._done, self._times = done, times
        self._layers = layers_of(crossings, program.layers)
        ends = {crossings.source(info.name) for info in program.outputs}
        self._apart = {*program.graph.inputs, *ends}
        """Tensors at which nothing can be cut."""
        self._inside = _inside(program.layers)
        self._dtypes = {layer.name: layer.dtype for layer in program.layers}
        self._unmoved = Sources(program.graph, MOVERS).of
        """What a tensor was computed as, before it was only moved."""
        self._moved = {self._unmoved(name): size for name, size in sizes.items()}
        kept = [at for at in crossings.kept if owners.of_node[at] is not None]
        self._kept = np.array(kept, np.int64)
        self._owners = np.array([owners.of_node[at] for at in kept], np.int64)
        last = 1 + max((layer.index for layer in program.layers), default=0)
        self._nodes = np.bincount(self._owners, minlength=last)
        self._spent = np.array([(times or {}).get(index, 0.0) for index in range(last)])

    def row(self, layer: Layer) -> LayerCost:
        """The row of a layer."""
        crossing = tensors = cut = before = None
        nbytes, depends = self._bytes(layer)
        if depends:
            place = self._crossings.after([str(layer.tensor)])
            known = [self._size(name) for name in place.tensors]
            if None not in known:
                crossing, tensors = sum(one for one in known if one), len(known)
            cut = self._cut(place)
            if self._times is not None:
                before = self._before(place)
        family = self._inside[layer.index]
        return LayerCost(
            name=layer.name,
            type=layer.type,
            index=layer.index,
            multiply_adds=sum(self._done.get(index, 0) for index in family),
            parameters=layer.parameters,
            nbytes=nbytes,
            crossing=crossing,
            tensors=tensors,
            cut=cut,
            milliseconds=None
            if self._times is None
            else sum(self._times.get(index, 0.0) for index in family),
            milliseconds_before=before,
        )

    def _bytes(self, layer: Layer) -> tuple[int | None, bool]:
        """The bytes of a layer, and whether the outputs depend on its values."""
        if layer.tensor is None:
            return None, False
        found = self._size(layer.tensor)
        return (layer.nbytes(1), False) if found is None else (found, True)

    def _size(self, tensor: str) -> int | None:
        """The bytes of a tensor, if the outputs depend on its values and its size is known."""
        source = self._crossings.source(tensor)
        found = self._sizes.get(tensor, self._sizes.get(source))
        if found is not None:
            return found.nbytes
        # onnxruntime did not compute it, but perhaps a tensor with its values in another shape or
        # dtype: it leaves out casts from float16 to float32 and back.
        moved = self._moved.get(self._unmoved(tensor))
        item = ITEM_BYTES.get(self._dtypes.get(self._layers.get(source, ""), ""))
        return moved.elements * item if moved is not None and item else None

    def _cut(self, place: Place) -> tuple[str, ...] | None:
        """The layers to cut at."""
        if not 0 < len(place.tensors) <= MOST_CROSSING or not place.before.any():
            return None
        if any(name in self._apart or name not in self._layers for name in place.tensors):
            return None
        return tuple(self._layers[name] for name in place.tensors)

    def _before(self, place: Place) -> float:
        """The time before a place: of each layer, the share of its nodes that come before."""
        inside = np.bincount(
            self._owners, weights=place.before[self._kept], minlength=len(self._nodes)
        )
        return float(np.sum(self._spent * inside / np.maximum(self._nodes, 1)))


def _inside(layers: Sequence[Layer]) -> dict[int, list[int]]:
    """For each layer, the indices of it and of the layers inside of it."""
    index_of = {layer.name: layer.index for layer in layers}
    parents = {layer.index: index_of.get(layer.parent or "") for layer in layers}
    found: dict[int, list[int]] = {layer.index: [] for layer in layers}
    for layer in layers:
        at: int | None = layer.index
        passed: set[int] = set()  # a damaged card may have a circle
        while at is not None and at not in passed:
            found[at].append(layer.index)
            passed.add(at)
            at = parents.get(at)
    return found


def _work(ran: Ran, node: Node | None, equations: Mapping[str, str]) -> int:
    """The multiply-adds of a node, and of the nodes inside of it."""
    reads, writes = ([one.shape for one in ends] for ends in (ran.reads, ran.writes))
    domain = "" if node is None else node.domain
    own = multiply_adds(ran.op_type, reads, writes, equations.get(ran.name, ""), domain)
    return own + sum(_work(inner, None, equations) for inner in ran.inside)


def _equations(program: Program) -> dict[str, str]:
    """The equation of each `Einsum` of the main graph, by the name of the node."""
    found = {}
    with program.reading() as buffer:
        for node in program.graph.nodes:
            if node.op_type != "Einsum":
                continue
            for span in parsed(buffer, *content(buffer, node.span)).attributes:
                if find_text(buffer, *span, 1) == "equation":
                    found[node.name] = find_text(buffer, *span, 4)
    return found


def _milliseconds(profile: Profile, owners: Owners, whole: float) -> dict[int | None, float]:
    """The time of each layer; that of nodes of no layer under `None`.

    They are the medians of the runs, times one factor: so they add up to the time of a whole run
    without a profile, which takes time itself.
    """
    by_run: list[dict[int | None, float]] = []
    for run in profile.runs:
        spent: defaultdict[int | None, float] = defaultdict(float)
        for ran, owner in zip(run, owners.of_runs(run), strict=True):
            spent[owner] += ran.microseconds / 1000
        by_run.append(spent)
    keys = dict.fromkeys(key for run in by_run for key in run)
    medians = {key: statistics.median(run.get(key, 0.0) for run in by_run) for key in keys}
    added = sum(medians.values())
    return {key: value * (whole / added if added else 1.0) for key, value in medians.items()}
