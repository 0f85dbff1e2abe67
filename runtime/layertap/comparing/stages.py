"""Runs a graph in stages: each goes on from what the stages before it computed.

All layers of a network at once may be more than the memory holds. A stage computes some of them,
and the tensors that later stages read; so each node is computed once, and only one stage is in
memory. For the errors that are born in single layers, the layers of a stage are divided into groups
within which no layer reads another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from layertap._cut.plan import Leaf, dependents, peel
from layertap._engine.feeds import prepare_layer
from layertap._engine.library import shared_memory
from layertap._engine.program import Program
from layertap.format.graph import Graph, TensorType

from .matching import Tensor

if TYPE_CHECKING:
    from layertap._engine.program import Fetch
    from layertap._engine.settings import Settings

B = TypeVar("B")
S = TypeVar("S")


@contextmanager
def sharing_memory(*programs: Program) -> Iterator[list[Program]]:
    """The same programs, whose sessions on the CPU share their memory.

    A program whose sessions the caller has set up is left as it is.
    """
    own: list[Program] = []
    found: list[Program] = []
    entries: dict[str, str] | None = None
    try:
        for program in programs:
            settings: Settings = program.settings
            options = settings.session_options
            on_cpu = program.engine.device == "cpu" and settings.providers is None
            if not on_cpu or not (options is None or isinstance(options, Mapping)):
                found.append(program)
                continue
            entries = shared_memory() if entries is None else entries
            options = {**entries, **(options or {})}
            own.append(Program(program.source, replace(settings, session_options=options)))
            found.append(own[-1])
        yield found
    finally:
        for program in own:
            program.close()


class Carried(NamedTuple):
    """What stages compute for later ones, in addition to what is asked of them."""

    tensors: list[tuple[str, ...]]
    """By stage."""
    last: Mapping[str, int]
    """The last stage that reads each tensor."""


def carried(graph: Graph, stages: Sequence[Sequence[str]]) -> Carried:
    """The tensors that each stage computes for later ones.

    Constants are not among them: computing them again is cheaper than passing them on.

    Args:
        graph: the graph.
        stages: the tensors that are asked of each stage.
    """
    makers = {name: at for at, node in enumerate(graph.nodes) for name in node.writes}
    moving = dependents(graph, graph.inputs)
    leaves = peel(graph, {tensor for stage in stages for tensor in stage})
    stage_of: dict[int, int] = {}
    last: dict[str, int] = {}
    for number, stage in enumerate(stages):
        open_ends = sorted({leaves[tensor].source for tensor in stage})
        while open_ends:
            name = open_ends.pop()
            if name in graph.inputs or name not in makers:
                continue
            at = makers[name]
            if at not in stage_of:
                stage_of[at] = number
                open_ends.extend(graph.nodes[at].reads)
            elif stage_of[at] < number and at in moving:
                last[name] = number
    sources = {name: leaf.source for name, leaf in peel(graph, last).items()}
    late = {sources[name]: number for name, number in last.items()}
    late |= {name: max(late[name], number) for name, number in last.items() if name in late}
    found: list[list[str]] = [[] for _ in stages]
    for name in late:
        if name in makers and name not in graph.inputs:
            found[stage_of[makers[name]]].append(name)
    return Carried([tuple(sorted(names)) for names in found], late)


class Stage:
    """One stage of one file, ready to run."""

    def __init__(self, program: Program, tensors: Sequence[str], passed_on: Sequence[str]) -> None:
        """
        Args:
            program: the file.
            tensors: what is asked for.
            passed_on: what later stages need, see `carried`.
        """
        self._program, self._tensors, self._passed_on = program, tensors, passed_on
        self._fetch: Fetch | None = None
        self._given: tuple[str, ...] = ()

    def __call__(
        self, inputs: Mapping[str, Any], before: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compute the stage.

        Args:
            inputs: the model's inputs.
            before: tensors that earlier stages computed.

        Returns:
            What was asked for, and what later stages need, by tensor.
        """
        feeds = {**inputs, **before}
        given = tuple(sorted(before))
        if self._fetch is None or self._given != given:
            tensors = list(dict.fromkeys([*self._tensors, *self._passed_on]))
            self._fetch = self._program.fetch(tensors, feeds, given, kept=False)
            self._given = given
        found = self._fetch(feeds)
        asked = {name: found[name] for name in self._tensors}
        # A value that is not an array (a sequence) cannot be fed, and is computed again.
        late = {name: found[name] for name in self._passed_on if hasattr(found[name], "dtype")}
        return asked, late

    def close(self) -> None:
        """Free the session."""
        self._fetch = None


def divided(nbytes: Sequence[int], sources: Sequence[str], most: int) -> list[list[int]]:
    """Layers in stages, by their bytes; layers of one source are in one stage.

    Args:
        nbytes: the bytes of each layer, in the order in which they are computed.
        sources: the tensor that each is a view of.
        most: most bytes of a stage, unless a single layer has more.
    """
    stages: list[list[int]] = [[]]
    held = 0
    seen: set[str] = set()
    for at, (size, source) in enumerate(zip(nbytes, sources, strict=True)):
        new = source not in seen
        seen.add(source)
        if new and stages[-1] and held + size > most:
            stages.append([])
            held = 0
        stages[-1].append(at)
        held += size if new else 0
    return stages


def run_rounds(
    batches: Iterator[B],
    stages: int,
    begin: Callable[[B], S],
    stage: Callable[[int], Callable[[S], None]],
    end: Callable[[S, int], int],
    most_bytes: int,
    most_samples: int,
) -> None:
    """Run batches through all stages, some at once: a session is made for each stage and round.

    A session keeps the memory that it once took, so that only that of one stage may exist. With a
    single stage, its session runs all batches.

    Args:
        batches: what is run.
        stages: the number of stages.
        begin: makes of a batch what goes through the stages.
        stage: makes the function of a stage.
        end: forgets what no stage after this one needs, and returns the bytes that are left.
        most_bytes: most bytes that wait between two stages.
        most_samples: most batches that do.
    """
    only = stage(0) if stages == 1 else None
    most = 1
    while taken := [begin(batch) for batch in islice(batches, most)]:
        largest = 0
        for number in range(stages):
            run = only or stage(number)
            for one in taken:
                run(one)
            largest = max(largest, sum(end(one, number) for one in taken))
            if only is None:
                del run
        if only is None:
            most = max(1, min(most_samples, most_bytes // max(1, largest // len(taken))))


def nbytes_of(*lives: Mapping[str, Any]) -> int:
    """The bytes of the memory that some arrays keep, which may be views of one another."""
    held: dict[int, int] = {}
    for live in lives:
        for value in live.values():
            if hasattr(value, "nbytes"):
                base = value
                while hasattr(getattr(base, "base", None), "nbytes"):
                    base = base.base
                held[id(base)] = base.nbytes
    return sum(held.values())


def forget(live: dict[str, Any], last: Mapping[str, int], number: int) -> None:
    """Forget the values that no stage after `number` reads."""
    for name in [x for x in live if last.get(x, -1) <= number]:
        del live[name]


class Group(NamedTuple):
    """Layers that are computed from other layers, none of which is in the group."""

    tensors: tuple[str, ...]
    """The layers' tensors."""
    reads: tuple[str, ...]
    """The sources of the layers that they read."""


def readers(graph: Graph, tensors: Iterable[str]) -> dict[str, frozenset[str]]:
    """For each source of some tensors, the sources that it is computed from, directly.

    The search back stops at the sources of all the tensors, and at inputs. A weight of which a
    layer is a view is not given to other layers that read it: it belongs to them.
    """
    makers = {name: at for at, node in enumerate(graph.nodes) for name in node.writes}
    sources = {leaf.source for leaf in peel(graph, tensors).values()}
    stops = sources & (makers.keys() | graph.inputs.keys())
    return {source: frozenset(_read(graph, makers, stops, source)) for source in sources}


def _read(graph: Graph, makers: Mapping[str, int], stops: set[str], source: str) -> Iterable[str]:
    seen: set[str] = set()
    open_ends = list(graph.nodes[makers[source]].reads) if source in makers else []
    while open_ends:
        name = open_ends.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in graph.inputs or (name in stops and name != source):
            yield name
        elif name in makers:
            open_ends.extend(graph.nodes[makers[name]].reads)


def groups(
    tensors: Mapping[str, Sequence[str]], reads: Mapping[str, frozenset[str]]
) -> list[Group]:
    """Divide layers into groups within which none reads another.

    Args:
        tensors: the tensors of each source, in the order in which the sources are computed.
        reads: see `readers`.
    """
    group_of: dict[str, int] = {}
    for source in tensors:
        taken = {group_of[name] for name in reads[source] if name in group_of}
        group_of[source] = next(at for at in range(len(group_of) + 1) if at not in taken)
    found = []
    for number in range(max(group_of.values(), default=-1) + 1):
        members = [source for source in tensors if group_of[source] == number]
        names = tuple(name for source in members for name in tensors[source])
        found.append(Group(names, tuple(sorted(set().union(*(reads[x] for x in members))))))
    return found


class FromOthers:
    """A group of layers of one file, computed from activations of another file."""

    def __init__(self, program: Program, group: Group, tensors: Mapping[str, Tensor]) -> None:
        """
        Args:
            program: the file.
            group: the layers.
            tensors: by source, the layer that is given for it.
        """
        self._program, self._group, self._tensors = program, group, tensors
        inner = [name for name in group.reads if name not in program.graph.inputs]
        given = [tensors[name].tensor for name in inner]
        self._plan = program.plan(group.tensors, given)
        self._given = tuple(given)
        self._fetch: Fetch | None = None

    def __call__(self, inputs: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the layers.

        Args:
            inputs: the model's inputs, prepared as for the other file.
            values: activations of the other file, by source of this file.

        Raises:
            InputError: a value does not fit this file.
        """
        feeds = {name: inputs[name] for name in self._plan.needs}
        for source in self._plan.starts:
            known = self._tensors[source]
            leaf: Leaf = self._plan.given[known.tensor]
            spec = TensorType(known.dtype, known.shape if known.dtype else None)
            feeds[source] = prepare_layer(f"layer {known.name!r}", values[source], spec, leaf)
        if self._fetch is None:
            self._fetch = self._program.fetch(self._group.tensors, feeds, self._given, kept=False)
        return self._fetch(feeds)


def one_by_one(program: Program, group: Group, reads: Mapping[str, frozenset[str]]) -> list[Group]:
    """A group as one group for each of its layers, for where the whole cannot be run."""
    leaves = peel(program.graph, group.tensors)
    return [Group((name,), tuple(sorted(reads[leaf.source]))) for name, leaf in leaves.items()]
