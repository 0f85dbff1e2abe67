"""The modules of a file from PyTorch as layers: what a forward hook on each of them would see.

A node says which modules it was computed in, see `scopes`. The nodes of one call of a module are
next to each other, and its output is the tensor that leaves them last: one that a node outside
reads, or an output of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .graph import Graph, Node
from .operators import MOVERS, is_one_of
from .scopes import Places, Scope, owner_of


class Call:
    """One call of a module."""

    def __init__(self, scope: Scope, depth: int) -> None:
        self.path = scope.path
        self.scope = scope
        self.depth = depth
        self.nodes: list[int] = []
        self.name = ""
        self.parent: Call | None = None
        self.is_leaf = True
        """Whether no other module is called in it."""
        self.output: str | None = None
        self.why_not: str | None = None
        self.reads: tuple[str, ...] = ()
        """The tensors that come in, except weights."""

    def type(self, graph: Graph) -> str:
        """The class; without it, the operator if it is its only one, and else `Module`."""
        kind = self.scope.type.rpartition(".")[2]
        if kind:
            return kind
        single = self.is_leaf and len(self.nodes) == 1
        return graph.nodes[self.nodes[0]].op_type if single else "Module"


class Merged:
    """A module that has weights in the file, and no node."""

    def __init__(self, path: str, node: int, why_not: str) -> None:
        self.path = path
        self.node = node
        """The node that reads its weights."""
        self.why_not = why_not


class Modules:
    """The calls of a file's modules."""

    def __init__(self, graph: Graph, places: Places) -> None:
        self.graph = graph
        self.places = places
        self.constant = _independent(graph)
        self.calls = self._named(self._split(self._runs()))
        self.by_path: dict[str, list[Call]] = {}
        for call in self.calls:
            self.by_path.setdefault(call.path, []).append(call)
        self.around: dict[int, list[Call]] = {}
        """The calls around each node, the outermost first."""
        for call in self.calls:
            for at in call.nodes:
                self.around.setdefault(at, []).append(call)
        for chain in self.around.values():
            chain.sort(key=lambda call: call.depth)
        for call in self.calls:
            chain = self.around[call.nodes[0]]
            before = chain[: chain.index(call)]
            if before:
                call.parent = before[-1]
                call.parent.is_leaf = False
        self.readers: dict[str, list[int]] = {}
        for at, node in enumerate(graph.nodes):
            for name in node.reads:
                self.readers.setdefault(name, []).append(at)
        for call in self.calls:
            inside = set(call.nodes)
            written = {name for at in inside for name in graph.nodes[at].writes}
            reads = (name for at in call.nodes for name in graph.nodes[at].reads)
            call.reads = tuple(
                dict.fromkeys(
                    name for name in reads if name not in written and name not in graph.initializers
                )
            )
            call.output = self._leaving(call, inside)
        self.merged = list(self._merged())

    def _runs(self) -> list[Call]:
        """Nodes of the same module next to each other, as one call each.

        Nodes that only compute sizes and constants may stand anywhere, and others may have been
        added by another tool, such as a quantiser, so they do not separate.
        """
        found: list[Call] = []
        stack: list[Call] = []
        late: list[int] = []
        for at, place in enumerate(self.places):
            if at in self.constant:
                late.append(at)
                continue
            if not place.known:
                continue
            same = 0
            for call, scope in zip(stack, place.scopes, strict=False):
                if (call.path, call.scope.call) != (scope.path, scope.call):
                    break
                if not call.scope.type:
                    call.scope = scope
                same += 1
            del stack[same:]
            for scope in place.scopes[same:]:
                stack.append(Call(scope, len(stack)))
                found.append(stack[-1])
            for call in stack:
                call.nodes.append(at)
        return found + self._of_constants(found, late)

    def _of_constants(self, calls: Iterable[Call], nodes: Iterable[int]) -> list[Call]:
        """Calls of modules that have nodes of constants and sizes alone."""
        paths = {call.path for call in calls}
        found: dict[Scope, Call] = {}
        for at in nodes:
            owners = list(filter(None, map(owner_of, self.graph.nodes[at].reads)))
            for depth, scope in enumerate(self.places[at].scopes):
                own = any(f"{owner}.".startswith(f"{scope.path}.") for owner in owners)
                if scope.path not in paths and (own or not owners):
                    found.setdefault(scope, Call(scope, depth)).nodes.append(at)
        return list(found.values())

    def _split(self, runs: Iterable[Call]) -> list[Call]:
        """Two calls of a module that follow each other directly, apart."""
        found: list[Call] = []
        for run in runs:
            size = self._period(run)
            for start in range(0, len(run.nodes), size):
                call = Call(run.scope, run.depth)
                call.nodes = run.nodes[start : start + size]
                found.append(call)
        return found

    def _period(self, run: Call) -> int:
        """How many nodes each of the calls in a run has."""
        graph, count = self.graph, len(run.nodes)
        if count > MOST_SPLIT:
            return count
        marks = [
            (
                [scope.path for scope in self.places[at].scopes[run.depth + 1 :]],
                *_work(graph, graph.nodes[at]),
            )
            for at in run.nodes
        ]
        for size in range(1, count // 2 + 1):
            if count % size == 0 and marks == marks[:size] * (count // size):
                parts = [run.nodes[start : start + size] for start in range(0, count, size)]
                # No class of torch.nn does the same twice with the same weights.
                if run.scope.type.startswith("torch.nn.") or not self._is_chained(parts):
                    return size
        return count

    def _is_chained(self, parts: Sequence[Sequence[int]]) -> bool:
        """Whether one of several parts reads what another one writes."""
        nodes = self.graph.nodes
        written: set[str] = set()
        for part in parts:
            if any(not written.isdisjoint(nodes[at].reads) for at in part):
                return True
            written.update(name for at in part for name in nodes[at].writes)
        return False

    def _named(self, calls: list[Call]) -> list[Call]:
        """The calls in order, each with its name: the second call of `relu` is `relu#1`."""
        calls.sort(key=lambda call: (call.nodes[0], call.depth))
        counts: dict[str, int] = {}
        taken = {call.path for call in calls}
        for call in calls:
            number = counts.get(call.path, 0)
            call.name = f"{call.path}#{number}" if number else call.path
            while number and call.name in taken:
                number += 1
                call.name = f"{call.path}#{number}"
            taken.add(call.name)
            counts[call.path] = number + 1
        return calls

    def _leaving(self, call: Call, inside: set[int]) -> str | None:
        """The tensor that leaves a call last; sizes that other modules take do not count."""
        graph = self.graph
        for at in reversed(call.nodes):
            for name in graph.nodes[at].writes:
                outside = (one for one in self.readers.get(name, ()) if one not in inside)
                if name in graph.outputs or any(one not in self.constant for one in outside):
                    return name
        return None

    def _merged(self) -> Iterator[Merged]:
        """Modules whose operators the exporter merged into those of other modules."""
        graph = self.graph
        readers: dict[str, int] = {}
        for at, node in enumerate(graph.nodes):
            for name in node.reads:
                if name in graph.initializers and (owner := owner_of(name)):
                    readers.setdefault(owner, at)
        for path, at in readers.items():
            if path in self.by_path:
                continue
            chain = self.around.get(at, [])
            by = repr(chain[-1].name) if chain else "the whole model"
            why_not = f"the file has no operator of its own for it, {by} reads its weights"
            yield Merged(path, at, why_not)
            if self.places[at].merged:
                self._withdraw(path, at, by)
        for call in self.calls:
            if call.scope.doubt:
                call.why_not = f"the file has this name for {call.scope.doubt} of this name"
            elif call.output and not call.why_not and self._ends_early(call):
                call.why_not = (
                    "the exporter may have merged its last operator into one of the next module; "
                    f"before that comes {call.output!r}"
                )
            elif call.is_leaf and len(call.nodes) == 1 and self._has_strange_weights(call):
                call.why_not = (
                    "the exporter merged a batch normalization into it: "
                    f"{call.output!r} is the output of that"
                )

    def _withdraw(self, path: str, at: int, by: str) -> None:
        """Mark the calls that a module was the last part of, before it was merged into another."""
        around = self.around.get(at, [])
        outer = path
        while outer := outer.rpartition(".")[0]:
            calls = [one for one in self.by_path.get(outer, ()) if one.nodes[-1] < at]
            if calls and calls[-1] not in around:
                calls[-1].why_not = f"the exporter merged its last operator, {path!r}, into {by}"

    def _ends_early(self, call: Call) -> bool:
        """Whether only operators that move values read a call's output, and took another tensor
        before operators were merged.

        Two transpositions, or reshapes, of two modules are merged into one, which belongs to the
        second module. The layers of torch.nn do not end in one.
        """
        if call.is_leaf and call.scope.type.startswith("torch.nn."):
            return False
        output, inside = str(call.output), set(call.nodes)
        outside = [at for at in self.readers.get(output, ()) if at not in inside | self.constant]
        moving = bool(outside) and all(is_one_of(self.graph.nodes[at], MOVERS) for at in outside)
        taken = [self.places[at].takes for at in outside]
        return moving and all(one is not None and output not in one for one in taken)

    def _has_strange_weights(self, call: Call) -> bool:
        """Whether the weights of a convolution are not those of its module, and none of its names.

        The older exporter does this where it merges a batch normalization into a convolution.
        """
        node = self.graph.nodes[call.nodes[0]]
        weights = [name for name in node.reads if name in self.graph.initializers]
        return (
            not call.scope.type
            and node.op_type in ("Conv", "ConvTranspose")
            and len(weights) == 2
            and all(name.startswith("onnx::") for name in weights)
        )


MOST_SPLIT = 4096
"""Most nodes of a module that are searched for calls that follow each other directly."""


def _independent(graph: Graph) -> set[int]:
    """Indices of the nodes that depend on nothing but weights and the sizes of tensors."""
    found: set[int] = set()
    known = set(graph.initializers)
    for at, node in enumerate(graph.nodes):
        if node.op_type in ("Shape", "Size") or known.issuperset(node.reads):
            found.add(at)
            known.update(node.writes)
    return found


def _work(graph: Graph, node: Node) -> tuple[str, tuple[str, ...]]:
    """What a node does: its operator and its weights."""
    return node.op_type, tuple(name for name in node.reads if name in graph.initializers)
