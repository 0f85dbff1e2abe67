"""Arithmetic and comparisons in Python's notation, on objects that stand for tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

T = TypeVar("T", bound="Arithmetic")


class Arithmetic(ABC):
    """A tensor; arithmetic on it makes nodes.

    Operands are tensors of the same class, or numbers, which take the dtype of the other operand.
    Both sides broadcast as in numpy.
    """

    __slots__ = ()

    @abstractmethod
    def op(self: T, op_type: str, *others: Any, **attributes: Any) -> T:
        """The first output of a new node; this tensor is its first input.

        Args:
            op_type: an ONNX operator.
            others: further inputs; numbers take this tensor's dtype.
            attributes: the node's attributes.
        """

    @abstractmethod
    def like(self: T, other: Any) -> T:
        """`other` itself, or a number as a constant of this tensor's dtype."""

    def __add__(self: T, other: Any) -> T:
        return self.op("Add", other)

    def __radd__(self: T, other: Any) -> T:
        return self.op("Add", other)

    def __sub__(self: T, other: Any) -> T:
        return self.op("Sub", other)

    def __rsub__(self: T, other: Any) -> T:
        return self.like(other).op("Sub", self)

    def __mul__(self: T, other: Any) -> T:
        return self.op("Mul", other)

    def __rmul__(self: T, other: Any) -> T:
        return self.op("Mul", other)

    def __truediv__(self: T, other: Any) -> T:
        """Of integers, the quotient rounded towards zero."""
        return self.op("Div", other)

    def __rtruediv__(self: T, other: Any) -> T:
        return self.like(other).op("Div", self)

    def __neg__(self: T) -> T:
        return self.op("Neg")

    def __abs__(self: T) -> T:
        return self.op("Abs")

    def __lt__(self: T, other: Any) -> T:
        return self.op("Less", other)

    def __gt__(self: T, other: Any) -> T:
        return self.op("Greater", other)

    def __le__(self: T, other: Any) -> T:
        return self.op("LessOrEqual", other)

    def __ge__(self: T, other: Any) -> T:
        return self.op("GreaterOrEqual", other)

    def __and__(self: T, other: T) -> T:
        return self.op("And", other)

    def __or__(self: T, other: T) -> T:
        return self.op("Or", other)

    def __invert__(self: T) -> T:
        return self.op("Not")

    def equals(self: T, other: Any) -> T:
        """Where both are equal."""
        return self.op("Equal", other)
