"""Recurrent layers as ONNX's operators LSTM, GRU and RNN.

`keras_model.recurrence` puts one operation for each layer into the traced graph.
Source of the formulas: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html,
onnx__RNN.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from layertap_export.keras_model.recurrence import STATES, Recurrence

from .expressions import UnsupportedUseError, Value, arange, attribute, concat, replace_node

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "RNN": (0,)}
"""For each of ONNX's gates, its place among Keras's: i, f, c, o in an LSTM, where ONNX has
i, o, f, c; z, r, h in a GRU in both."""

DEFAULTS = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
"""The activations that an operator has where it states none."""


def recurrence(graph: Any, node: Any, name: str, args: Any) -> None:
    """One recurrent layer."""
    found = Recurrence.from_token(attribute(node, "token"))
    if found is None:
        raise UnsupportedUseError("it runs Python code")

    def build(x: Value, kernel: Value, recurrent_kernel: Value, *others: Value) -> Sequence[Value]:
        rest = list(others)
        bias = rest.pop(0) if found.has_bias else None
        mask = rest.pop(0) if found.has_mask else None
        layer = _Layer(found, x, kernel, recurrent_kernel, bias, [y.unsqueeze(0) for y in rest])
        return layer.unmasked() if mask is None else layer.masked(mask)

    replace_node(graph, node, build)


class _Layer:
    """One layer's operator, and what it reads."""

    def __init__(
        self,
        found: Recurrence,
        x: Value,
        kernel: Value,
        recurrent_kernel: Value,
        bias: Value | None,
        states: Sequence[Value],
    ) -> None:
        units = recurrent_kernel.shape[0] if recurrent_kernel.shape else None
        assert units is not None  # a weight has a fixed shape
        self.found, self.x, self.states, self.units = found, x, states, units
        order = GATES[found.operator]
        self.rows = np.concatenate([np.arange(units) + units * gate for gate in order])
        self.weights = [
            self._transposed(kernel),
            self._transposed(recurrent_kernel),
            Value(x.graph, "") if bias is None else self._both_biases(bias),
        ]

    def _transposed(self, kernel: Value) -> Value:
        """A kernel of Keras's `(inputs, gates * units)` as `(1, gates * units, inputs)`."""
        value = kernel.constant
        if value is not None:
            return kernel.const(value.T[self.rows][None], value.dtype)
        # The finished graph has the computed weight (`graph.constant_folding`).
        transposed = kernel.transpose(1, 0)
        if self.found.operator == "LSTM":
            transposed = transposed.op("Gather", *kernel.int64s(self.rows), axis=0)
        return transposed.unsqueeze(0)

    def _both_biases(self, bias: Value) -> Value:
        """The biases of the inputs and of the states, `(1, 2 * gates * units)`."""
        if self.found.operator == "GRU" and self.found.reset_after:
            return bias.reshape(1, -1)
        ordered = bias.op("Gather", *bias.int64s(self.rows), axis=0)
        zeros = bias.const(np.zeros(len(self.rows)), bias.dtype)
        return concat([ordered, zeros], 0).unsqueeze(0)

    def _operator(self, steps: Value, lengths: Value | None, *, reverse: bool) -> list[Value]:
        """The outputs of the operator for steps of shape `(time, n, features)`."""
        operator = self.found.operator
        functions = self.found.activations
        attributes: dict[str, Any] = {"hidden_size": self.units}
        if reverse:
            attributes["direction"] = "reverse"
        if operator == "GRU" and self.found.reset_after:
            attributes["linear_before_reset"] = 1
        if tuple(function.name for function in functions) != DEFAULTS[operator]:
            attributes["activations"] = [function.name for function in functions]
            for key in ("alpha", "beta"):
                given = [getattr(function, key) for function in functions]
                values = [value for value in given if value is not None]
                if values:
                    attributes[f"activation_{key}"] = values
        lengths = lengths or Value(steps.graph, "")
        inputs = [*self.weights, lengths, *self.states]
        while not inputs[-1].name:
            inputs.pop()
        return steps.ops(operator, *inputs, outputs=1 + STATES[operator], **attributes)

    def unmasked(self) -> list[Value]:
        """The outputs of all steps, of the last one, and the states after it."""
        steps = self.x.transpose(1, 0, 2)
        outputs, *states = self._operator(steps, None, reverse=self.found.backwards)
        guard = self._guard(None)
        after = [guard.at_end(state.squeeze(0)) for state in states]
        return [guard.at_steps(outputs.squeeze(1).transpose(1, 0, 2)), after[0], *after]

    def masked(self, mask: Value) -> list[Value]:
        """The same, where each sample has steps that are left out.

        The operator runs forwards over the other steps, in the order in which the layer takes them,
        each sample's own from the first on. A step that is left out has the output of the step
        before it; Keras gives zeros where there is none.
        """
        x, backwards = self.x, self.found.backwards
        samples, time = x.size(0), x.size(1)
        kept = mask.cast(np.int64)
        # How many steps a sample has taken, at each step.
        taken = kept.op("CumSum", *kept.int64s(1), reverse=int(backwards))
        count = kept.reduce("Sum", 1)
        some, row = count > 0, arange(samples)

        position = arange(time)
        order = kept * time + (position if backwards else -position)
        _, first_kept = order.ops("TopK", time.reshape(1), outputs=2, axis=1)
        source = (first_kept + row.unsqueeze(1) * time).transpose(1, 0)
        steps = x.reshape(-1, _size(x, 2)).op("Gather", source, axis=0)

        lengths = count.op("Max", 1).cast(np.int32)
        outputs, *states = self._operator(steps, lengths, reverse=False)

        guard = self._guard(kept)
        every = outputs.reshape(-1, self.units)
        at = (taken - 1).op("Max", 0) * samples + row.unsqueeze(1)
        shown = mask if self.found.zero_output_for_mask else taken > 0
        repeated = guard.at_steps(every.op("Gather", at, axis=0))
        sequence = shown.unsqueeze(2).where(repeated, 0)

        before: Sequence[Value | None] = self.states or [None] * len(states)
        # Not the operator's own output, which the evaluator of the onnx package takes from the
        # last step whatever the lengths.
        hidden = every.op("Gather", (count - 1).op("Max", 0) * samples + row, axis=0)
        hidden, *others = [
            guard.at_end(end) for end in (hidden, *(state.squeeze(0) for state in states[1:]))
        ]
        after = [
            some.unsqueeze(1).where(end, 0 if start is None else start.squeeze(0))
            for end, start in zip([hidden, *others], before, strict=True)
        ]
        is_last = mask.take(0 if backwards else -1, 1) if self.found.zero_output_for_mask else some
        return [sequence, is_last.unsqueeze(1).where(hidden, 0), *after]

    def _guard(self, kept: Value | None) -> _Guard:
        """What makes results NaN where Keras gives NaN.

        onnxruntime's LSTM and GRU limit what goes into an activation to finite numbers, so a NaN
        in the input would give plausible outputs.

        Args:
            kept: 1 for the steps that are not left out, `(n, time)`; `None` if all are kept.
        """
        names = [function.name for function in self.found.activations]
        if self.found.operator == "RNN" and names == ["Tanh"]:
            return _Guard(None, self.found.backwards)
        found = _has_nan(self.x)
        if kept is not None:
            found = found * kept.unsqueeze(2).cast(np.float32)
        for state in self.states:
            found = found + _has_nan(state).transpose(1, 0, 2)
        reverse = int(self.found.backwards)
        count = found.op("CumSum", *found.int64s(1), reverse=reverse)
        return _Guard((-count).op("Sqrt").cast(self.x.dtype), self.found.backwards)


class _Guard:
    """Adds to outputs 0 up to the first step whose input has a NaN, and NaN from there on."""

    def __init__(self, added: Value | None, backwards: bool) -> None:
        self.added, self.backwards = added, backwards

    def at_steps(self, outputs: Value) -> Value:
        """For the outputs of all steps, `(n, time, units)`."""
        return outputs if self.added is None else outputs + self.added

    def at_end(self, state: Value) -> Value:
        """For what there is after the last step, `(n, units)`."""
        if self.added is None:
            return state
        return state + self.added.take(0 if self.backwards else -1, 1)


def _has_nan(x: Value) -> Value:
    """1 where a vector along the last of three axes has a NaN, else 0."""
    return x.reduce("Sum", 2, keep=True).op("IsNaN").cast(np.float32)


def _size(x: Value, axis: int) -> int:
    size = x.shape[axis] if x.shape else None
    if size is None:
        raise UnsupportedUseError("the number of features is not known")
    return size
