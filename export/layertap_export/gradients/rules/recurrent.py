"""Recurrent layers: LSTM, GRU and RNN, step by step.

The operators give the output of each step, but neither the gates nor the cell states, so a Scan
computes the states before each step again. A second Scan goes back through the steps: its body
holds one step of the formulas in ONNX's documentation of the operator, and the gradients of that.

Steps beyond the length of a sequence keep the states and output 0, as in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import onnx
from onnx import TensorProto, helper

from layertap_export.gradients.builder import Builder, Value
from layertap_export.gradients.step import Gradients, Rule, Step

Function: TypeAlias = Callable[[Value], Value]
"""An activation."""

LENGTHS, FIRST_H, FIRST_C, PEEPHOLES = 4, 5, 6, 7
"""Inputs of the operators; X, W, R and B are the first four."""


@dataclass(frozen=True)
class _Cell:
    """One step of an operator."""

    gates: int
    states: int
    activations: tuple[str, ...]
    """The names of the default activations."""
    compute: Callable[[_Terms], list[Value]]
    """The new states, of which the first is the output."""


@dataclass(frozen=True)
class _Terms:
    """What a step is computed from."""

    build: Builder
    hidden: int
    x: Value
    """The input's part of all gates, `(rows, gates * hidden)`, with the biases."""
    states: Sequence[Value]
    """`(rows, hidden)` each."""
    weights: Value
    """Of the states, `(hidden, gates * hidden)`."""
    bias: Value | None
    """A bias of the states' part, `(gates * hidden,)`, if it is not among those of `x`."""
    functions: Sequence[Function]

    def parts(self, value: Value, *gates: int) -> tuple[Value, ...]:
        """A tensor of several gates, split along its last axis into parts of so many gates each."""
        sizes = self.build.int64([count * self.hidden for count in gates])
        return self.build.nodes("Split", len(gates), value, sizes, axis=1)


# --- The formulas --------------------------------------------------------------------------------


def _lstm(terms: _Terms) -> list[Value]:
    """i, o, f, n: parts of x + h R; c' = f c + i n; h' = o tanh(c')."""
    (h, c), (gate, inner, outer) = terms.states, terms.functions
    i, o, f, n = terms.parts(terms.x + h.op("MatMul", terms.weights), 1, 1, 1, 1)
    cell = gate(f) * c + gate(i) * inner(n)
    return [gate(o) * outer(cell), cell]


def _gru(terms: _Terms) -> list[Value]:
    """z, r: parts of x + h R; n = tanh(x + (r h) R); h' = (1 - z) n + z h."""
    (h,), (gate, inner) = terms.states, terms.functions
    of_gates, of_inner = terms.parts(terms.weights, 2, 1)
    x_gates, x_inner = terms.parts(terms.x, 2, 1)
    z, r = terms.parts(gate(x_gates + h.op("MatMul", of_gates)), 1, 1)
    n = inner(x_inner + (r * h).op("MatMul", of_inner))
    return [(1 - z) * n + z * h]


def _gru_linear(terms: _Terms) -> list[Value]:
    """The same with n = tanh(x + r (h R + b)): `linear_before_reset`."""
    (h,), (gate, inner) = terms.states, terms.functions
    recurrent = h.op("MatMul", terms.weights)
    recurrent = recurrent if terms.bias is None else recurrent + terms.bias
    h_gates, h_inner = terms.parts(recurrent, 2, 1)
    x_gates, x_inner = terms.parts(terms.x, 2, 1)
    z, r = terms.parts(gate(x_gates + h_gates), 1, 1)
    n = inner(x_inner + r * h_inner)
    return [(1 - z) * n + z * h]


def _rnn(terms: _Terms) -> list[Value]:
    """h' = tanh(x + h R)."""
    (h,), (function,) = terms.states, terms.functions
    return [function(terms.x + h.op("MatMul", terms.weights))]


# --- The rules -----------------------------------------------------------------------------------


def lstm(step: Step) -> Gradients:
    """Back through i, o, f = sigmoid(...), c' = f c + i tanh(...), h' = o tanh(c')."""
    if step.attribute("input_forget", 0):
        raise step.unsupported("with input_forget 1")
    if step.has(PEEPHOLES):
        raise step.unsupported("with peepholes")
    return _back(step, _Cell(4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm))


def gru(step: Step) -> Gradients:
    """Back through z, r = sigmoid(...), n = tanh(x + r h R), h' = (1 - z) n + z h."""
    compute = _gru_linear if step.attribute("linear_before_reset", 0) else _gru
    return _back(step, _Cell(3, 1, ("Sigmoid", "Tanh"), compute))


def rnn(step: Step) -> Gradients:
    """Back through h' = tanh(x + h R)."""
    return _back(step, _Cell(1, 1, ("Tanh",), _rnn))


def _back(step: Step, cell: _Cell) -> Gradients:
    step.only(0, FIRST_H, FIRST_C)
    for name in ("clip", "layout"):
        if step.attribute(name, 0):
            raise step.unsupported(f"with {name} {step.attribute(name)}")
    reversals = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    directions = [
        _Direction(step, cell, number, backwards, functions)
        for (number, backwards), functions in zip(
            enumerate(reversals[step.text("direction", "forward")]),
            _activations(step, cell),
            strict=False,
        )
    ]
    found = [direction.gradients() for direction in directions]
    x = found[0][0]
    for other in found[1:]:
        x = x + other[0]
    one = step.build.int64([0])
    states = [
        step.build.node("Concat", *(each[1][i].op("Unsqueeze", one) for each in found), axis=0)
        for i in range(cell.states)
    ]
    padding: list[Value | None] = [None] * (FIRST_H - 1)
    return [x, *padding, *states]


class _Direction:
    """The gradients of one direction of an operator."""

    def __init__(
        self,
        step: Step,
        cell: _Cell,
        number: int,
        backwards: bool,
        functions: Sequence[Function],
    ) -> None:
        self._step, self._cell, self._build = step, cell, step.build
        self._number, self._backwards, self._functions = number, int(backwards), functions
        self._hidden = int(step.attribute("hidden_size"))
        self._width = cell.gates * self._hidden
        self._kernel = self._own(step.input(1))
        self._weights = self._own(step.input(2)).op("Transpose", perm=[1, 0])
        self._outside, self._inside = self._biases()
        self._mask = self._lengths()

    def _own(self, value: Value, axis: int = 0) -> Value:
        """This direction's part of a tensor."""
        return value.op("Gather", self._build.int64(self._number), axis=axis)

    def _biases(self) -> tuple[Value | None, Value | None]:
        """The bias outside of the steps, and the one inside, which only `linear_before_reset`
        has."""
        if not self._step.has(3):
            return None, None
        sizes = self._build.int64([self._width] * 2)
        of_x, of_h = self._build.nodes("Split", 2, self._own(self._step.input(3)), sizes, axis=0)
        return (of_x, of_h) if self._cell.compute is _gru_linear else (of_x + of_h, None)

    def _lengths(self) -> Value | None:
        """Whether a step is within its sequence, `(steps, rows, 1)`; `None` if all are."""
        if not self._step.has(LENGTHS):
            return None
        build = self._build
        count = build.sizes(self._step.x, [0]).op("Squeeze", build.int64([0]))
        steps = build.node("Range", build.int64(0), count, build.int64(1))
        lengths = self._step.input(LENGTHS).cast(TensorProto.INT64)
        within = steps.op("Unsqueeze", build.int64([-1])) < lengths
        return within.op("Unsqueeze", build.int64([-1]))

    def gradients(self) -> tuple[Value, list[Value]]:
        """Of X, and of the first states, `(rows, hidden)` each."""
        terms = self._step.x.op("MatMul", self._kernel.op("Transpose", perm=[1, 0]))
        terms = terms if self._outside is None else terms + self._outside
        sequences = [terms] if self._mask is None else [terms, self._mask]
        states = self._scan(self._forward(), self._first_states(), sequences, self._backwards)
        before = states[self._cell.states :]
        by_output = self._part(0, 1)
        more = [] if by_output is None else [by_output]
        found = self._scan(
            self._backward(by_output is not None),
            self._last_gradients(),
            [*before, *sequences, *more],
            1 - self._backwards,
        )
        return found[-1].op("MatMul", self._kernel), list(found[:-1])

    def _part(self, output: int, axis: int = 0) -> Value | None:
        """This direction's part of the gradient of an output; `None` if there is none."""
        gradients = self._step.gradients
        given = gradients[output] if output < len(gradients) else None
        return None if given is None else self._own(given, axis)

    def _first_states(self) -> list[Value]:
        step, build = self._step, self._build
        rows = build.size(step.x, 1)
        nothing = build.zeros(build.vector([rows, self._hidden]), step.x.dtype)
        inputs = (FIRST_H, FIRST_C)[: self._cell.states]
        return [self._own(step.input(i)) if step.has(i) else nothing for i in inputs]

    def _last_gradients(self) -> list[Value]:
        """The gradients of the states after the last step: of the outputs Y_h and Y_c."""
        given = [self._part(output) for output in range(1, 1 + self._cell.states)]
        some = next((one for one in (self._part(0, 1), *given) if one is not None), None)
        assert some is not None
        # There may be more rows than samples.
        shape = some.shape().op("Slice", self._build.int64([-2]), self._build.int64([2**31]))
        nothing = self._build.zeros(shape, some.dtype)
        return [nothing if one is None else one for one in given]

    # -- the bodies

    def _scan(
        self, body: onnx.GraphProto, states: Sequence[Value], sequences: Sequence[Value], back: int
    ) -> tuple[Value, ...]:
        """A Scan: the last states, and the sequences that its body makes."""
        made = len(body.output) - len(states)
        return self._build.nodes(
            "Scan",
            len(body.output),
            *states,
            *sequences,
            body=body,
            num_scan_inputs=len(sequences),
            scan_input_directions=[back] * len(sequences),
            scan_output_directions=[back] * made,
        )

    def _forward(self) -> onnx.GraphProto:
        """From the states before a step to those after it; also gives the former."""
        body = _Body(self._build, self._entries())
        states, _ = self._step_in(body)
        names = [f"state_{i}" for i in range(self._cell.states)]
        return body.graph([*states, *(body.value(name) for name in names)])

    def _backward(self, has_outputs: bool) -> onnx.GraphProto:
        """From the gradients of the states after a step to those before it, and of the terms."""
        count = self._cell.states
        names = [f"gradient_{i}" for i in range(count)]
        free = dict.fromkeys(names, (self._step.x.dtype, ("rows", self._hidden)))
        entries = {**free, **self._entries()}
        if has_outputs:
            entries["by_output"] = self._step.x.dtype, ("rows", self._hidden)
        body = _Body(self._build, entries)
        states, output = self._step_in(body)
        body.settle()
        seeds: dict[str, Value] = {}
        by_name = list(zip(states, map(body.value, names), strict=True))
        if has_outputs:
            by_name.append((output, body.value("by_output")))
        for value, seed in by_name:
            seeds[value.name] = seeds[value.name] + seed if value.name in seeds else seed
        targets = [body.value(f"state_{i}") for i in range(count)] + [body.value("terms")]
        found = self._step.differentiate(
            body.build, body.nodes, [target.name for target in targets], seeds
        )
        return body.graph([found[target.name] for target in targets])

    def _entries(self) -> dict[str, tuple[int, tuple[int | str, ...]]]:
        """The inputs of a body that computes a step, after the states' gradients: their dtypes and
        shapes."""
        dtype = self._step.x.dtype
        states = {f"state_{i}": (dtype, ("n", self._hidden)) for i in range(self._cell.states)}
        entries: dict[str, tuple[int, tuple[int | str, ...]]] = {
            **states,
            "terms": (dtype, ("n", self._width)),
        }
        if self._mask is not None:
            entries["within"] = TensorProto.BOOL, ("n", 1)
        return entries

    def _step_in(self, body: _Body) -> tuple[list[Value], Value]:
        """The states after a step and its output, computed in a body."""
        before = [body.value(f"state_{i}") for i in range(self._cell.states)]
        inside = self._inside
        terms = _Terms(
            body.build,
            self._hidden,
            body.value("terms"),
            before,
            body.captured(self._weights, (self._hidden, self._width)),
            None if inside is None else body.captured(inside, (self._width,)),
            self._functions,
        )
        states = self._cell.compute(terms)
        if self._mask is None:
            return states, states[0]
        within = body.value("within")
        kept = [within.where(new, old) for new, old in zip(states, before, strict=True)]
        return kept, within.where(states[0], 0.0)


class _Body:
    """The graph inside a Scan. It may read tensors of the graph around it."""

    def __init__(
        self, around: Builder, entries: Mapping[str, tuple[int, tuple[int | str, ...]]]
    ) -> None:
        """
        Args:
            around: writes the graph around it.
            entries: dtypes and shapes of the inputs, by name.
        """
        self._around = around
        self._names = {name: around.free_name(f"{around.prefix}{name}") for name in entries}
        opset = helper.make_opsetid("", around.opset)
        self._model = helper.make_model(
            helper.make_graph([], around.free_name(f"{around.prefix}body"), [], []),
            opset_imports=[opset],
        )
        for name, (dtype, shape) in entries.items():
            self._enter(self._names[name], dtype, shape)
        self._own = len(self._model.graph.input)
        self.build = around.inside(self._model)

    def _enter(self, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        kind = helper.make_tensor_value_info(name, dtype, shape)
        self._model.graph.input.append(kind)

    def value(self, name: str) -> Value:
        """An input."""
        return self.build.tensor(self._names[name])

    def captured(self, value: Value, shape: Sequence[int]) -> Value:
        """A tensor of the graph around it."""
        self._enter(value.name, value.dtype, shape)
        return Value(self.build, value.name, value.dtype)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        return list(self._model.graph.node)

    def settle(self) -> None:
        """Complete what was computed so far, so that it can be differentiated."""
        self.build.finish(whole=True)
        self.build = self._around.inside(self._model)

    def graph(self, results: Sequence[Value]) -> onnx.GraphProto:
        """The finished graph."""
        for index, value in enumerate(results):
            name = self.build.free_name(f"{self._around.prefix}result_{index}")
            self.build.output(value, name)
            kind = helper.make_tensor_value_info(name, value.dtype, None)
            self._model.graph.output.append(kind)
        self.build.finish()
        del self._model.graph.input[self._own :]
        return self._model.graph


# --- Activations ---------------------------------------------------------------------------------


def _activations(step: Step, cell: _Cell) -> Iterator[list[Function]]:
    """The activations of each direction."""
    given = [name.decode().lower() for name in step.attribute("activations", [])]
    names = given or [name.lower() for name in cell.activations] * 2
    # The operator takes the parameters in turn, for those activations that have some.
    alphas = iter(step.attribute("activation_alpha", []))
    betas = iter(step.attribute("activation_beta", []))
    functions: list[Function] = []
    for name in names:
        if name not in _FUNCTIONS:
            raise step.unsupported(f"with the activation {name!r}")
        function, defaults = _FUNCTIONS[name]
        rows = zip(("alpha", "beta"), (alphas, betas), strict=True)
        options = {key: next(row, defaults[key]) for key, row in rows if key in defaults}
        if None in options.values():
            raise step.unsupported(f"with the activation {name!r} without its parameters")
        functions.append(partial(function, **options))
    size = len(cell.activations)
    yield from (functions[at : at + size] for at in range(0, len(functions), size))


def _plain(op_type: str) -> Callable[..., Value]:
    def function(value: Value, **options: Any) -> Value:
        return value.op(op_type, **options)

    return function


def _affine(value: Value, alpha: float, beta: float) -> Value:
    return value * alpha + beta


def _scaled_tanh(value: Value, alpha: float, beta: float) -> Value:
    return (value * beta).op("Tanh") * alpha


_FUNCTIONS: Mapping[str, tuple[Callable[..., Value], Mapping[str, float | None]]] = {
    **{
        name.lower(): (_plain(name), {})
        for name in ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus")
    },
    "hardsigmoid": (_plain("HardSigmoid"), {"alpha": 0.2, "beta": 0.5}),
    "elu": (_plain("Elu"), {"alpha": 1.0}),
    "leakyrelu": (_plain("LeakyRelu"), {"alpha": 0.01}),
    "thresholdedrelu": (_plain("ThresholdedRelu"), {"alpha": None}),
    "affine": (_affine, {"alpha": None, "beta": None}),
    "scaledtanh": (_scaled_tanh, {"alpha": None, "beta": None}),
}
"""Each with the defaults of its parameters; `None` where onnxruntime's default is another than
ONNX's."""


RULES: Mapping[str, Rule] = {
    "LSTM": lstm,
    "GRU": gru,
    "RNN": rnn,
}
"""The rules of this theme, by operator."""
