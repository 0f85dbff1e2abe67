"""The layers of a file without a card: its tensors, and where it says its modules, these.

A tensor that is the output of modules has one row for each of them, the innermost first. All other
tensors have a row under their own name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .card import Card, Source, TensorInfo
from .graph import Graph, TensorType, read_types
from .layer import Layer, Shape
from .modules import Call, Modules
from .scopes import read_scopes
from .wire import Buffer, Span, WireError, fields, find_text, text


def layers_of(buffer: Buffer, graph: Graph, types: Mapping[str, TensorType]) -> tuple[Layer, ...]:
    """The layers of a file without a card: its modules, if it says them, and its tensors."""
    _check_amount(graph)
    places = read_scopes(buffer, graph)
    if places is None:
        return tuple(_tensors(graph, types))
    return tuple(_ModuleRows(graph, types, Modules(graph, places)).rows())


def _tensors(graph: Graph, types: Mapping[str, TensorType]) -> Iterator[Layer]:
    """One layer per tensor that a node writes; tensors within subgraphs are not offered."""
    index = 0
    for node in graph.nodes:
        weights = [name for name in node.reads if name in graph.initializers]
        inbound = tuple(name for name in node.reads if name not in graph.initializers)
        parameters = _counted(graph, weights)
        for tensor in node.writes:
            kind = types.get(tensor, TensorType())
            yield Layer(
                name=tensor,
                type=node.op_type,
                index=index,
                shape=shape_of(kind),
                dtype=dtype_of(kind),
                parameters=parameters,
                inbound=inbound,
                tensor=tensor,
            )
            index += 1
            parameters = 0  # counted once, with the node's first tensor


def card_of(buffer: Buffer, graph: Graph, layers: Sequence[Layer]) -> Card:
    """A card that says what a file without one says by itself.

    Args:
        buffer: the file.
        graph: its index.
        layers: the layers of the file, as `layers_of` returns them.
    """
    types = read_types(buffer, graph)
    return Card(
        source=Source(
            framework="onnx",
            version=find_text(buffer, 0, len(buffer), 3),
            model="".join(text(buffer, *span) for span in _contents(buffer, graph.title)),
            type=graph.producer,
            weights_sha256="",
        ),
        inputs=tuple(info_of(name, kind) for name, kind in graph.inputs.items()),
        outputs=tuple(info_of(name, types[name]) for name in graph.outputs),
        layers=tuple(layers),
    )


def _contents(buffer: Buffer, spans: Iterable[Span]) -> Iterator[Span]:
    for span in spans:
        for _, _, _, start, end in fields(buffer, *span):
            yield start, end


class _ModuleRows:
    """The rows of a file that says its modules: each at the node that writes its output."""

    def __init__(self, graph: Graph, types: Mapping[str, TensorType], modules: Modules) -> None:
        self.graph = graph
        self.types = types
        self.modules = modules
        self.names = {call.name for call in modules.calls}
        self.names |= {merged.path for merged in modules.merged}
        self.written = {name for node in graph.nodes for name in node.writes}
        self.outputs: dict[str, list[Call]] = {}
        """The calls that a tensor is the output of, the innermost first."""
        self.withdrawn: dict[int, list[Call]] = {}
        """The calls whose output is not in the file, by their last node."""
        for call in reversed(modules.calls):
            if call.why_not:
                self.withdrawn.setdefault(call.nodes[-1], []).append(call)
            elif call.output:
                self.outputs.setdefault(call.output, []).append(call)
        for calls in self.outputs.values():
            calls.sort(key=lambda call: -call.depth)

    def rows(self) -> Iterator[Layer]:
        for index, values in enumerate(self._values()):
            yield Layer(index=index, **values)

    def _values(self) -> Iterator[dict[str, Any]]:
        merged: dict[int, list[dict[str, Any]]] = {}
        for one in self.modules.merged:
            parent = self._parent_of(one.path)
            row = self._unavailable(one.path, "Module", one.why_not, parent)
            merged.setdefault(one.node, []).append(row)
        for at, node in enumerate(self.graph.nodes):
            yield from merged.get(at, ())
            weights = [name for name in node.reads if name in self.graph.initializers]
            parameters = _counted(self.graph, weights)
            chain = self.modules.around.get(at, [])
            for tensor in node.writes:
                for call in self.outputs.get(tensor, ()):
                    yield self._module(call)
                if tensor not in self.outputs:
                    name = f"tensor:{tensor}" if tensor in self.names else tensor
                    reads = [name for name in node.reads if name not in weights]
                    yield self._row(name, node.op_type, tensor, parameters, reads, chain)
                parameters = 0
            for call in self.withdrawn.get(at, ()):
                kind = call.type(self.graph)
                yield self._unavailable(
                    call.name, kind, str(call.why_not), self._shown(call.parent)
                )

    def _module(self, call: Call) -> dict[str, Any]:
        graph = self.graph
        weights = {
            name: None
            for at in call.nodes
            for name in graph.nodes[at].reads
            if name in graph.initializers
        }
        chain = self.modules.around[call.nodes[0]]
        chain = chain[: chain.index(call)]
        kind, parameters = call.type(graph), _counted(graph, weights)
        return self._row(call.name, kind, str(call.output), parameters, call.reads, chain, call)

    def _row(
        self,
        name: str,
        type: str,  # noqa: A002 - the name of the field
        tensor: str,
        parameters: int,
        reads: Iterable[str],
        chain: Sequence[Call],
        call: Call | None = None,
    ) -> dict[str, Any]:
        kind = self.types.get(tensor, TensorType())
        inside = [*chain, *([call] if call else ())]
        return {
            "name": name,
            "type": type,
            "shape": shape_of(kind),
            "dtype": dtype_of(kind),
            "parameters": parameters,
            "inbound": tuple(self._named(read, inside) for read in reads),
            "tensor": tensor,
            "parent": self._shown(chain[-1] if chain else None),
        }

    def _unavailable(
        self,
        name: str,
        type: str,  # noqa: A002 - the name of the field
        why_not: str,
        parent: str | None,
    ) -> dict[str, Any]:
        return {
            "name": name,
            "type": type,
            "shape": (),
            "dtype": "",
            "parameters": 0,
            "inbound": (),
            "tensor": None,
            "parent": parent,
            "why_not": why_not,
        }

    def _named(self, tensor: str, chain: Sequence[Call]) -> str:
        """The name of the row of a tensor that something inside of `chain` reads: the outermost
        module that it is the output of, and that is not around the reader."""
        calls = self.outputs.get(tensor)
        if calls is None:
            hidden = tensor in self.written and tensor in self.names
            return f"tensor:{tensor}" if hidden else tensor
        others = [call for call in calls if call not in chain]
        return (others or calls)[-1].name

    def _shown(self, call: Call | None) -> str | None:
        """The name of the innermost call that has a row, from this one outwards."""
        while call is not None and not (call.output or call.why_not):
            call = call.parent
        return call.name if call else None

    def _parent_of(self, path: str) -> str | None:
        """The first call of the module around a path, if it has a row."""
        while path := path.rpartition(".")[0]:
            if path in self.names:
                return path
        return None


def _counted(graph: Graph, weights: Iterable[str]) -> int:
    return sum(_count(graph.initializers[name].type) for name in weights)


def _check_amount(graph: Graph) -> None:
    """Check that the rows, one for each tensor that a node writes, do not become too long.

    Every row names all tensors that the node reads, so that a small file could fill the memory.
    """
    amount = sum(len(node.writes) * sum(map(len, node.reads)) for node in graph.nodes)
    if amount > MOST_TEXT:
        raise WireError(
            "one node, or several, read and write so many tensors that the names in its table of "
            f"layers have {amount:,} characters"
        )


MOST_TEXT = 1 << 27
"""Most characters in the column `connected to` of a file without a card."""


def _count(weights: TensorType) -> int:
    """How many weights; shapes, axes and the like (whole numbers of 64 bits) are none."""
    counted = weights.dtype not in ("int64", "bool", "string")
    return math.prod(size for size in weights.dims or () if isinstance(size, int)) * counted


def info_of(name: str, kind: TensorType) -> TensorInfo:
    """An input or output of the graph."""
    return TensorInfo(name=name, shape=shape_of(kind), dtype=dtype_of(kind))


def shape_of(kind: TensorType) -> Shape:
    return tuple(size if isinstance(size, int) else None for size in kind.dims or ())


def dtype_of(kind: TensorType) -> str:
    """The dtype; empty, with an empty shape, where the file does not state the number of axes."""
    return "" if kind.dims is None and kind.dtype not in _CONTAINERS else kind.dtype


_CONTAINERS = ("sequence", "map", "optional")
