"""The nodes of an ONNX graph: what each reads, which node makes a tensor, and parts of a graph."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import onnx
from onnx import helper

from layertap.format.operators import STANDARD_DOMAINS

# --- One node ------------------------------------------------------------------------------------


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether a node is one of ONNX's own operators."""
    return node.domain in STANDARD_DOMAINS


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The values of all attributes of a node, by name; texts are bytes."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of one attribute of a node, or `default` if the node does not state it."""
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside an If, Loop or Scan."""
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def captured(body: onnx.GraphProto) -> list[str]:
    """The tensors that a body reads and does not make itself, in order."""
    own = {value.name for value in body.input} | {item.name for item in body.initializer}
    own |= {name for node in body.node for name in node.output}
    names = [name for node in body.node for name in reads(node)]
    names += [value.name for value in body.output]
    return list(dict.fromkeys(name for name in names if name not in own))


def reads(node: onnx.NodeProto) -> list[str]:
    """Every tensor that a node reads, including those that its bodies capture, in order."""
    names = [*node.input, *(name for body in bodies(node) for name in captured(body))]
    return [name for name in names if name]


def rename_reads(nodes: Iterable[onnx.NodeProto], new: Mapping[str, str]) -> None:
    """Let nodes, and the bodies inside them, read tensors by their new names, in place."""
    for node in nodes:
        for at, name in enumerate(node.input):
            node.input[at] = new.get(name, name)
        for body in bodies(node):
            outer = {name: new[name] for name in captured(body) if name in new}
            rename_reads(body.node, outer)
            for value in body.output:
                value.name = outer.get(value.name, value.name)


# --- Nodes and tensors ---------------------------------------------------------------------------


def opset_of(model: onnx.ModelProto, domain: str = "") -> int:
    """The opset of a domain that a model imports; 0 if it imports none."""
    same = STANDARD_DOMAINS if domain in STANDARD_DOMAINS else (domain,)
    return next((item.version for item in model.opset_import if item.domain in same), 0)


def makers(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    """By tensor the node that makes it, in the order of `nodes`."""
    return {name: node for node in nodes for name in node.output if name}


def read_counts(nodes: Iterable[onnx.NodeProto], keep: Iterable[str] = ()) -> Counter[str]:
    """How often each tensor is read, where `keep` (the graph's outputs) counts as read once."""
    counts = Counter(name for node in nodes for name in reads(node))
    counts.update(keep)
    return counts


# --- Parts of a graph ----------------------------------------------------------------------------


class Part(NamedTuple):
    """Some nodes of a graph."""

    nodes: list[onnx.NodeProto]
    """In the order of the graph."""
    needed: set[str]
    """The tensors to compute, and all that the nodes read."""


def leading_to(
    nodes: Sequence[onnx.NodeProto], tensors: Iterable[str], given: Collection[str] = ()
) -> Part:
    """The nodes that compute some tensors.

    Args:
        nodes: in topological order.
        tensors: the tensors to compute.
        given: tensors that need not be computed.
    """
    needed, found = set(tensors), []
    for node in reversed(nodes):
        if any(name in needed and name not in given for name in node.output):
            needed.update(reads(node))
            found.append(node)
    found.reverse()
    return Part(found, needed)


def between(
    nodes: Sequence[onnx.NodeProto], starts: Iterable[str], ends: Iterable[str]
) -> list[onnx.NodeProto]:
    """The nodes that depend on a tensor in `starts` and lead to one in `ends`, in order."""
    reached, found = set(starts), []
    for node in leading_to(nodes, ends).nodes:
        if not reached.isdisjoint(reads(node)):
            reached.update(node.output)
            found.append(node)
    return found


def in_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes in topological order, and otherwise in the order given.

    Nodes that depend on themselves, which no valid graph has, come last.
    """
    waiting: dict[int, int] = {}
    readers: dict[str, list[int]] = {}
    made = {name for node in nodes for name in node.output if name}
    for at, node in enumerate(nodes):
        needed = made.intersection(reads(node))
        waiting[at] = len(needed)
        for name in needed:
            readers.setdefault(name, []).append(at)
    ready = [at for at, count in waiting.items() if not count]
    heapq.heapify(ready)
    found: list[int] = []
    while ready:
        at = heapq.heappop(ready)
        found.append(at)
        for name in nodes[at].output:
            for reader in readers.get(name, ()):
                waiting[reader] -= 1
                if not waiting[reader]:
                    heapq.heappush(ready, reader)
    found += sorted(waiting.keys() - set(found))
    return [nodes[at] for at in found]


def prune(model: onnx.ModelProto, keep: Iterable[str]) -> None:
    """Remove, in place, the nodes and weights that do not lead to a tensor in `keep`.

    So are the types that the graph states for tensors which it no longer has.
    """
    graph = model.graph
    nodes, needed = leading_to(graph.node, keep)
    weights = [item for item in graph.initializer if item.name in needed]
    left = needed.union(*(node.output for node in nodes))
    stated = [value for value in graph.value_info if value.name in left]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.value_info.extend(stated)


def subgraph(
    model: onnx.ModelProto, outputs: Sequence[str], given: Mapping[str, tuple[int, int]]
) -> onnx.ModelProto:
    """A model that computes some tensors of another model.

    Args:
        model: nodes in topological order.
        outputs: the tensors to compute.
        given: element types (`TensorProto.DataType`) and ranks, by name, of the tensors that need
            not be computed. Those that are needed become the inputs.
    """
    nodes, needed = leading_to(model.graph.node, outputs, given)
    graph = helper.make_graph(
        nodes,
        "part",
        [
            helper.make_tensor_value_info(name, dtype, [None] * rank)
            for name, (dtype, rank) in given.items()
            if name in needed
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [x for x in model.graph.initializer if x.name in needed and x.name not in given],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def input_types(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Element types and ranks of a model's inputs, by name, without those that have a default."""
    weights = {item.name for item in model.graph.initializer}
    return {
        value.name: (value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim))
        for value in model.graph.input
        if value.name not in weights
    }
