"""Pooling: windows that overlap, padding, dilations, ceil mode, ties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.gradient_rules.operators import Case
from generators.gradient_rules.values import apart, numbers, steps

ALL = (13, 18, 22)


def _tf() -> Any:
    import tensorflow as tf

    return tf


def _pool(kind: str, **options: Any) -> Any:
    def call(x: Any) -> Any:
        tf = _tf()
        found = getattr(tf.nn, kind)(tf.transpose(x, [0, 2, 3, 1]), **options)
        return tf.transpose(found, [0, 3, 1, 2])

    return call


def _max(x: Any, known: Any = None, opsets: tuple[int, ...] = (18,), **attributes: Any) -> Case:
    function = _pool("max_pool2d", **known) if known else None
    return Case("MaxPool", {"x": x}, attributes, function, opsets=opsets)


def _average(x: Any, known: Any = None, opsets: tuple[int, ...] = (18,), **attributes: Any) -> Case:
    function = _pool("avg_pool2d", **known) if known else None
    return Case("AveragePool", {"x": x}, attributes, function, opsets=opsets)


IMAGES = apart(2, 2, 6, 7)
_PLACES = np.array([[[[0, 3], [12, 10]], [[21, 18], [24, 31]]]], np.int64)
"""Of the largest of 2 x 2 windows in two channels of 4 x 4."""


def _windows(ksize: int, strides: int, padding: str) -> dict[str, Any]:
    return {"ksize": ksize, "strides": strides, "padding": padding}


CASES: Mapping[str, Case] = {
    "MaxPool": _max(IMAGES, _windows(2, 2, "VALID"), ALL, kernel_shape=[2, 2], strides=[2, 2]),
    "MaxPool overlapping": _max(
        IMAGES, _windows(3, 2, "VALID"), (13, 16, 18, 22), kernel_shape=[3, 3], strides=[2, 2]
    ),
    "MaxPool by cells": _max(
        IMAGES, _windows(3, 1, "SAME"), (13, 18), kernel_shape=[3, 3], auto_pad="SAME_UPPER"
    ),
    "MaxPool SAME": _max(
        IMAGES,
        _windows(3, 2, "SAME"),
        (13, 18),
        kernel_shape=[3, 3],
        strides=[2, 2],
        auto_pad="SAME_UPPER",
    ),
    "MaxPool padded": _max(
        IMAGES, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1], opsets=(13, 18)
    ),
    "MaxPool dilated": _max(IMAGES, kernel_shape=[2, 2], dilations=[2, 2], opsets=(13, 18)),
    "MaxPool ceil": _max(IMAGES, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "MaxPool ties": Case(
        "MaxPool",
        {"x": steps(2, 3, 6, 7, low=0)},
        {"kernel_shape": [3, 3], "strides": [2, 2]},
        _pool("max_pool2d", **_windows(3, 2, "VALID")),
        smooth=False,
        opsets=(13, 18),
    ),
    "MaxPool ties by cells": Case(
        "MaxPool",
        {"x": steps(2, 3, 6, 7, low=0)},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"},
        _pool("max_pool2d", **_windows(3, 1, "SAME")),
        smooth=False,
    ),
    "MaxPool of a sequence": _max(apart(2, 3, 7), kernel_shape=[3], strides=[2]),
    "MaxPool of a volume": _max(apart(1, 2, 4, 4, 3), kernel_shape=[2, 2, 2], strides=[2, 1, 1]),
    "MaxPool with indices": Case(
        "MaxPool", {"x": IMAGES}, {"kernel_shape": [3, 3], "strides": [2, 2]}, outputs=2
    ),
    "MaxUnpool": Case(
        "MaxUnpool",
        {"x": numbers(1, 2, 2, 2), "i": _PLACES},
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        rows=False,
    ),
    "AveragePool": _average(
        numbers(2, 3, 4, 6), _windows(2, 2, "VALID"), ALL, kernel_shape=[2, 2], strides=[2, 2]
    ),
    "AveragePool that leaves a rest": _average(
        numbers(2, 3, 5, 7), _windows(2, 2, "VALID"), kernel_shape=[2, 2], strides=[2, 2]
    ),
    "AveragePool overlapping": _average(
        numbers(2, 3, 6, 7), _windows(3, 2, "VALID"), kernel_shape=[3, 3], strides=[2, 2]
    ),
    "AveragePool by cells": _average(
        numbers(2, 3, 5, 6), _windows(3, 1, "VALID"), ALL, kernel_shape=[3, 3]
    ),
    "AveragePool by cells SAME": _average(
        numbers(2, 3, 5, 6), _windows(3, 1, "SAME"), kernel_shape=[3, 3], auto_pad="SAME_UPPER"
    ),
    "AveragePool SAME": _average(
        numbers(2, 3, 6, 7),
        _windows(3, 2, "SAME"),
        ALL,
        kernel_shape=[3, 3],
        strides=[2, 2],
        auto_pad="SAME_UPPER",
    ),
    "AveragePool SAME_LOWER": _average(
        numbers(2, 3, 6, 7), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"
    ),
    "AveragePool padded": _average(
        numbers(2, 3, 6, 7), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]
    ),
    "AveragePool padded, counted": _average(
        numbers(2, 3, 6, 7),
        kernel_shape=[3, 2],
        strides=[2, 2],
        pads=[1, 0, 1, 1],
        count_include_pad=1,
    ),
    "AveragePool by cells, counted": _average(
        numbers(2, 3, 5, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "AveragePool ceil": _average(
        numbers(2, 3, 6, 6), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1
    ),
    "AveragePool ceil padded": _average(
        numbers(2, 3, 6, 6), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 1, 0, 0]
    ),
    "AveragePool dilated": _average(
        numbers(2, 3, 6, 6), kernel_shape=[2, 2], dilations=[2, 2], opsets=(19, 22)
    ),
    "AveragePool of a sequence": _average(numbers(2, 3, 7), kernel_shape=[3], strides=[2]),
    "AveragePool of a volume": _average(
        numbers(1, 2, 4, 4, 3), kernel_shape=[2, 2, 2], strides=[2, 1, 1]
    ),
    "LpPool": Case(
        "LpPool", {"x": numbers(2, 2, 5, 6)}, {"kernel_shape": [2, 2], "strides": [2, 2]}
    ),
    "LpPool of 3": Case("LpPool", {"x": numbers(2, 2, 5, 5)}, {"kernel_shape": [2, 2], "p": 3}),
    "LpPool of 1": Case("LpPool", {"x": numbers(2, 2, 5, 5)}, {"kernel_shape": [3, 2], "p": 1}),
}
