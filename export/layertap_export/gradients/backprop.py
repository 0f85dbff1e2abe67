"""The walk back from the score to the layers: reverse-mode differentiation of an ONNX graph.

Each node on a way from a layer to the score is visited once, the last one first. By then the
gradient of what it puts out is known; its rule appends nodes that compute those of what goes in.
The gradient of a tensor that several nodes read is the sum of what comes from each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from layertap_export.errors import GradientError
from layertap_export.graph.graph import is_standard, leading_to, reads

from .builder import FLOATS, Builder, Value
from .registry import NO_GRADIENT, RULES
from .step import Step


@dataclass(frozen=True)
class Backprop:
    """What lies between some tensors and the score."""

    build: Builder
    score: str
    targets: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    """In topological order; each has a rule."""
    reached: frozenset[str]
    """The tensors that gradients flow through."""
    layer_of: Callable[[onnx.NodeProto, str], str]

    @classmethod
    def between(
        cls,
        build: Builder,
        nodes: Sequence[onnx.NodeProto],
        targets: Iterable[str],
        score: str,
        layer_of: Callable[[onnx.NodeProto, str], str],
    ) -> Backprop:
        """Find it.

        Args:
            build: writes the backward half.
            nodes: the forward half, in topological order.
            targets: the tensors that are differentiated by.
            score: the tensor that is differentiated.
            layer_of: the layer that a node and what it puts out belong to, for messages.

        Raises:
            GradientError: a node on the way has no rule; the message names its layer and operator.
        """
        targets = tuple(targets)
        behind, needed = leading_to(nodes, [score])
        reached, found = needed.intersection(targets), []
        for node in behind:
            if _ends(node) or reached.isdisjoint(reads(node)):
                continue
            wanted = [name for name in node.output if name in needed]
            if not _has_rule(node):
                # What does not end the way must not do so unseen, as rounding to int8 would.
                raise _failure(layer_of(node, wanted[0]), _no_rule(node))
            flowing = [name for name in wanted if build.shapes.dtype(name) in (0, *FLOATS)]
            if flowing:
                found.append(node)
                reached.update(flowing)
        return cls(build, score, targets, tuple(found), frozenset(reached), layer_of)

    def gradients(self, seed: Value) -> dict[str, Value]:
        """The gradients of `sum(seed * score)` by target.

        Those that the score does not depend on are missing.

        Args:
            seed: in the shape of the score.

        Raises:
            GradientError: there is no rule for this form of an operator.
        """
        found: dict[str, list[Value]] = {self.score: [seed]}
        for node in reversed(self.nodes):
            step = self._step(node, found)
            if step is None:
                continue
            self.build.name_after(node.name or node.output[0])
            try:
                results = RULES[node.op_type](step)
            except GradientError as exc:
                raise _failure(self.layer_of(node, node.output[0]), str(exc)) from None
            for name, result, wanted in zip(node.input, results, step.wanted, strict=False):
                if wanted and result is not None:
                    found.setdefault(name, []).append(result)
        totals = {name: self._total(found, name) for name in self.targets}
        return {name: total for name, total in totals.items() if total is not None}

    def _step(self, node: onnx.NodeProto, found: Mapping[str, list[Value]]) -> Step | None:
        """What the node's rule needs; `None` where no gradient comes to it."""
        grads = tuple(self._total(found, name) for name in node.output)
        if all(value is None for value in grads):
            return None

        def tensors(names: Iterable[str]) -> tuple[Value | None, ...]:
            return tuple(self.build.tensor(name) if name else None for name in names)

        wanted = tuple(name in self.reached for name in node.input)
        return Step(self.build, node, tensors(node.input), tensors(node.output), grads, wanted)

    def _total(self, found: Mapping[str, list[Value]], name: str) -> Value | None:
        """The sum of what came to a tensor, made once."""
        parts = found.get(name)
        if not parts:
            return None
        if len(parts) > 1:
            self.build.name_after(name)
            parts[:] = [self.build.node("Add" if len(parts) == 2 else "Sum", *parts)]
        return parts[0]


def _ends(node: onnx.NodeProto) -> bool:
    """Whether no gradient flows through a node."""
    return is_standard(node) and node.op_type in NO_GRADIENT


def _has_rule(node: onnx.NodeProto) -> bool:
    return is_standard(node) and node.op_type in RULES


def _no_rule(node: onnx.NodeProto) -> str:
    domain = "" if is_standard(node) else f"{node.domain}."
    return f"layertap has no rule for the operator {domain}{node.op_type}"


def _failure(layer: str, why: str) -> GradientError:
    return GradientError(f"layer {layer!r} has no gradient: {why}.")
