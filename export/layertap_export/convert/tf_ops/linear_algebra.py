"""Vectors and matrices."""

from __future__ import annotations

from .expressions import Value


def cross(x: Value, y: Value) -> Value:
    """The cross product along the last axis, of size 3."""

    def permuted(value: Value, order: list[int]) -> Value:
        return value.op("Gather", *value.int64s(order), axis=-1)

    forward, backward = [1, 2, 0], [2, 0, 1]
    return permuted(x, forward) * permuted(y, backward) - permuted(x, backward) * permuted(
        y, forward
    )


def log_determinant(x: Value) -> list[Value]:
    """The sign of a determinant, and the logarithm of its absolute value."""
    determinant = x.op("Det")
    return [determinant.op("Sign"), abs(determinant).op("Log")]
