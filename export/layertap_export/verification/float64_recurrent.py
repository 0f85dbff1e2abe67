"""LSTM, GRU and RNN in float64, step by step, by the formulas in ONNX's documentation.

The reference evaluator of the `onnx` package has neither lengths of sequences nor other activations
than the default ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import nan
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

Array: TypeAlias = NDArray[Any]
Function: TypeAlias = Callable[[Array], Array]

FIRST_H, FIRST_C = 5, 6
"""Inputs of the operators."""


class _Recurrent(OpRun):
    """The loop over directions and steps, which the operators share."""

    op_domain = ""
    states = 1
    defaults: tuple[str, ...] = ("Tanh",)

    def _step(
        self, x: Array, states: list[Array], r: Array, b: Array, functions: Sequence[Function]
    ) -> list[Array]:
        """The states after a step.

        Args:
            x: the input's part of all gates, with its biases.
            states: before the step; the first one is the output.
            r: the weights of the states.
            b: the biases of the states' part.
            functions: the activations.
        """
        raise NotImplementedError

    def _all(self, inputs: Sequence[Array | None], attributes: dict[str, Any]) -> tuple[Array, ...]:
        x, w, r = inputs[:3]
        assert x is not None
        assert w is not None
        assert r is not None
        steps, rows, _ = x.shape
        count, width, hidden = r.shape
        b = inputs[3] if inputs[3] is not None else np.zeros((count, 2 * width))
        lengths = inputs[4] if inputs[4] is not None else np.full(rows, steps)
        direction = attributes.get("direction") or "forward"
        firsts = [inputs[i] for i in (FIRST_H, FIRST_C)[: self.states]]
        y = np.zeros((steps, count, rows, hidden), x.dtype)
        last: list[list[Array]] = []
        functions = list(_functions(attributes, self.defaults))
        for d in range(count):
            mine = functions[d * len(self.defaults) :][: len(self.defaults)]
            states = [
                np.zeros((rows, hidden), x.dtype) if one is None else one[d] for one in firsts
            ]
            backwards = direction == "reverse" or d == 1
            for t in reversed(range(steps)) if backwards else range(steps):
                terms = x[t] @ w[d].T + b[d, :width]
                found = self._step(terms, states, r[d], b[d, width:], mine)
                within = (t < lengths)[:, None]
                states = [
                    np.where(within, new, old) for new, old in zip(found, states, strict=True)
                ]
                y[t, d] = np.where(within, found[0], 0)
            last.append(states)
        return (y, *(np.stack([each[i] for each in last]) for i in range(self.states)))


class LSTM(_Recurrent):
    """c' = f c + i n, h' = o tanh(c')."""

    states = 2
    defaults = ("Sigmoid", "Tanh", "Tanh")

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        lengths: Array | None = None,
        h: Array | None = None,
        c: Array | None = None,
        p: Array | None = None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        if p is not None or attributes.get("input_forget"):
            raise NotImplementedError("peepholes and input_forget")
        return self._all([x, w, r, b, lengths, h, c], attributes)

    def _step(
        self, x: Array, states: list[Array], r: Array, b: Array, functions: Sequence[Function]
    ) -> list[Array]:
        (h, c), (gate, inner, outer) = states, functions
        i, o, f, n = np.split(x + h @ r.T + b, 4, axis=1)
        cell = gate(f) * c + gate(i) * inner(n)
        return [gate(o) * outer(cell), cell]


class GRU(_Recurrent):
    """h' = (1 - z) n + z h."""

    defaults = ("Sigmoid", "Tanh")

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        lengths: Array | None = None,
        h: Array | None = None,
        linear_before_reset: Any = None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        self._linear = bool(linear_before_reset)
        return self._all([x, w, r, b, lengths, h], attributes)

    def _step(
        self, x: Array, states: list[Array], r: Array, b: Array, functions: Sequence[Function]
    ) -> list[Array]:
        (h,), (gate, inner) = states, functions
        of_z, of_r, of_n = np.split(r, 3)
        b_z, b_r, b_n = np.split(b, 3)
        x_z, x_r, x_n = np.split(x, 3, axis=1)
        z = gate(x_z + h @ of_z.T + b_z)
        reset = gate(x_r + h @ of_r.T + b_r)
        linear = reset * (h @ of_n.T + b_n)
        n = inner(x_n + (linear if self._linear else (reset * h) @ of_n.T + b_n))
        return [(1 - z) * n + z * h]


class RNN(_Recurrent):
    """h' = tanh(x + h R)."""

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        lengths: Array | None = None,
        h: Array | None = None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        return self._all([x, w, r, b, lengths, h], attributes)

    def _step(
        self, x: Array, states: list[Array], r: Array, b: Array, functions: Sequence[Function]
    ) -> list[Array]:
        return [functions[0](x + states[0] @ r.T + b)]


def _functions(attributes: dict[str, Any], defaults: Sequence[str]) -> Iterator[Function]:
    """The activations of all directions."""
    alphas = iter(attributes.get("activation_alpha") or ())
    betas = iter(attributes.get("activation_beta") or ())
    if attributes.get("clip"):
        raise NotImplementedError("clip")
    for name in attributes.get("activations") or [*defaults] * 2:
        make, values = _ACTIVATIONS[name.lower()]
        rows = (alphas, betas)[: len(values)]
        yield make(*(next(row, value) for row, value in zip(rows, values, strict=True)))


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1))


_ACTIVATIONS: dict[str, tuple[Callable[..., Function], tuple[float, ...]]] = {
    "relu": (lambda: lambda x: np.maximum(x, 0), ()),
    "tanh": (lambda: np.tanh, ()),
    "sigmoid": (lambda: _sigmoid, ()),
    "softsign": (lambda: lambda x: x / (1 + np.abs(x)), ()),
    "softplus": (lambda: lambda x: np.logaddexp(x, 0), ()),
    "hardsigmoid": (lambda a, b: lambda x: np.clip(a * x + b, 0, 1), (0.2, 0.5)),
    "elu": (lambda a: lambda x: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), (1.0,)),
    "leakyrelu": (lambda a: lambda x: np.where(x >= 0, x, a * x), (0.01,)),
    "thresholdedrelu": (lambda a: lambda x: np.where(x > a, x, 0), (nan,)),
    "affine": (lambda a, b: lambda x: a * x + b, (nan, nan)),
    "scaledtanh": (lambda a, b: lambda x: a * np.tanh(b * x), (nan, nan)),
}
"""By name, how to make it from its parameters, and their defaults; NaN where onnxruntime has
another default than ONNX."""

RECURRENT = (LSTM, GRU, RNN)
"""The operators."""
