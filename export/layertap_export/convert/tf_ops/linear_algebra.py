"""Vectors and matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from .expressions import UnsupportedUseError, Value, arange, concat, replace_node


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


def with_diagonal(graph: Any, node: Any, name: str, args: Any) -> None:
    """Matrices with another main diagonal."""

    def build(x: Value, diagonal: Value, k: Value) -> Value:
        _check_main(k)
        return _on_diagonal(x.size(-2), x.size(-1), diagonal, x)

    replace_node(graph, node, build)


def diagonal_matrix(graph: Any, node: Any, name: str, args: Any) -> None:
    """Square matrices of a main diagonal, and another value elsewhere."""

    def build(diagonal: Value, *others: Value) -> Value:
        k, rows, columns, padding = others or (diagonal.const(0, np.int32),) * 4
        _check_main(k)
        if others and any(x.constant is None or int(x.constant) != -1 for x in (rows, columns)):
            raise UnsupportedUseError("a diagonal in a matrix of another size is not supported")
        elsewhere = padding.cast(diagonal.dtype) if others else diagonal.const(0, diagonal.dtype)
        size = diagonal.size(-1)
        return _on_diagonal(size, size, diagonal, elsewhere)

    replace_node(graph, node, build)


def _check_main(k: Value) -> None:
    if k.constant is None or np.any(k.constant):
        raise UnsupportedUseError("only the main diagonal is supported")


def _on_diagonal(rows: Value, columns: Value, diagonal: Value, elsewhere: Value) -> Value:
    """`diagonal` where the row is the column, and `elsewhere` in other places."""
    mask = arange(rows).unsqueeze(1).equals(arange(columns).unsqueeze(0))
    # One element for each row: there are fewer if there are more rows than columns.
    missing = (rows - diagonal.size(-1)).reshape(1)
    zeros = missing.like(np.zeros(2 * diagonal.rank - 1, np.int64))
    fill = diagonal.const(0, diagonal.dtype) if diagonal.dtype.kind != "b" else None
    padded = (
        diagonal.op("Pad", concat([zeros, missing], 0), fill)
        if fill is not None
        else diagonal.cast(np.int32).op("Pad", concat([zeros, missing], 0)).cast(np.bool_)
    )
    return mask.where(padded.unsqueeze(-1), elsewhere)
