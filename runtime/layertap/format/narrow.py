"""Which tensors of a graph are computed in float16 or bfloat16, and how exact they can be.

A value that is rounded to float16 is off by up to 2**-11 of itself. Roundings of a chain of nodes
are independent of each other, so that their errors add up like a random walk: after n nodes, to
about sqrt(n) times as much. Measured as the largest error of a layer divided by its largest value,
in DenseNet121, EfficientNetB0 and small networks that onnxruntime converted to float16: up to
0.57 * 2**-11 * sqrt(n).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .graph import Graph, Node, element_type, in_order
from .operators import MOVERS, is_one_of
from .source import BytesSource, FileSource
from .wire import LEN, VARINT, Buffer, WireError, fields, find_text, integer

ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The largest relative error of one rounding."""

MARGIN = 2.0
"""How many times the expected error is allowed; 3.5 times what was measured."""

FEWEST = 4
"""A tensor counts as rounded at least so often: inputs and weights are rounded too."""


class Narrow(NamedTuple):
    """How a tensor is computed."""

    dtype: str
    """The least exact dtype on the way to it."""
    depth: int
    """How many nodes compute in it, one after another."""

    @property
    def rounding(self) -> float:
        """The largest relative error of one rounding."""
        return ROUNDING[self.dtype]

    @property
    def tolerance(self) -> float:
        """The largest scaled error that roundings explain."""
        return MARGIN * self.rounding * math.sqrt(max(self.depth, FEWEST))


def narrow_tensors(source: FileSource | BytesSource, graph: Graph) -> dict[str, Narrow]:
    """The tensors whose values depend on roundings to float16 or bfloat16, by name.

    Args:
        source: the file that `graph` is the index of.
        graph: the index; its nodes may be in any order.
    """
    with source.read(sparsely=True) as buffer:
        try:
            return _narrow(buffer, graph)
        except WireError:  # a node that breaks the rules of its operator
            return {}


def _narrow(buffer: Buffer, graph: Graph) -> dict[str, Narrow]:
    entries = {**graph.inputs, **graph.optional}
    stated = {name: kind.dtype for name, kind in entries.items()}
    stated |= {name: item.type.dtype for name, item in graph.initializers.items()}
    found = {name: Narrow(dtype, 0) for name, dtype in stated.items() if dtype in ROUNDING}
    made = {name: node for node in graph.nodes for name in node.writes}
    for node in in_order(graph.nodes, made):
        known = [found[name] for name in node.reads if name in found]
        own = _own_dtype(buffer, node)
        if own in ROUNDING:
            known.append(Narrow(own, 0))
        if known:
            dtype = max((one.dtype for one in known), key=ROUNDING.__getitem__)
            depth = max(one.depth for one in known) + (not is_one_of(node, MOVERS))
            found.update(dict.fromkeys(node.writes, Narrow(dtype, depth)))
    return found


def _own_dtype(buffer: Buffer, node: Node) -> str:
    """The dtype that a Cast or a Constant gives its result; empty for other nodes."""
    if node.op_type not in ("Cast", "Constant", "ConstantOfShape"):
        return ""
    for _, wire, _, start, end in fields(buffer, *node.span):
        if wire != LEN:
            continue
        for number, kind, _, at, stop in fields(buffer, start, end):
            if number == 5 and kind == LEN:
                dtype = _dtype(buffer, at, stop)
                if dtype:
                    return dtype
    return ""


def _dtype(buffer: Buffer, start: int, end: int) -> str:
    """The dtype in the attribute `to`, or that of the tensor in the attribute `value`."""
    name = find_text(buffer, start, end, 1)
    if name not in ("to", "value"):
        return ""
    for number, wire, _, at, stop in fields(buffer, start, end):
        if name == "to" and number == 3 and wire == VARINT:
            return element_type(integer(buffer, at, stop))
        if name == "value" and number == 5 and wire == LEN:
            for inner, kind, _, place, until in fields(buffer, at, stop):
                if inner == 2 and kind == VARINT:
                    return element_type(integer(buffer, place, until))
    return ""
