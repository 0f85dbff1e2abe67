"""The walk back from the score to the layers: reverse-mode differentiation of an ONNX graph.

Each node on a way from a layer to the score is visited once, the last one first. By then the
gradient of what it puts out is known; its rule appends nodes that compute those of what goes in.
The gradient of a tensor that several nodes read is the sum of what comes from each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx

from layertap_export.errors import GradientError
from layertap_export.pruning import reads

from .builder import FLOATS, Builder, Value
from .registry import NO_GRADIENT, RULES
from .step import Step


def gradients(
    build: Builder,
    nodes: Iterable[onnx.NodeProto],
    score: str,
    seed: Value,
    targets: Iterable[str],
    layer_of: Callable[[onnx.NodeProto], str],
) -> dict[str, Value]:
    """The gradients of `sum(seed * score)` with respect to some tensors.

    Args:
        build: writes the backward half.
        nodes: the forward half, in topological order.
        score: the tensor that is differentiated.
        seed: the gradient that it starts from, in the shape of `score`.
        targets: the tensors that it is differentiated by.
        layer_of: the name of the layer that a node belongs to, for messages.

    Returns:
        By target; those that `score` does not depend on are missing.

    Raises:
        GradientError: a node on the way has no gradient; the message names its layer and operator.
    """
    targets = list(targets)
    way, reached = _way(build, list(nodes), score, set(targets))
    found: dict[str, list[Value]] = {score: [seed]}
    for node in reversed(way):
        step = _step(build, node, found, reached)
        if step is None:
            continue
        place = layer_of(node)
        build.within(node.name or node.output[0])
        try:
            results = RULES[node.op_type](step) if _has_rule(node) else _no_rule(node)
        except GradientError as exc:
            raise GradientError(f"layer {place!r} has no gradient: {exc}.") from None
        for name, result, wanted in zip(node.input, results, step.wanted, strict=False):
            if wanted and result is not None:
                found.setdefault(name, []).append(result)
    totals = {name: _total(build, found, name) for name in targets}
    return {name: total for name, total in totals.items() if total is not None}


def _way(
    build: Builder, nodes: list[onnx.NodeProto], score: str, targets: set[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes between the targets and the score, and the tensors that gradients flow through."""
    needed = {score}
    behind = []  # whatever the score depends on
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(reads(node))
            behind.append(node)
    reached = targets & needed
    way = []
    for node in reversed(behind):
        if node.op_type in NO_GRADIENT or reached.isdisjoint(reads(node)):
            continue
        written = [name for name in node.output if name in needed and _flows(build, name)]
        if written:
            way.append(node)
            reached.update(written)
    return way, reached


def _flows(build: Builder, name: str) -> bool:
    """Only floating-point numbers have gradients; a dtype that is unknown may be one."""
    return build.shapes.dtype(name) in (0, *FLOATS)


def _step(
    build: Builder, node: onnx.NodeProto, found: Mapping[str, list[Value]], reached: set[str]
) -> Step | None:
    """What the node's rule needs; `None` where no gradient comes to it."""
    grads = tuple(_total(build, found, name) for name in node.output)
    if all(value is None for value in grads):
        return None

    def tensors(names: Iterable[str]) -> tuple[Value | None, ...]:
        return tuple(build.tensor(name) if name else None for name in names)

    wanted = tuple(name in reached for name in node.input)
    return Step(build, node, tensors(node.input), tensors(node.output), grads, wanted)


def _total(build: Builder, found: Mapping[str, list[Value]], name: str) -> Value | None:
    """The sum of what came to a tensor, made once."""
    parts = found.get(name)
    if not parts:
        return None
    if len(parts) > 1:
        build.within(name)
        parts[:] = [build.node("Add" if len(parts) == 2 else "Sum", *parts)]
    return parts[0]


def _has_rule(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in RULES


def _no_rule(node: onnx.NodeProto) -> list[Value | None]:
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    raise GradientError(f"layertap has no rule for the operator {domain}{node.op_type}")
