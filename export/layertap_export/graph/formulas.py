"""Recognises formulas in a graph, in whatever order they are written.

A tensor that is computed from some given tensors by sums and products is a polynomial of these. The
given tensors are the letters of the polynomial. Constants of one value are factors, and constants
of several values stay in it by their names.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import onnx
from onnx import numpy_helper

from .graph import is_standard, makers
from .weights import is_stub

LONGEST = 3
"""Terms of the longest polynomial that is followed, and letters of its longest term."""

T = TypeVar("T")


class Term(NamedTuple):
    """A product of a number, of given tensors, and of constants."""

    factor: float
    letters: str
    """In alphabetical order."""
    constants: tuple[str, ...] = ()
    """Names of constants of several values, in order."""


Polynomial = tuple[Term, ...]


def letter(name: str) -> Polynomial:
    """The polynomial that is one letter."""
    return (Term(1.0, name),)


def minus(value: Polynomial) -> Polynomial:
    """A polynomial with the opposite sign."""
    return tuple(term._replace(factor=-term.factor) for term in value)


class Formulas:
    """The tensors of one graph as polynomials. Identities are looked through.

    Args:
        graph: nodes in topological order.
        keep: tensors that are read, in addition to the outputs of the graph.
    """

    def __init__(self, graph: onnx.GraphProto, keep: Iterable[str] = ()) -> None:
        self.values = {
            item.name: numpy_helper.to_array(item)
            for item in graph.initializer
            if not is_stub(item)
        }
        self.constants = {item.name for item in graph.initializer}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._makers = makers(graph.node)
        kept = [*keep, *(value.name for value in graph.output)]
        self._reads = Counter(map(self.source, kept))
        for node in graph.node:
            if node.input and all(name in self.constants for name in node.input if name):
                self.constants.update(node.output)
            if node.op_type != "Identity":
                for name in dict.fromkeys(map(self.source, node.input)):
                    self.readers[name].append(node)
                    self._reads[name] += 1

    def source(self, name: str) -> str:
        """The tensor behind Identities."""
        node = self._makers.get(name)
        while node is not None and node.op_type == "Identity":
            name = node.input[0]
            node = self._makers.get(name)
        return name

    def maker(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, if it is one of these operators."""
        node = self._makers.get(self.source(name))
        return node if node is not None and node.op_type in op_types and is_standard(node) else None

    def number(self, name: str) -> float | None:
        """The value of a constant of one value and floating point; `None` for all else."""
        value = self.values.get(self.source(name))
        if value is None or value.size != 1 or value.dtype.kind != "f":
            return None
        return float(value.reshape(()))

    def matches(
        self,
        given: Mapping[str, Polynomial],
        match: Callable[[Polynomial], T | None],
        inverse: Mapping[str, Polynomial] | None = None,
    ) -> dict[str, T]:
        """The tensors whose polynomial matches, and what `match` returned for each.

        Of several in a row it is the last, as far as nothing else reads those before.

        Args:
            given: what some tensors are, for example `letter("x")`.
            match: says whether a polynomial is a result; `None` if it is not.
            inverse: what the reciprocals of some tensors are.
        """
        known = {self.source(name): value for name, value in given.items()}
        below = {self.source(name): value for name, value in (inverse or {}).items()}
        waiting = [*known, *below]
        found: dict[str, T] = {}
        while waiting:
            for reader in self.readers[waiting.pop()]:
                value = self._polynomial(reader, known, below)
                if value is None or reader.output[0] in known:
                    continue
                known[reader.output[0]] = value
                waiting.append(reader.output[0])
                matched = match(value)
                if matched is not None:
                    found[reader.output[0]] = matched
        return {
            name: matched
            for name, matched in found.items()
            if self._reads[name] != 1
            or not any(reader.output[0] in found for reader in self.readers[name])
        }

    def _polynomial(
        self,
        node: onnx.NodeProto,
        known: Mapping[str, Polynomial],
        below: Mapping[str, Polynomial],
    ) -> Polynomial | None:
        """What a node computes; `None` if it is no polynomial, or too long a one."""
        if not is_standard(node) or node.op_type not in _OPERATORS:
            return None
        names = [self.source(name) for name in node.input]
        first, second = (self._operand(name, known) for name in (names[0], names[-1]))
        if node.op_type == "Reciprocal":
            return below.get(names[0])
        if node.op_type == "Neg":
            return first and minus(first)
        if node.op_type == "Div":
            second = below.get(names[1]) or self._reciprocal(names[1])
        if first is None or second is None:
            return None
        if node.op_type in ("Mul", "Div"):
            value = _product(first, second)
        else:
            value = (*first, *(minus(second) if node.op_type == "Sub" else second))
        short = len(value) <= LONGEST and all(
            len(term.letters) <= LONGEST and len(term.constants) <= 1 for term in value
        )
        return tuple(sorted(value)) if short else None

    def _operand(self, name: str, known: Mapping[str, Polynomial]) -> Polynomial | None:
        number = self.number(name)
        if number is not None:
            return (Term(number, ""),)
        if name in self.constants:
            return (Term(1.0, "", (name,)),)
        return known.get(name)

    def _reciprocal(self, name: str) -> Polynomial | None:
        number = self.number(name)
        return (Term(1 / number, ""),) if number else None


_OPERATORS = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Reciprocal"})


def _product(one: Polynomial, other: Polynomial) -> Polynomial:
    return tuple(
        Term(
            a.factor * b.factor,
            "".join(sorted(a.letters + b.letters)),
            tuple(sorted(a.constants + b.constants)),
        )
        for a in one
        for b in other
    )
