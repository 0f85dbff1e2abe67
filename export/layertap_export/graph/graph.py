"""What an ONNX node reads, and dropping what nobody reads."""

from __future__ import annotations

from collections.abc import Iterable

import onnx


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside an If, Loop or Scan."""
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def captured(body: onnx.GraphProto) -> list[str]:
    """What a body reads that it does not make itself, in order."""
    own = {value.name for value in body.input} | {item.name for item in body.initializer}
    own |= {name for node in body.node for name in node.output}
    names = [name for node in body.node for name in reads(node)]
    names += [value.name for value in body.output]
    return list(dict.fromkeys(name for name in names if name not in own))


def reads(node: onnx.NodeProto) -> list[str]:
    """Everything a node reads, what its bodies capture included, in order."""
    names = [*node.input, *(name for body in bodies(node) for name in captured(body))]
    return [name for name in names if name]


def prune(model: onnx.ModelProto, keep: Iterable[str]) -> None:
    """Drop nodes and weights that do not lead to a tensor in `keep`; nodes stay in order."""
    graph = model.graph
    needed = set(keep)
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(reads(node))
            nodes.append(node)
    weights = [item for item in graph.initializer if item.name in needed]
    nodes.reverse()
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
