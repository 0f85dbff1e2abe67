"""Changing the size of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.gradient_rules.operators import Case
from generators.gradient_rules.values import numbers, whole


def _tf() -> Any:
    import tensorflow as tf

    return tf


def _resize(
    *size: int, shape: tuple[int, ...] = (2, 2, 4, 5), opsets: tuple[int, ...] = (18,), **more: Any
) -> Case:
    return Case(
        "Resize",
        {"x": numbers(*shape), "roi": None, "scales": None, "sizes": whole(*shape[:2], *size)},
        more,
        opsets=opsets,
    )


def _scaled(*scales: float, shape: tuple[int, ...] = (2, 2, 4, 5), **more: Any) -> Case:
    return Case(
        "Resize",
        {"x": numbers(*shape), "roi": None, "scales_": np.array(scales, np.float32)},
        more,
    )


def _bilinear(x: Any) -> Any:
    tf = _tf()
    found = tf.image.resize(tf.transpose(x, [0, 2, 3, 1]), (7, 3))
    return tf.transpose(found, [0, 3, 1, 2])


CASES: Mapping[str, Case] = {
    "Resize linear": Case(
        "Resize",
        _resize(7, 3).inputs,
        {"mode": "linear"},
        _bilinear,
        opsets=(13, 18, 22),
    ),
    "Resize linear by scales": _scaled(1, 1, 2, 1.5, mode="linear"),
    "Resize linear asymmetric": _resize(
        8, 10, mode="linear", coordinate_transformation_mode="asymmetric"
    ),
    "Resize linear by corners": _resize(
        8, 3, mode="linear", coordinate_transformation_mode="align_corners"
    ),
    "Resize nearest": _resize(8, 10, opsets=(13, 18, 22)),
    "Resize nearest floor": _scaled(
        1, 1, 2, 3, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
    "Resize nearest smaller": _resize(2, 3, nearest_mode="round_prefer_ceil"),
    "Resize cubic": _resize(7, 8, mode="cubic"),
    "Resize cubic as TensorFlow": _resize(
        7, 8, mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1
    ),
    "Resize of a sequence": _resize(7, shape=(2, 2, 4), mode="linear"),
    "Resize of a volume": _resize(4, 6, 3, shape=(1, 2, 2, 3, 3)),
    "Resize of some axes": Case(
        "Resize",
        {"x": numbers(2, 2, 4, 5), "roi": None, "scales": None, "sizes": whole(7)},
        {"mode": "linear", "axes": [2]},
    ),
    "Resize of channels last": Case(
        "Resize",
        {"x": numbers(2, 4, 5, 3), "roi": None, "scales": None, "sizes": whole(2, 8, 10, 3)},
    ),
}
