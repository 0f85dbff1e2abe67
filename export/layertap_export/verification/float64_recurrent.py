"""LSTM, GRU and RNN in float64, with all their options.

The reference evaluator of the `onnx` package ignores `sequence_lens` and the activations of LSTM
and GRU, and knows two activations of RNN.
Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

Array: TypeAlias = NDArray[Any]
Function: TypeAlias = Callable[[Array], Array]


class _Recurrent(OpRun):
    """What the three operators share: directions, lengths, states and activations."""

    op_domain = ""
    gates = 1
    functions: Sequence[str] = ("Tanh",)
    """The default activations of one direction."""
    states = 1

    def step(
        self, x: Array, w: Array, r: Array, b: Array, states: list[Array], f: list[Function]
    ) -> list[Array]:
        """The states after a step, the output first.

        Args:
            x: `(n, features)`.
            w: the weights of the inputs, `(gates * units, features)`.
            r: those of the states, `(gates * units, units)`.
            b: the biases of both, `(2, gates * units)`.
            states: `(n, units)` each.
            f: the activations.
        """
        raise NotImplementedError

    def compute(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None,
        lengths: Array | None,
        initial: Sequence[Array | None],
        *,
        activations: Sequence[str] | None = None,
        activation_alpha: Sequence[float] | None = None,
        activation_beta: Sequence[float] | None = None,
        direction: str | None = None,
        layout: int | None = None,
        **_: Any,
    ) -> tuple[Array, ...]:
        if layout:
            x = x.swapaxes(0, 1)
            initial = [None if state is None else state.swapaxes(0, 1) for state in initial]
        time, samples = x.shape[:2]
        directions, units = len(w), r.shape[-1]
        lengths = np.full(samples, time) if lengths is None else lengths
        names = activations or list(self.functions) * directions
        functions = _functions(names, activation_alpha, activation_beta)
        y = np.zeros((time, directions, samples, units), x.dtype)
        ends = []
        for number in range(directions):
            reverse = direction == "reverse" or number == 1
            biases = np.zeros(2 * self.gates * units, x.dtype) if b is None else b[number]
            states = [
                np.zeros((samples, units), x.dtype) if state is None else state[number]
                for state in initial
            ]
            self.direction_index = number
            own = functions[number * len(self.functions) :][: len(self.functions)]
            for step in reversed(range(time)) if reverse else range(time):
                runs = (step < lengths)[:, None]
                new = self.step(x[step], w[number], r[number], biases.reshape(2, -1), states, own)
                states = [np.where(runs, a, b) for a, b in zip(new, states, strict=True)]
                y[step, number] = np.where(runs, states[0], 0)
            ends.append(states)
        last = [np.stack([end[index] for end in ends]) for index in range(self.states)]
        if layout:
            return y.transpose(2, 0, 1, 3), *(state.swapaxes(0, 1) for state in last)
        return y, *last


class LSTM(_Recurrent):
    """The gates are i, o, f, c."""

    gates, functions, states = 4, ("Sigmoid", "Tanh", "Tanh"), 2

    def step(
        self, x: Array, w: Array, r: Array, b: Array, states: list[Array], f: list[Function]
    ) -> list[Array]:
        h, c = states
        p_i, p_o, p_f = self.peepholes[self.direction_index]
        i, o, forget, new = np.split(x @ w.T + h @ r.T + b.sum(0), 4, -1)
        i, forget = f[0](i + p_i * c), f[0](forget + p_f * c)
        c = forget * c + i * f[1](new)
        return [f[0](o + p_o * c) * f[2](c), c]

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        initial_c: Array | None = None,
        p: Array | None = None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        self.peepholes = [[0, 0, 0]] * len(w) if p is None else [np.split(x, 3) for x in p]
        return self.compute(x, w, r, b, sequence_lens, [initial_h, initial_c], **attributes)


class GRU(_Recurrent):
    """The gates are z, r, h."""

    gates, functions = 3, ("Sigmoid", "Tanh")

    def step(
        self, x: Array, w: Array, r: Array, b: Array, states: list[Array], f: list[Function]
    ) -> list[Array]:
        (h,) = states
        units = h.shape[-1]
        inputs = x @ w.T + b[0]
        z, reset = np.split(
            f[0](inputs[:, : 2 * units] + h @ r[: 2 * units].T + b[1, : 2 * units]), 2, -1
        )
        rest, bias = r[2 * units :].T, b[1, 2 * units :]
        before = reset * (h @ rest + bias) if self.reset_after else (reset * h) @ rest + bias
        return [(1 - z) * f[1](inputs[:, 2 * units :] + before) + z * h]

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        linear_before_reset: Any = None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        self.reset_after = bool(linear_before_reset)
        return self.compute(x, w, r, b, sequence_lens, [initial_h], **attributes)


class RNN(_Recurrent):
    """One activation of a product."""

    def step(
        self, x: Array, w: Array, r: Array, b: Array, states: list[Array], f: list[Function]
    ) -> list[Array]:
        return [f[0](x @ w.T + states[0] @ r.T + b.sum(0))]

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        return self.compute(x, w, r, b, sequence_lens, [initial_h], **attributes)


DEFAULTS = {
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01, 0.0),
    "thresholdedrelu": (1.0, 0.0),
    "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, 0.0),
}
"""alpha and beta of the activations that have them, where none are stated."""

WITH_BETA = frozenset({"affine", "scaledtanh", "hardsigmoid"})


def _functions(
    names: Sequence[str], alpha: Sequence[float] | None, beta: Sequence[float] | None
) -> list[Function]:
    """The activations; those that have parameters take them from the lists in order."""
    alphas, betas = list(alpha or ()), list(beta or ())
    functions = []
    for name in map(str.lower, names):
        a, b = DEFAULTS.get(name, (0.0, 0.0))
        if name in DEFAULTS and alphas:
            a = alphas.pop(0)
        if name in WITH_BETA and betas:
            b = betas.pop(0)
        functions.append(_function(name, a, b))
    return functions


def _function(name: str, a: float, b: float) -> Function:
    known: dict[str, Function] = {
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
        "sigmoid": lambda x: (1 + np.tanh(x / 2)) / 2,
        "affine": lambda x: a * x + b,
        "leakyrelu": lambda x: np.where(x < 0, a * x, x),
        "thresholdedrelu": lambda x: np.where(x > a, x, 0),
        "scaledtanh": lambda x: a * np.tanh(b * x),
        "hardsigmoid": lambda x: np.clip(a * x + b, 0, 1),
        "elu": lambda x: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
        "softsign": lambda x: x / (1 + np.abs(x)),
        "softplus": lambda x: np.logaddexp(x, 0),
    }
    return known[name]
