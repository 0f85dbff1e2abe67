"""Functions of one tensor, element by element."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.gradient_rules.operators import Case, Function
from generators.gradient_rules.values import numbers, positive, scalar, steps

SHAPE = (2, 3, 4)
ALL = (13, 18, 22)


def _tf() -> Any:
    import tensorflow as tf

    return tf


def _hard_sigmoid(x: Any) -> Any:
    return _tf().nn.relu6(x + 3) / 6


def _mish(x: Any) -> Any:
    return x * _tf().tanh(_tf().nn.softplus(x))


def _prelu_like(x: Any) -> Any:
    return _tf().nn.leaky_relu(x, 0.3)


def _celu(x: Any) -> Any:
    tf = _tf()
    return tf.where(x >= 0, x, 0.7 * (tf.exp(tf.minimum(x, 0) / 0.7) - 1))


def _named(*path: str) -> Function:
    def call(x: Any) -> Any:
        function = _tf()
        for name in path:
            function = getattr(function, name)
        return function(x)

    return call


SMOOTH: Mapping[str, tuple[Any, Function]] = {
    "Sigmoid": (numbers(*SHAPE), _named("sigmoid")),
    "Tanh": (numbers(*SHAPE), _named("tanh")),
    "Softplus": (numbers(*SHAPE), _named("nn", "softplus")),
    "Softsign": (numbers(*SHAPE), _named("nn", "softsign")),
    "Erf": (numbers(*SHAPE), _named("math", "erf")),
    "Exp": (numbers(*SHAPE), _named("exp")),
    "Log": (positive(*SHAPE), _named("math", "log")),
    "Sqrt": (positive(*SHAPE), _named("sqrt")),
    "Reciprocal": (positive(*SHAPE), _named("math", "reciprocal")),
    "Neg": (numbers(*SHAPE), _named("negative")),
    "Sin": (numbers(*SHAPE), _named("sin")),
    "Cos": (numbers(*SHAPE), _named("cos")),
    "Tan": (numbers(*SHAPE, low=-1, high=1), _named("tan")),
    "Asin": (numbers(*SHAPE, low=-0.9, high=0.9), _named("asin")),
    "Acos": (numbers(*SHAPE, low=-0.9, high=0.9), _named("acos")),
    "Atan": (numbers(*SHAPE), _named("atan")),
    "Sinh": (numbers(*SHAPE), _named("sinh")),
    "Cosh": (numbers(*SHAPE), _named("cosh")),
    "Asinh": (numbers(*SHAPE), _named("asinh")),
    "Acosh": (numbers(*SHAPE, low=1.2, high=3), _named("acosh")),
    "Atanh": (numbers(*SHAPE, low=-0.9, high=0.9), _named("atanh")),
    "Relu": (numbers(*SHAPE), _named("nn", "relu")),
    "Abs": (numbers(*SHAPE), _named("abs")),
    "Elu": (numbers(*SHAPE), _named("nn", "elu")),
    "Selu": (numbers(*SHAPE), _named("nn", "selu")),
    "Identity": (numbers(*SHAPE), _named("identity")),
}

CASES: Mapping[str, Case] = {
    **{
        op_type: Case(op_type, {"x": x}, tensorflow=function, opsets=ALL)
        for op_type, (x, function) in SMOOTH.items()
    },
    "Relu at 0": Case("Relu", {"x": steps(*SHAPE)}, {}, _named("nn", "relu"), smooth=False),
    "Abs at 0": Case("Abs", {"x": steps(*SHAPE)}, {}, _named("abs"), smooth=False),
    "Elu at 0": Case("Elu", {"x": steps(*SHAPE)}, {}, _named("nn", "elu"), smooth=False),
    "Selu at 0": Case("Selu", {"x": steps(*SHAPE)}, {}, _named("nn", "selu"), smooth=False),
    "Elu alpha": Case("Elu", {"x": numbers(*SHAPE)}, {"alpha": 0.6}),
    "Selu own": Case("Selu", {"x": numbers(*SHAPE)}, {"alpha": 1.2, "gamma": 0.8}),
    "Celu": Case("Celu", {"x": numbers(*SHAPE)}, {"alpha": 0.7}, _celu),
    "LeakyRelu": Case("LeakyRelu", {"x": numbers(*SHAPE)}, {"alpha": 0.3}, _prelu_like),
    "LeakyRelu at 0": Case(
        "LeakyRelu", {"x": steps(*SHAPE)}, {"alpha": 0.3}, _prelu_like, smooth=False
    ),
    "ThresholdedRelu": Case("ThresholdedRelu", {"x": numbers(*SHAPE)}, {"alpha": 0.4}),
    "Shrink": Case("Shrink", {"x": numbers(*SHAPE)}, {"lambd": 0.6, "bias": 0.2}),
    "HardSigmoid": Case(
        "HardSigmoid",
        {"x": numbers(*SHAPE, low=-5, high=5)},
        {"alpha": 1 / 6, "beta": 0.5},
        _hard_sigmoid,
    ),
    "HardSigmoid limits": Case(
        "HardSigmoid",
        {"x": steps(*SHAPE, low=-4, high=5)},
        {"alpha": 0.25, "beta": 0.5},
        lambda x: _tf().nn.relu6(x * 1.5 + 3) / 6,
        smooth=False,
    ),
    "HardSwish": Case(
        "HardSwish",
        {"x": numbers(*SHAPE, low=-5, high=5)},
        tensorflow=lambda x: x * _hard_sigmoid(x),
        opsets=(14, 18, 22),
    ),
    "Mish": Case("Mish", {"x": numbers(*SHAPE)}, tensorflow=_mish, opsets=(18, 22)),
    "Gelu": Case(
        "Gelu", {"x": numbers(*SHAPE)}, tensorflow=lambda x: _tf().nn.gelu(x), opsets=(20, 22)
    ),
    "Gelu tanh": Case(
        "Gelu",
        {"x": numbers(*SHAPE)},
        {"approximate": "tanh"},
        lambda x: _tf().nn.gelu(x, approximate=True),
        opsets=(20, 22),
    ),
    "Clip": Case(
        "Clip",
        {"x": numbers(*SHAPE), "low_": scalar(-0.7), "high_": scalar(1.1)},
        tensorflow=lambda x: _tf().clip_by_value(x, -0.7, 1.1),
        opsets=ALL,
    ),
    "Clip at its limits": Case(
        "Clip",
        {"x": steps(*SHAPE), "low_": scalar(-1), "high_": scalar(1)},
        tensorflow=lambda x: _tf().clip_by_value(x, -1.0, 1.0),
        smooth=False,
    ),
    "Clip from below": Case(
        "Clip",
        {"x": steps(*SHAPE), "low_": scalar(-1)},
        tensorflow=lambda x: _tf().clip_by_value(x, -1.0, 99.0),
        smooth=False,
    ),
    "Clip from above": Case(
        "Clip",
        {"x": steps(*SHAPE), "low_": None, "high_": scalar(1)},
        tensorflow=lambda x: _tf().clip_by_value(x, -99.0, 1.0),
        smooth=False,
    ),
    "Clip as relu6": Case(
        "Clip",
        {"x": steps(*SHAPE, low=-2, high=9), "low_": scalar(0), "high_": scalar(6)},
        tensorflow=_named("nn", "relu6"),
        smooth=False,
    ),
    "Clip as relu": Case(
        "Clip",
        {"x": steps(*SHAPE), "low_": scalar(0)},
        tensorflow=_named("nn", "relu"),
        smooth=False,
    ),
    "Clip of nothing": Case("Clip", {"x": numbers(*SHAPE)}, tensorflow=_named("identity")),
    "Dropout": Case(
        "Dropout",
        {"x": numbers(*SHAPE), "ratio_": scalar(0.5)},
        tensorflow=_named("identity"),
        opsets=ALL,
    ),
    "Cast": Case("Cast", {"x": numbers(*SHAPE)}, {"to": 11}, _named("identity"), opsets=ALL),
    "CastLike": Case(
        "CastLike", {"x": numbers(*SHAPE), "like_": np.zeros(1, np.float32)}, opsets=(15, 18, 22)
    ),
    "Tan of a vector": Case("Tan", {"x": numbers(3, low=-1, high=1)}, {}, _named("tan")),
    "Exp of a number": Case("Exp", {"x": np.array(math.e, np.float32)}, {}, _named("exp")),
}
