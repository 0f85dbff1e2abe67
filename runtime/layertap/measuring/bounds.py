"""The values between which the activation function of a layer stays, read from the graph."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping

from layertap._cut.facts import parsed
from layertap._engine.program import Program
from layertap.format.graph import Graph, Node, read_tensor
from layertap.format.layer import Layer
from layertap.format.operators import MOVERS, is_one_of
from layertap.format.wire import LEN, Buffer, content, fields, find_text

from .sums import Bounds

FIXED = {
    "Sigmoid": Bounds(0.0, 1.0),
    "HardSigmoid": Bounds(0.0, 1.0),
    "Tanh": Bounds(-1.0, 1.0),
    "Softsign": Bounds(-1.0, 1.0),
}
"""The bounds of ONNX's activation functions with an upper and a lower one. In addition, a `Clip`
has those that it is given, such as ReLU6."""

_FORMATS = {"float32": "<f", "float64": "<d", "float16": "<e"}


def bounds_of(program: Program, layers: Iterable[Layer]) -> dict[str, Bounds]:
    """The bounds of the layers that end in such a function, by the name of the layer.

    Raises:
        ModelFileError: the file is damaged.
    """
    graph = program.graph
    makers = {name: node for node in graph.nodes for name in node.writes}
    found: dict[str, Bounds] = {}
    with program.reading() as buffer:
        for layer in layers:
            node = _final(makers, str(layer.tensor))
            bounds = None if node is None else _bounds(buffer, graph, makers, node)
            if bounds is not None and -math.inf < bounds.low < bounds.high < math.inf:
                found[layer.name] = bounds
    return found


def _final(makers: Mapping[str, Node], tensor: str) -> Node | None:
    """The last node that computes a tensor and does not only move values."""
    passed: set[str] = set()
    while (node := makers.get(tensor)) is not None and tensor not in passed:
        if not is_one_of(node, MOVERS) or not node.reads:
            return node
        passed.add(tensor)
        tensor = node.reads[0]
    return None


def _bounds(buffer: Buffer, graph: Graph, makers: Mapping[str, Node], node: Node) -> Bounds | None:
    if is_one_of(node, tuple(FIXED)):
        return FIXED[node.op_type]
    if not is_one_of(node, ("Clip",)):
        return None
    whole = parsed(buffer, *content(buffer, node.span))
    if len(whole.reads) == 3 and all(whole.reads):
        low, high = (_constant(buffer, graph, makers, name) for name in whole.reads[1:])
    else:  # before opset 11, the bounds were attributes
        stated = dict(_float(buffer, *span) for span in whole.attributes)
        low, high = stated.get("min"), stated.get("max")
    return None if low is None or high is None else Bounds(low, high)


def _constant(buffer: Buffer, graph: Graph, makers: Mapping[str, Node], name: str) -> float | None:
    """The value of a constant of one element; `None` if the tensor is something else."""
    stored = graph.initializers.get(name)
    if stored is not None:
        return _element(buffer, *content(buffer, stored.span))
    node = makers.get(name)
    if node is None or not is_one_of(node, ("Constant",)):
        return None
    for start, end in parsed(buffer, *content(buffer, node.span)).attributes:
        for number, wire, _, at, stop in fields(buffer, start, end):
            if number == 5 and wire == LEN:
                return _element(buffer, at, stop)
            if number == 2:
                return _float(buffer, start, end)[1]
    return None


def _element(buffer: Buffer, start: int, end: int) -> float | None:
    """The value of a `TensorProto` of one floating-point number."""
    _, kind, external = read_tensor(buffer, start, end)
    form = _FORMATS.get(kind.dtype)
    if form is None or external is not None:
        return None
    size = struct.calcsize(form)
    for number, _, _, at, stop in fields(buffer, start, end):
        if number in (4, 9, 10) and stop - at == size:
            return float(struct.unpack(form, bytes(buffer[at:stop]))[0])
    return None


def _float(buffer: Buffer, start: int, end: int) -> tuple[str, float | None]:
    """The name and the number of an attribute of one float."""
    value = None
    for number, _, _, at, stop in fields(buffer, start, end):
        if number == 2 and stop - at == 4:
            value = float(struct.unpack("<f", bytes(buffer[at:stop]))[0])
    return find_text(buffer, start, end, 1), value
