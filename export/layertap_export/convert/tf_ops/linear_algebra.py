"""Vectors and matrices."""

from __future__ import annotations

from .expressions import Value


def cross(x: Value, y: Value) -> Value:
    """The cross product along the last axis, of size 3."""

    def turned(value: Value, order: list[int]) -> Value:
        return value.op("Gather", *value.sizes(order), axis=-1)

    onward, back = [1, 2, 0], [2, 0, 1]
    return turned(x, onward) * turned(y, back) - turned(x, back) * turned(y, onward)


def log_determinant(x: Value) -> list[Value]:
    """Sign and logarithm of the absolute value of a determinant."""
    determinant = x.op("Det")
    return [determinant.op("Sign"), abs(determinant).op("Log")]
