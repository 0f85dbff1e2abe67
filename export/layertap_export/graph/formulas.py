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
from onnx import TensorProto, numpy_helper

from .graph import attribute, is_standard, makers
from .weights import is_stub

LONGEST = 3
"""Terms of the longest polynomial that is followed, and letters of its longest term."""

LONGEST_PATH = 8
"""The most nodes in a row by which a tensor is expressed in terms of another."""

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
        self._types = {item.name: item.data_type for item in graph.initializer}
        self._types |= {x.name: x.type.tensor_type.elem_type for x in graph.input}
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

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that reads a tensor, if nothing else does."""
        readers = self.readers[self.source(name)]
        return readers[0] if self._reads[self.source(name)] == 1 and readers else None

    def number(self, name: str) -> float | None:
        """The value of a constant of one value and floating point; `None` for all else."""
        value = self.values.get(self.source(name))
        if value is None or value.size != 1 or value.dtype.kind != "f":
            return None
        return float(value.reshape(()))

    def dtype(self, name: str) -> int:
        """The ONNX type of a tensor of floats, that of the data it is computed from; else 0."""
        name = self.source(name)
        while name not in self._types:
            node = self._makers.get(name)
            if node is None or not node.input or not is_standard(node):
                return 0
            if node.op_type == "Cast":
                return int(attribute(node, "to", 0))
            name = self.source(node.input[1 if node.op_type == "Where" else 0])
        found = self._types[name]
        return found if found in _FLOATS else 0

    def behind(self, name: str) -> list[str]:
        """The tensors from which sums and products make a tensor, the nearest first."""
        found = {self.source(name): 0}
        waiting = [*found]
        for near in waiting:
            node = self.maker(near, *_OPERATORS)
            if node is not None and found[near] < LONGEST_PATH:
                for other in map(self.source, node.input):
                    if other not in found and other not in self.constants:
                        found[other] = found[near] + 1
                        waiting.append(other)
        return waiting

    def expressed(self, name: str, given: Mapping[str, Polynomial]) -> Polynomial | None:
        """What a tensor is in terms of others; `None` if it is no polynomial of these."""
        known = {self.source(other): value for other, value in given.items()}
        self._express(name, known, LONGEST_PATH)
        return known.get(self.source(name))

    def _express(self, name: str, known: dict[str, Polynomial], steps: int) -> None:
        node = self.maker(name, *_OPERATORS)
        if node is None or not steps or self.source(name) in known:
            return
        for other in node.input:
            self._express(other, known, steps - 1)
        value = self._polynomial(node, known, {})
        if value is not None:
            known[self.source(name)] = value

    def matches(
        self,
        given: Mapping[str, Polynomial],
        match: Callable[[Polynomial], T | None],
        inverse: Mapping[str, Polynomial] | None = None,
    ) -> dict[str, T]:
        """The tensors whose polynomial matches, and what `match` returned for each.

        Of several in a row it is the last, as far as nothing else reads those before. What is
        computed from one that stays is not among them.

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
        stay = {
            name
            for name in found
            if self._reads[name] != 1
            or not any(reader.output[0] in found for reader in self.readers[name])
        }

        def follows(name: str) -> bool:
            before = found.keys() & set(map(self.source, self._makers[name].input))
            return any(other in stay or follows(other) for other in before)

        return {name: found[name] for name in found if name in stay and not follows(name)}

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
        if node.op_type == "Pow":
            return _power(first, self.number(names[1])) if first else None
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


_OPERATORS = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Pow", "Reciprocal"})
_FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
)


def _power(value: Polynomial, exponent: float | None) -> Polynomial | None:
    """The second or third power of a single term."""
    if len(value) != 1 or exponent not in (2.0, 3.0) or value[0].constants:
        return None
    return _product(value, _power(value, 2.0) or () if exponent == 3.0 else value)


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
