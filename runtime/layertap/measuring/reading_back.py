"""Walks back from a layer to the model's input: which positions of the input it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from layertap._cut.facts import Parsed, parsed
from layertap._cut.means import spared_means
from layertap._cut.plan import view
from layertap._engine.program import Program
from layertap.errors import UsageError
from layertap.format.axes import attribute
from layertap.format.graph import in_order
from layertap.format.operators import STANDARD_DOMAINS
from layertap.format.wire import Buffer, content

from .dependence import (
    SIZES_ONLY,
    Op,
    Part,
    Shape,
    UnknownReadsError,
    controls,
    everything,
    keeps_shape,
    reads_of,
)
from .links import Link, Marks, Reach
from .owners import Owners
from .profiling import profiled

T = TypeVar("T")

Ask = Callable[[Link, Sequence[T], int], Sequence[T]]


class _Read(NamedTuple):
    """What one output of a node reads of one tensor."""

    tensor: str
    rank: int
    parts: list[Part]


class Walker:
    """Knows the sizes of what some layers are computed from, and walks back from them."""

    def __init__(
        self, program: Program, tensors: Sequence[str], inputs: Mapping[str, NDArray[Any]]
    ) -> None:
        """
        Args:
            program: the model's.
            tensors: where a walk may begin.
            inputs: one sample, by name of the model's input; the sizes are those of its run.
        """
        graph = program.graph
        self.program = program
        self._nodes = graph.nodes
        makers = {name: node for node in graph.nodes for name in node.writes}
        places = {id(node): at for at, node in enumerate(graph.nodes)}
        kept = {*program.plan(tensors, peeled=False).nodes}
        order = [places[id(node)] for node in in_order(graph.nodes, makers)]
        self._order = [at for at in order if at in kept]
        """The nodes that the tensors are computed from, each after those that it reads from."""
        # A normalisation runs without a mean that it subtracts itself.
        self._instead = spared_means(graph, program.plan(tensors)).reads if program.card else {}
        with program.reading() as buffer:
            self._parsed = {at: self._parse(buffer, at) for at in self._order}
            self._attributes = {
                at: [attribute(buffer, *span) for span in one.attributes]
                for at, one in self._parsed.items()
            }
        self.varying = self._varying(inputs)
        self.shapes = self._shapes(tensors, inputs)
        self._values = self._control_values(inputs)
        self._known: dict[tuple[int, int], list[_Read]] = {}

    def _parse(self, buffer: Buffer, at: int) -> Parsed:
        found = parsed(buffer, *content(buffer, self._nodes[at].span))
        instead = self._instead.get(at, {})
        return found._replace(reads=[instead.get(name, name) for name in found.reads])

    @cached_property
    def owners(self) -> Owners:
        """The layers of the nodes."""
        return Owners(self.program)

    def _varying(self, inputs: Mapping[str, Any]) -> set[str]:
        """The tensors whose values depend on those of the inputs."""
        found = {*inputs}
        for at in self._order:
            if not found.isdisjoint(self._value_reads(at)):
                found.update(self._nodes[at].writes)
        return found

    def _value_reads(self, at: int) -> Sequence[str]:
        """The tensors whose values a node reads, not only their sizes or dtypes."""
        node, instead = self._nodes[at], self._instead.get(at, {})
        if node.op_type in SIZES_ONLY:
            return ()
        names = [instead.get(name, name) for name in node.reads]
        return names[:1] if node.op_type == "CastLike" else names

    def _shapes(
        self, tensors: Sequence[str], inputs: Mapping[str, NDArray[Any]]
    ) -> dict[str, Shape]:
        found: dict[str, Shape] = {name: tuple(value.shape) for name, value in inputs.items()}
        for name, weights in self.program.graph.initializers.items():
            found[name] = tuple(size for size in weights.type.dims or () if isinstance(size, int))
        found |= self._shapes_in_run(tensors, inputs)
        # onnxruntime takes some operators apart, and computes no views.
        for at in self._order:
            node = self._nodes[at]
            source, result = next(iter(node.reads), ""), next(iter(node.writes), "")
            if source not in found or result in found or not result:
                continue
            if keeps_shape(node.op_type):
                found[result] = found[source]
            elif node.op_type == "Transpose":
                found[result] = view(np.broadcast_to(0, found[source]), [node.perm]).shape
        return found

    def _shapes_in_run(
        self, tensors: Sequence[str], inputs: Mapping[str, NDArray[Any]]
    ) -> dict[str, Shape]:
        """The shapes of what onnxruntime computes."""
        program = self.program
        plan = program.plan(tensors)
        inside = {name for at in plan.nodes for name in self._nodes[at].reads}
        # What other tensors are computed from need not be an output, which takes memory.
        ends = [name for name in tensors if plan.leaves[name].source not in inside] or [*tensors]
        kept = program.plan(ends).nodes
        found: dict[str, Shape] = {}
        for ran in profiled(program, ends, inputs, runs=1, unoptimized=True).runs[0]:
            at = self.owners.node_of(ran, kept)
            if at is None:
                continue
            one = self._parsed[at]
            seen = [(one.writes, ran.writes)]
            if ran.op_type == self._nodes[at].op_type:  # not a guard around the node
                seen.append((one.reads, ran.reads))
            for names, sizes in seen:
                given = zip(filter(None, names), sizes, strict=False)
                found |= {name: size.shape for name, size in given}
        return found

    def _control_values(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The values that decide which positions are read, as far as they are fixed."""
        names = dict.fromkeys(
            one.reads[position]
            for one in self._parsed.values()
            for position in ((1,) if one.op_type == "Gather" else controls(one.op_type))
            if len(one.reads) > position
            and one.reads[position]
            and one.reads[position] not in self.varying
            and not self.varying.isdisjoint(one.reads)
        )
        if not names:
            return {}
        fetch = self.program.fetch([*names], kept=False)
        feeds = self.program.prepare(fetch.plan.needs, dict(inputs), None, watch=False)
        return {name: np.asarray(value) for name, value in fetch(feeds).items()}

    # --- Walking ------------------------------------------------------------------------------

    def marks(self, tensor: str, marks: Sequence[Marks]) -> dict[str, list[Marks]]:
        """The positions of each input that marked positions of a tensor read, along each axis.

        Raises:
            UsageError: it is not known what an operator reads.
        """
        return self._walk(
            tensor,
            marks,
            lambda link, items, node: link.marks(items),
            lambda old, new, node: np.logical_or(old, new),
            lambda items: all(one.any() for one in items),
        )

    def reach(self, tensor: str, reaches: Sequence[Reach]) -> dict[str, list[Reach]]:
        """What the positions of a tensor read of each input, along each axis.

        Raises:
            UsageError: it is not known what an operator reads.
        """
        return self._walk(
            tensor,
            reaches,
            lambda link, items, node: link.reach(items, node),
            Reach.join,
            lambda items: True,
        )

    def _walk(
        self,
        tensor: str,
        start: Sequence[T],
        ask: Ask[T],
        join: Callable[[T, T, int], T],
        some: Callable[[Sequence[T]], bool],
    ) -> dict[str, list[T]]:
        states: dict[str, list[T]] = {tensor: [*start]}
        for at in reversed(self._order):
            for output, name in enumerate(self._parsed[at].writes):
                state = states.pop(name, None) if name else None
                if state is None or not some(state):
                    continue
                for read in self._reads(at, output):
                    found = _asked(read, state, ask, at)
                    old = states.get(read.tensor)
                    if old is None or not some(old):
                        states[read.tensor] = found
                    elif some(found):  # not in the padding alone
                        both = zip(old, found, strict=True)
                        states[read.tensor] = [join(one, other, at) for one, other in both]
        return {name: state for name, state in states.items() if some(state)}

    def _reads(self, at: int, output: int) -> list[_Read]:
        key = at, output
        if key not in self._known:
            self._known[key] = self._find_reads(at, output)
        return self._known[key]

    def _find_reads(self, at: int, output: int) -> list[_Read]:
        one = self._parsed[at]
        follow = [name for name in self._value_reads(at) if name in self.varying]
        if not follow:
            return []
        try:
            self._check(at, one)
            found: list[_Read] = []
            for position, parts in reads_of(self._op(at, one), output):
                name = one.reads[position]
                if name in self.varying:
                    found.append(_Read(name, len(self.shapes[name]), parts))
        except (UnknownReadsError, KeyError, IndexError, ValueError, TypeError) as exc:
            raise self._unknown(at, exc) from exc
        for name in follow:
            if all(read.tensor != name for read in found):
                shape = self.shapes[name]
                found.append(_Read(name, len(shape), everything(shape)))
        return found

    def _check(self, at: int, one: Parsed) -> None:
        graph = self.program.graph
        if one.domain not in STANDARD_DOMAINS or (one.domain, one.op_type) in graph.functions:
            raise UnknownReadsError("which is not an operator of ONNX itself")
        for position in controls(one.op_type):
            if len(one.reads) > position and one.reads[position] in self.varying:
                raise UnknownReadsError("whose positions depend on the values of the input")

    def _op(self, at: int, one: Parsed) -> Op:
        attributes = self._attributes[at]
        return Op(
            one.op_type,
            one.reads,
            one.writes,
            {name: values for name, values, _ in attributes if values},
            {name: letters for name, _, letters in attributes if letters},
            self.shapes,
            self._values,
            self.program.graph.opsets.get("", 1),
        )

    def _unknown(self, at: int, exc: Exception) -> UsageError:
        why = exc if isinstance(exc, UnknownReadsError) else "whose sizes are not known"
        return UsageError(
            f"{self.program.name} computes {self.name_of(at)!r} with the operator "
            f"{self._nodes[at].op_type}, {why}. So it is not known what the layers after it read. "
            "Choose a layer before it."
        )

    def name_of(self, at: int) -> str:
        """The layer that a node belongs to, or the tensor that it writes."""
        owner = self.owners.of_node[at]
        if owner is None:
            return self._nodes[at].writes[0]
        return self.program.layers[owner].name


def _asked(read: _Read, state: Sequence[T], ask: Ask[T], at: int) -> list[T]:
    """What is read of a tensor, for each of its axes."""
    found: list[Any] = [None] * read.rank
    for outs, ins, link in read.parts:
        for axis, value in zip(ins, ask(link, [state[out] for out in outs], at), strict=True):
            found[axis] = value
    return found
