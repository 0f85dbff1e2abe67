"""Normalisations, and softmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generators.gradient_rules.operators import Case
from generators.gradient_rules.values import numbers, positive


def _tf() -> Any:
    import tensorflow as tf

    return tf


def _lrn(x: Any) -> Any:
    tf = _tf()
    images = tf.transpose(x, [0, 2, 3, 1])
    found = tf.nn.local_response_normalization(images, 2, 1.2, 0.1 / 5, 0.6)
    return tf.transpose(found, [0, 3, 1, 2])


def _norm(axes: list[int], x: Any, scale: Any, bias: Any, epsilon: float = 1e-5) -> Any:
    mean, variance = _tf().nn.moments(x, axes, keepdims=True)
    return (x - mean) / _tf().sqrt(variance + epsilon) * scale + bias


def _groups(x: Any) -> Any:
    tf = _tf()
    scale, bias = positive(2)[:, None], numbers(2)[:, None]
    return tf.reshape(_norm([2], tf.reshape(x, (2, 2, -1)), scale, bias), x.shape)


CASES: Mapping[str, Case] = {
    "Softmax": Case(
        "Softmax",
        {"x": numbers(2, 3, 4)},
        tensorflow=lambda x: _tf().nn.softmax(x),
        opsets=(13, 18, 22),
    ),
    "Softmax of channels": Case(
        "Softmax", {"x": numbers(2, 3, 4)}, {"axis": 1}, lambda x: _tf().nn.softmax(x, axis=1)
    ),
    "LogSoftmax": Case(
        "LogSoftmax",
        {"x": numbers(2, 3, 4)},
        tensorflow=lambda x: _tf().nn.log_softmax(x),
        opsets=(13, 18, 22),
    ),
    "BatchNormalization": Case(
        "BatchNormalization",
        {
            "x": numbers(2, 3, 4, 5),
            "s_": positive(3),
            "b_": numbers(3),
            "m_": numbers(3, seed=4),
            "v_": positive(3, seed=5),
        },
        {"epsilon": 1e-3},
        opsets=(14, 18, 22),
    ),
    "BatchNormalization of vectors": Case(
        "BatchNormalization",
        {
            "x": numbers(2, 3),
            "s_": positive(3),
            "b_": numbers(3),
            "m_": numbers(3, seed=4),
            "v_": positive(3, seed=5),
        },
        opsets=(15, 18),
    ),
    "LayerNormalization": Case(
        "LayerNormalization",
        {"x": numbers(2, 3, 4), "x2": positive(4), "x3": numbers(4, seed=3)},
        tensorflow=lambda x, s, b: _norm([2], x, s, b),
        opsets=(17, 18, 22),
        rows=False,
    ),
    "LayerNormalization of axes": Case(
        "LayerNormalization",
        {"x": numbers(2, 3, 4), "s_": positive(3, 4)},
        {"axis": 1, "epsilon": 1e-3},
        lambda x: _norm([1, 2], x, positive(3, 4), 0.0, 1e-3),
    ),
    "InstanceNormalization": Case(
        "InstanceNormalization",
        {"x": numbers(2, 3, 4, 5), "s_": positive(3), "b_": numbers(3)},
        tensorflow=lambda x: _norm(
            [2, 3], x, positive(3)[:, None, None], numbers(3)[:, None, None]
        ),
        opsets=(13, 18, 22),
    ),
    "GroupNormalization": Case(
        "GroupNormalization",
        {"x": numbers(2, 6, 3, 2), "s_": positive(6), "b_": numbers(6)},
        {"num_groups": 2},
        opsets=(21, 22),
    ),
    "GroupNormalization by group": Case(
        "GroupNormalization",
        {"x": numbers(2, 6, 3, 2), "s_": positive(2), "b_": numbers(2)},
        {"num_groups": 2},
        _groups,
        smooth=False,  # the onnx package calls this form deprecated, and does not compute it
    ),
    "MeanVarianceNormalization": Case(
        "MeanVarianceNormalization",
        {"x": numbers(2, 3, 4, 5)},
        {"axes": [2, 3]},
        opsets=(13, 18, 22),
    ),
    "MeanVarianceNormalization of the batch": Case(
        "MeanVarianceNormalization", {"x": numbers(2, 3, 4, 5)}, rows=False
    ),
    "LpNormalization": Case(
        "LpNormalization",
        {"x": numbers(2, 3, 4)},
        {"axis": 1},
        lambda x: _tf().math.l2_normalize(x, axis=1),
        opsets=(13, 18, 22),
    ),
    "LpNormalization of 1": Case("LpNormalization", {"x": numbers(2, 3, 4)}, {"p": 1}),
    "LRN": Case(
        "LRN",
        {"x": numbers(2, 7, 2, 3)},
        {"size": 5, "alpha": 0.1, "beta": 0.6, "bias": 1.2},
        _lrn,
        opsets=(13, 18, 22),
    ),
    "RMSNormalization": Case(
        "RMSNormalization",
        {"x": numbers(2, 3, 4), "x2": positive(4)},
        opsets=(23,),
        rows=False,
    ),
}
