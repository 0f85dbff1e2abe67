"""The discrete Fourier transform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from generators.gradient_rules.operators import Case
from generators.gradient_rules.values import numbers


def _by_tensorflow(function: str, axis: int, real: bool = False) -> Callable[..., Any]:
    """`tf.signal.fft` and the like along an axis of complex numbers in pairs."""

    def transformed(x: Any) -> Any:
        import tensorflow as tf

        order = [*(i for i in range(3) if i != axis), axis]
        back = np.argsort(order).tolist()
        numbers = x[..., 0] if real else tf.complex(x[..., 0], x[..., 1])
        found = getattr(tf.signal, function)(tf.transpose(numbers, order))
        found = tf.transpose(found, back)
        return tf.stack([tf.math.real(found), tf.math.imag(found)], -1)

    return transformed


CASES: Mapping[str, Case] = {
    "DFT": Case("DFT", {"x": numbers(2, 4, 3, 2)}, {}, _by_tensorflow("fft", 1), opsets=(17, 18)),
    "DFT of the last axis": Case(
        "DFT", {"x": numbers(2, 4, 5, 2)}, {"axis": 2}, _by_tensorflow("fft", 2)
    ),
    "DFT back": Case("DFT", {"x": numbers(2, 4, 3, 2)}, {"inverse": 1}, _by_tensorflow("ifft", 1)),
    "DFT of real numbers": Case(
        "DFT", {"x": numbers(2, 4, 3, 1)}, {"onesided": 1}, _by_tensorflow("rfft", 1, real=True)
    ),
    "DFT of an odd count of real numbers": Case(
        "DFT", {"x": numbers(2, 5, 3, 1)}, {"onesided": 1}, _by_tensorflow("rfft", 1, real=True)
    ),
    "DFT of real numbers, whole": Case("DFT", {"x": numbers(2, 4, 3, 1)}),
    "DFT of a stated length": Case(
        "DFT", {"x": numbers(2, 4, 3, 2), "length": np.array(4)}, {}, _by_tensorflow("fft", 1)
    ),
    "DFT with the axis as an input": Case(
        "DFT",
        {"x": numbers(2, 4, 3, 2), "length": None, "axis": np.array(1)},
        {},
        _by_tensorflow("fft", 1),
        opsets=(20,),
    ),
}
