"""Functions of several tensors, with broadcasting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.gradient_rules.operators import Case
from generators.gradient_rules.values import apart, numbers, positive, scalar, steps

ALL = (13, 18, 22)

SHAPES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "": ((2, 3, 4), (2, 3, 4)),
    " vector": ((2, 3, 4), (4,)),
    " column": ((2, 3, 4), (3, 1)),
    " both ways": ((2, 1, 4), (3, 1)),
    " of a larger": ((4,), (2, 3, 4)),
    " number": ((2, 3), ()),
}


def _tf() -> Any:
    import tensorflow as tf

    return tf


def _binary(op_type: str, function: Any, make: Any) -> dict[str, Case]:
    return {
        f"{op_type}{what}": Case(
            op_type,
            {"x": make(*left, seed=1), "x2": make(*right, seed=2)},
            tensorflow=function,
            opsets=ALL if not what else (18,),
            rows=len(left) == len(right) == 3 and left[0] == right[0],
        )
        for what, (left, right) in SHAPES.items()
    }


CASES: Mapping[str, Case] = {
    **_binary("Add", lambda a, b: a + b, numbers),
    **_binary("Sub", lambda a, b: a - b, numbers),
    **_binary("Mul", lambda a, b: a * b, numbers),
    **_binary("Div", lambda a, b: a / b, positive),
    **_binary("Pow", lambda a, b: a**b, positive),
    **_binary("Max", lambda a, b: _tf().maximum(a, b), numbers),
    **_binary("Min", lambda a, b: _tf().minimum(a, b), numbers),
    "Max ties": Case(
        "Max",
        {"x": steps(2, 12, seed=1), "x2": steps(2, 12, seed=2)},
        tensorflow=lambda a, b: _tf().maximum(a, b),
        smooth=False,
    ),
    "Min ties": Case(
        "Min",
        {"x": steps(2, 12, seed=1), "x2": steps(2, 12, seed=2)},
        tensorflow=lambda a, b: _tf().minimum(a, b),
        smooth=False,
    ),
    "Max of three": Case(
        "Max",
        {"x": apart(3, 4, seed=1), "x2": apart(4, seed=2), "x3": apart(3, 1, seed=3)},
        tensorflow=lambda a, b, c: _tf().maximum(_tf().maximum(a, b), c),
        rows=False,
    ),
    "Max of one": Case("Max", {"x": numbers(2, 3)}),
    "Sum": Case(
        "Sum",
        {"x": numbers(2, 3), "x2": numbers(3, seed=2), "x3": numbers(2, 1, seed=3)},
        tensorflow=lambda a, b, c: a + b + c,
        rows=False,
    ),
    "Mean": Case(
        "Mean",
        {"x": numbers(2, 3), "x2": numbers(3, seed=2), "x3": numbers(2, 1, seed=3)},
        tensorflow=lambda a, b, c: (a + b + c) / 3,
        rows=False,
    ),
    "Pow of a constant": Case(
        "Pow", {"x": positive(2, 3), "p_": scalar(1.7)}, tensorflow=lambda x: x**1.7
    ),
    "Pow square": Case("Pow", {"x": numbers(2, 3), "p_": scalar(2)}, tensorflow=lambda x: x**2),
    "Pow of negative numbers": Case(
        "Pow",
        {"x": steps(2, 6), "p_": np.array([1, 2, 3, 1, 2, 3], np.float32)},
        tensorflow=lambda x: x ** np.array([1, 2, 3, 1, 2, 3], np.float32),
        smooth=False,
    ),
    "Pow with an integer exponent": Case("Pow", {"x": numbers(2, 3), "p": np.array(3, np.int64)}),
    "Pow of a constant base": Case(
        "Pow",
        {"b_": np.array([0, 2, 3], np.float32), "x": positive(2, 3)},
        tensorflow=lambda x: _tf().constant([0, 2, 3], "float32") ** x,
        rows=False,
    ),
    "Mod": Case("Mod", {"x": numbers(2, 4), "x2": positive(2, 4, seed=3)}, {"fmod": 1}),
    "Where": Case(
        "Where",
        {
            "c": np.array([[True, False, True], [False, False, True]]),
            "x": numbers(2, 3),
            "x2": numbers(3, seed=2),
        },
        tensorflow=lambda a, b: _tf().where([[True, False, True], [False, False, True]], a, b),
        rows=False,
    ),
    "PRelu": Case(
        "PRelu",
        {"x": numbers(2, 3, 4), "x2": numbers(3, 1, seed=2)},
        tensorflow=lambda x, s: _tf().where(x > 0, x, x * s),
        rows=False,
    ),
    "PRelu at 0": Case(
        "PRelu",
        {"x": steps(2, 3, 4), "s_": numbers(3, 1, seed=2)},
        tensorflow=lambda x: _tf().where(x > 0, x, x * numbers(3, 1, seed=2)),
        smooth=False,
    ),
}
