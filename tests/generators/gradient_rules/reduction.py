"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from generators.gradient_rules.operators import Case
from generators.gradient_rules.values import apart, numbers, positive, steps, whole


def _tf() -> Any:
    import tensorflow as tf

    return tf


REDUCTIONS: Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "ReduceSum": (numbers, lambda x, **k: _tf().reduce_sum(x, **k)),
    "ReduceMean": (numbers, lambda x, **k: _tf().reduce_mean(x, **k)),
    "ReduceMax": (apart, lambda x, **k: _tf().reduce_max(x, **k)),
    "ReduceMin": (apart, lambda x, **k: _tf().reduce_min(x, **k)),
    "ReduceProd": (numbers, lambda x, **k: _tf().reduce_prod(x, **k)),
    "ReduceSumSquare": (numbers, lambda x, **k: _tf().reduce_sum(x * x, **k)),
    "ReduceL2": (numbers, lambda x, **k: _tf().sqrt(_tf().reduce_sum(x * x, **k))),
    "ReduceL1": (numbers, lambda x, **k: _tf().reduce_sum(_tf().abs(x), **k)),
    "ReduceLogSum": (positive, lambda x, **k: _tf().math.log(_tf().reduce_sum(x, **k))),
    "ReduceLogSumExp": (numbers, lambda x, **k: _tf().reduce_logsumexp(x, **k)),
}
AXES: Mapping[str, tuple[list[int] | None, int]] = {
    "": ([1, 2], 1),
    " dropped": ([1, 2], 0),
    " last": ([-1], 0),
    " first kept": ([0], 1),
    " all": (None, 1),
    " all dropped": (None, 0),
}


def _reduction(op_type: str, what: str) -> Case:
    make, function = REDUCTIONS[op_type]
    axes, keep = AXES[what]
    return Case(
        op_type,
        {"x": make(2, 3, 4)} | ({} if axes is None else {"axes": whole(*axes)}),
        {"keepdims": keep},
        lambda x: function(x, axis=axes, keepdims=bool(keep)),
        opsets=(18, 22) if not what else (18,),
        rows=axes is not None and 0 not in axes,
    )


CASES: Mapping[str, Case] = {
    **{f"{name}{what}": _reduction(name, what) for name in REDUCTIONS for what in AXES},
    **{
        f"{op_type} before opset 18": Case(
            op_type,
            {"x": make(2, 3, 4)},
            {"axes": [1, -1], "keepdims": 0},
            lambda x, f=function: f(x, axis=[1, 2]),
            opsets=(13, 17),
        )
        for op_type, (make, function) in REDUCTIONS.items()
        if op_type != "ReduceSum"
    },
    "ReduceSum of opset 13": Case(
        "ReduceSum",
        {"x": numbers(2, 3), "axes": whole(1)},
        {"keepdims": 0},
        lambda x: _tf().reduce_sum(x, axis=1),
        opsets=(13,),
    ),
    "ReduceSum of nothing": Case(
        "ReduceSum", {"x": numbers(2, 3)}, {"noop_with_empty_axes": 1}, lambda x: x
    ),
    "ReduceMax ties": Case(
        "ReduceMax",
        {"x": steps(2, 3, 4), "axes": whole(1, 2)},
        {"keepdims": 0},
        lambda x: _tf().reduce_max(x, axis=[1, 2]),
        smooth=False,
    ),
    "ReduceMin ties": Case(
        "ReduceMin",
        {"x": steps(2, 3, 4), "axes": whole(2)},
        {"keepdims": 0},
        lambda x: _tf().reduce_min(x, axis=2),
        smooth=False,
    ),
    "ReduceProd with zeros": Case(
        "ReduceProd",
        {"x": np.array([[1, 2, 3], [2, 0, 4], [0, 0, 5]], np.float32), "axes": whole(1)},
        {"keepdims": 0},
        lambda x: _tf().reduce_prod(x, axis=1),
    ),
    "GlobalAveragePool": Case(
        "GlobalAveragePool",
        {"x": numbers(2, 3, 4, 5)},
        tensorflow=lambda x: _tf().reduce_mean(x, axis=[2, 3], keepdims=True),
        opsets=(13, 18, 22),
    ),
    "GlobalAveragePool of a sequence": Case("GlobalAveragePool", {"x": numbers(2, 3, 4)}),
    "GlobalMaxPool": Case(
        "GlobalMaxPool",
        {"x": steps(2, 3, 4, 5)},
        tensorflow=lambda x: _tf().reduce_max(x, axis=[2, 3], keepdims=True),
        smooth=False,
    ),
    "GlobalLpPool": Case("GlobalLpPool", {"x": numbers(2, 3, 4, 5)}),
    "GlobalLpPool of 3": Case("GlobalLpPool", {"x": numbers(2, 3, 4, 5)}, {"p": 3}),
    "CumSum": Case(
        "CumSum",
        {"x": numbers(2, 3, 4), "axis": np.array(1, np.int64)},
        tensorflow=lambda x: _tf().cumsum(x, axis=1),
        opsets=(13, 18, 22),
    ),
    "CumSum exclusive": Case(
        "CumSum",
        {"x": numbers(2, 3, 4), "axis": np.array(-1, np.int64)},
        {"exclusive": 1, "reverse": 1},
        lambda x: _tf().cumsum(x, axis=2, exclusive=True, reverse=True),
    ),
}
