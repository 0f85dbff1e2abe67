"""Products of matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generators.gradient_rules.operators import Case
from generators.gradient_rules.values import numbers

ALL = (13, 18, 22)


def _tf() -> Any:
    import tensorflow as tf

    return tf


SHAPES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], bool]] = {
    "": ((2, 3), (3, 4), False),
    " of stacks": ((2, 5, 2, 3), (2, 5, 3, 4), True),
    " of a stack and a matrix": ((2, 5, 3), (3, 4), False),
    " of a matrix and a stack": ((2, 3), (5, 3, 4), False),
    " broadcast": ((2, 1, 2, 3), (5, 3, 4), False),
    " broadcast both ways": ((2, 1, 2, 3), (1, 5, 3, 4), False),
    " by a vector": ((2, 5, 3), (3,), False),
    " of a vector": ((3,), (2, 3, 4), False),
    " of vectors": ((3,), (3,), False),
}


def _matmul(a: Any, b: Any) -> Any:
    tf = _tf()
    left = a[tf.newaxis] if a.shape.rank == 1 else a
    right = b[:, tf.newaxis] if b.shape.rank == 1 else b
    found = tf.matmul(left, right)
    found = found[..., 0] if b.shape.rank == 1 else found
    return (
        (found[..., 0] if b.shape.rank == 1 else found[..., 0, :]) if a.shape.rank == 1 else found
    )


def _gemm(a: bool, b: bool) -> Case:
    return Case(
        "Gemm",
        {
            "x": numbers(*((3, 2) if a else (2, 3))),
            "x2": numbers(*((4, 3) if b else (3, 4)), seed=2),
            "x3": numbers(4, seed=3),
        },
        {"transA": int(a), "transB": int(b), "alpha": 0.5, "beta": 1.5},
        lambda x, y, z: 0.5 * _tf().matmul(x, y, transpose_a=a, transpose_b=b) + 1.5 * z,
        opsets=ALL if a == b else (18,),
        rows=False,
    )


CASES: Mapping[str, Case] = {
    **{
        f"MatMul{what}": Case(
            "MatMul",
            {"x": numbers(*left), "x2": numbers(*right, seed=2)},
            tensorflow=_matmul,
            opsets=ALL if not what else (18,),
            rows=rows,
        )
        for what, (left, right, rows) in SHAPES.items()
    },
    "MatMul by weights": Case("MatMul", {"x": numbers(2, 5, 3), "w_": numbers(3, 4, seed=2)}),
    "Gemm": _gemm(False, False),
    "Gemm transposed": _gemm(True, True),
    "Gemm transposed A": _gemm(True, False),
    "Gemm transposed B": _gemm(False, True),
    "Gemm by weights": Case(
        "Gemm", {"x": numbers(2, 3), "w_": numbers(4, 3, seed=2), "b_": numbers(4)}, {"transB": 1}
    ),
    "Gemm without bias": Case("Gemm", {"x": numbers(2, 3), "w_": numbers(3, 4, seed=2)}),
    "Einsum": Case(
        "Einsum",
        {"x": numbers(2, 3, 4), "x2": numbers(2, 5, 4, seed=2)},
        {"equation": "bij, bkj -> bik"},
        lambda a, b: _tf().einsum("bij,bkj->bik", a, b),
        opsets=ALL,
    ),
    "Einsum of three": Case(
        "Einsum",
        {"x": numbers(2, 3), "x2": numbers(2, 4, seed=2), "x3": numbers(3, 4, 5, seed=3)},
        {"equation": "bi,bj,ijk->bk"},
        lambda a, b, c: _tf().einsum("bi,bj,ijk->bk", a, b, c),
        rows=False,
    ),
    "Einsum of one": Case("Einsum", {"x": numbers(2, 3, 4)}, {"equation": "bij->bji"}),
}
