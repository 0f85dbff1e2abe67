"""Reverse-mode differentiation of an ONNX graph, from the score back to the layers.

Each node on a path from a layer to the score is visited once, the last one first. The gradients of
its outputs are known by then; its rule appends nodes that compute those of its inputs. The gradient
of a tensor that several nodes read is the sum of the gradients from each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx

from layertap_export.errors import GradientError
from layertap_export.graph.graph import is_standard, leading_to, reads
from layertap_export.graph.operators import is_kind, stops_gradient

from .builder import FLOAT_TYPES, Builder, Value
from .registry import RULES
from .step import Step


class Blocked(NamedTuple):
    """A node through which no gradient can be computed."""

    node: onnx.NodeProto
    tensor: str
    """The output of the node on the way to the score."""
    reason: str


@dataclass(frozen=True)
class Backprop:
    """The nodes between some tensors and the score, ready to be differentiated."""

    build: Builder
    targets: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    """In topological order; each has a rule."""
    reached: frozenset[str]
    """The tensors that have a gradient."""
    blocked: list[Blocked]
    """The nodes without a rule; after `gradients` also those whose form has none."""
    flow: tuple[onnx.NodeProto, ...]
    """All nodes before the score that a gradient flows through, those without a rule too."""

    @classmethod
    def between(
        cls,
        build: Builder,
        nodes: Sequence[onnx.NodeProto],
        targets: Iterable[str],
        scores: Iterable[str],
    ) -> Backprop:
        """Find the nodes.

        Args:
            build: writes the backward half.
            nodes: the forward half, in topological order.
            targets: the tensors to differentiate with respect to.
            scores: the tensors to differentiate.
        """
        targets = tuple(targets)
        leading, needed = leading_to(nodes, scores)
        reached, found, blocked, flow = needed.intersection(targets), [], [], []
        for node in leading:
            if stops_gradient(node):
                continue
            flow.append(node)
            if reached.isdisjoint(reads(node)):
                continue
            if not _has_rule(node):
                # Its gradient must not silently be 0, as that of a rounding to int8 would.
                tensor = next(name for name in node.output if name in needed)
                blocked.append(Blocked(node, tensor, _no_rule(node)))
                continue
            flowing = [name for name in _flowing(build, node) if name in needed]
            if flowing:
                found.append(node)
                reached.update(flowing)
        return cls(build, targets, tuple(found), frozenset(reached), blocked, tuple(flow))

    def gradients(self, seeds: Mapping[str, Value]) -> dict[str, Value]:
        """The gradients of `sum(seed * score)` over all scores, by target.

        Targets that the scores do not depend on are left out, and so are those before a node that
        is blocked.

        Args:
            seeds: by score its weights, in its shape.
        """
        found: dict[str, list[Value]] = {name: [seed] for name, seed in seeds.items()}
        for node in reversed(self.nodes):
            step = self._step(node, found)
            if step is None:
                continue
            self.build.name_after(node.name or node.output[0])
            try:
                results = RULES[node.op_type](step)
            except GradientError as exc:
                tensor = next(name for name in node.output if name in found)
                self.blocked.append(Blocked(node, tensor, str(exc)))
                continue
            except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
                raise GradientError(
                    f"the shapes of the inputs of {node.op_type} {node.output[0]!r} do not fit "
                    "together. The file is damaged, or states other shapes than it computes."
                ) from exc
            for name, result, wanted in zip(node.input, results, step.wanted, strict=False):
                if wanted and result is not None:
                    found.setdefault(name, []).append(result)
        totals = {name: self._total(found, name) for name in self.targets}
        return {
            name: total
            for name, total in totals.items()
            if total is not None and self.obstacle(name) is None
        }

    def obstacle(self, tensor: str) -> Blocked | None:
        """The first blocked node that a gradient would have to flow through to a tensor."""
        if not self.blocked:
            return None
        reached = {tensor}
        blocked = {id(one.node): one for one in self.blocked}
        for node in self.flow:
            if not reached.isdisjoint(reads(node)):
                if id(node) in blocked:
                    return blocked[id(node)]
                reached.update(_flowing(self.build, node))
        return None

    def _step(self, node: onnx.NodeProto, found: Mapping[str, list[Value]]) -> Step | None:
        """The arguments of the node's rule; `None` if none of its outputs has a gradient."""
        grads = tuple(self._total(found, name) for name in node.output)
        if all(value is None for value in grads):
            return None

        def tensors(names: Iterable[str]) -> tuple[Value | None, ...]:
            return tuple(self.build.tensor(name) if name else None for name in names)

        wanted = tuple(name in self.reached for name in node.input)
        inputs, outputs = tensors(node.input), tensors(node.output)
        return Step(self.build, node, inputs, outputs, grads, wanted, _differentiate)

    def _total(self, found: Mapping[str, list[Value]], name: str) -> Value | None:
        """The sum of the gradients of a tensor from all its readers, made once."""
        parts = found.get(name)
        if not parts:
            return None
        if len(parts) > 1:
            self.build.name_after(name)
            parts[:] = [self.build.node("Add" if len(parts) == 2 else "Sum", *parts)]
        return parts[0]


def _differentiate(
    build: Builder,
    nodes: Sequence[onnx.NodeProto],
    targets: Sequence[str],
    seeds: Mapping[str, Value],
) -> dict[str, Value]:
    """See `step.Differentiator`.

    Raises:
        GradientError: a node has no rule.
    """
    inner = Backprop.between(build, nodes, targets, seeds)
    found = inner.gradients(seeds)
    if inner.blocked:
        raise GradientError(inner.blocked[0].reason)
    return found


def _flowing(build: Builder, node: onnx.NodeProto) -> list[str]:
    """The outputs of a node that a gradient flows through: those of floating-point numbers."""
    return [name for name in node.output if build.shapes.dtype(name) in (0, *FLOAT_TYPES)]


def _has_rule(node: onnx.NodeProto) -> bool:
    return is_standard(node) and node.op_type in RULES


def _no_rule(node: onnx.NodeProto) -> str:
    domain = "" if is_standard(node) else f"{node.domain}."
    hint = " (use the file that this one was quantised from)" if is_kind(node, "quantised") else ""
    return f"layertap has no rule for the operator {domain}{node.op_type}{hint}"
