"""Reverse-mode differentiation of an ONNX graph, from the score back to the layers.

Each node on a path from a layer to the score is visited once, the last one first. The gradients of
its outputs are known by then; its rule appends nodes that compute those of its inputs. The gradient
of a tensor that several nodes read is the sum of the gradients from each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from layertap_export.errors import GradientError
from layertap_export.graph.graph import is_standard, leading_to, reads

from .builder import FLOAT_TYPES, Builder, Value
from .registry import NO_GRADIENT, RULES
from .step import Step


@dataclass(frozen=True)
class Backprop:
    """The nodes between some tensors and the score, ready to be differentiated."""

    build: Builder
    score: str
    targets: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    """In topological order; each has a rule."""
    reached: frozenset[str]
    """The tensors that have a gradient."""
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
        """Find the nodes.

        Args:
            build: writes the backward half.
            nodes: the forward half, in topological order.
            targets: the tensors to differentiate with respect to.
            score: the tensor to differentiate.
            layer_of: gives the layer that a node and one of its outputs belong to, for messages.

        Raises:
            GradientError: a node on a path has no rule; the message names its layer and operator.
        """
        targets = tuple(targets)
        leading, needed = leading_to(nodes, [score])
        reached, found = needed.intersection(targets), []
        for node in leading:
            if _ends(node) or reached.isdisjoint(reads(node)):
                continue
            wanted = [name for name in node.output if name in needed]
            if not _has_rule(node):
                # Its gradient must not silently be 0, as that of a rounding to int8 would.
                raise _failure(layer_of(node, wanted[0]), _no_rule(node))
            flowing = [name for name in wanted if build.shapes.dtype(name) in (0, *FLOAT_TYPES)]
            if flowing:
                found.append(node)
                reached.update(flowing)
        return cls(build, score, targets, tuple(found), frozenset(reached), layer_of)

    def gradients(self, seed: Value) -> dict[str, Value]:
        """The gradients of `sum(seed * score)` by target.

        Targets that the score does not depend on are left out.

        Args:
            seed: the weights of the score, in its shape.

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
        """The arguments of the node's rule; `None` if none of its outputs has a gradient."""
        grads = tuple(self._total(found, name) for name in node.output)
        if all(value is None for value in grads):
            return None

        def tensors(names: Iterable[str]) -> tuple[Value | None, ...]:
            return tuple(self.build.tensor(name) if name else None for name in names)

        wanted = tuple(name in self.reached for name in node.input)
        return Step(self.build, node, tensors(node.input), tensors(node.output), grads, wanted)

    def _total(self, found: Mapping[str, list[Value]], name: str) -> Value | None:
        """The sum of the gradients of a tensor from all its readers, made once."""
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


def _failure(layer: str, reason: str) -> GradientError:
    return GradientError(f"layer {layer!r} has no gradient: {reason}. Choose layers after it.")
