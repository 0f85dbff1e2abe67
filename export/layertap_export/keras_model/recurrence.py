"""Recurrent layers as one operation each, while a model is traced for conversion.

Keras runs a recurrent layer as a loop over the steps, from which tf2onnx makes an ONNX Loop for all
but the simplest layers. ONNX has operators for them (LSTM, GRU, RNN). So while a model is traced,
the loop of such a layer is replaced by one TensorFlow operation that holds what the operator needs,
and `convert.tf_ops.recurrent` makes the operator out of it. TensorFlow cannot run that operation:
the reference that a file is compared with is traced with Keras's own loop.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf

from .families import loaded
from .wrapping import wrapped

OPERATION = "PyFuncStateless"
"""The TensorFlow operation that stands for a recurrent layer: it takes and gives any tensors."""

PREFIX = "layertap recurrence "
"""What its attribute `token` begins with; the rest is a `Recurrence` as JSON."""

STATES: Mapping[str, int] = {"LSTM": 2, "GRU": 1, "RNN": 1}
"""The number of states by ONNX operator."""


@dataclass(frozen=True)
class Activation:
    """An activation function as ONNX's recurrent operators know it."""

    name: str
    alpha: float | None = None
    beta: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """One recurrent layer, or one cell of stacked ones.

    The operation's inputs are the sequence `(n, time, features)`, the kernel, the recurrent kernel,
    and where they are given the bias, the mask `(n, time)` and the states `(n, units)`. Its outputs
    are the outputs of all steps `(n, time, units)` in the order of the input's steps, the output of
    the step that was computed last `(n, units)`, and the states after it.
    """

    operator: str
    """`LSTM`, `GRU` or `RNN`."""
    activations: tuple[Activation, ...]
    """Of the gates first, in ONNX's order."""
    backwards: bool
    reset_after: bool
    """Whether a GRU applies its reset gate after the product (`linear_before_reset`)."""
    zero_output_for_mask: bool
    has_bias: bool
    has_mask: bool
    has_states: bool

    def to_token(self) -> str:
        """As the operation's attribute."""
        return PREFIX + json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_token(cls, token: str) -> Recurrence | None:
        """From the operation's attribute; `None` for another operation of this type."""
        if not token.startswith(PREFIX):
            return None
        fields = json.loads(token.removeprefix(PREFIX))
        fields["activations"] = tuple(Activation(**item) for item in fields["activations"])
        return cls(**fields)


@dataclass(frozen=True)
class Loop:
    """A recurrent layer that stays a loop."""

    layer: Any
    reason: str
    """Why there is no operator for it, as the end of a sentence."""


class _NoOperatorError(Exception):
    """A recurrent layer has no operator; the message says why."""


@contextmanager
def recurrent_operators(replaced: list[Any], loops: list[Loop]) -> Iterator[None]:
    """Trace recurrent layers as one operation each in this block.

    Layers with `unroll=True` are left as they are: each of their steps is a layer call that can be
    read. What no operator computes stays a loop.

    Args:
        replaced: collects the layers that became an operation.
        loops: collects those that stayed loops.
    """
    running: list[Any] = []
    """The layer whose loop comes next."""

    def entered(original: Callable[..., Any], layer: Any, *args: Any, **kwargs: Any) -> Any:
        running[:] = [layer]
        return original(layer, *args, **kwargs)

    def rnn(
        original: Callable[..., Any],
        step_function: Callable[..., Any],
        inputs: Any,
        initial_states: Any,
        go_backwards: bool = False,
        mask: Any = None,
        constants: Any = None,
        unroll: bool = False,
        input_length: Any = None,
        time_major: bool = False,
        zero_output_for_mask: bool = False,
        return_all_outputs: bool = True,
    ) -> Any:
        """`backend.rnn`, with the signature that both families give it."""

        def loop() -> Any:
            return original(
                step_function,
                inputs,
                initial_states,
                go_backwards=go_backwards,
                mask=mask,
                constants=constants,
                unroll=unroll,
                input_length=input_length,
                time_major=time_major,
                zero_output_for_mask=zero_output_for_mask,
                return_all_outputs=return_all_outputs,
            )

        layer = running.pop() if running else None
        if layer is None or unroll:
            return loop()
        try:
            if not _is_of_library(step_function):
                raise _NoOperatorError("its class has its own steps")
            cells = _cells(layer.cell)
            if constants or not tf.is_tensor(inputs) or inputs.shape.rank != 3:
                raise _NoOperatorError("its input is not one sequence of vectors")
            if tf.is_tensor(input_length):
                raise _NoOperatorError("its input is ragged")
        except _NoOperatorError as exc:
            loops.append(Loop(layer, str(exc)))
            return loop()
        if time_major:
            inputs = tf.transpose(inputs, (1, 0, 2))
            mask = mask if mask is None else tf.transpose(mask, (1, 0, *range(2, mask.shape.rank)))
        # Keras calls the cell once before the loop too; the call is recorded.
        first, _ = step_function(inputs[:, 0], tuple(initial_states))
        if any(cell.is_random(first) for cell in cells):  # `training=True`, which is refused later
            return loop()
        replaced.append(layer)
        states = tf.nest.flatten(initial_states)
        sequence: Any = inputs
        last: Any = None
        new_states: list[Any] = []
        mask = _plain(mask, inputs)
        for cell in cells:
            sequence, last, after = cell.run(
                sequence,
                mask,
                [states.pop(0) for _ in range(STATES[cell.operator])],
                backwards=go_backwards,
                zero_output_for_mask=zero_output_for_mask and cell is cells[-1],
            )
            new_states += after
        if not return_all_outputs:
            sequence = last[:, None]
        elif go_backwards:
            sequence = tf.reverse(sequence, [1])
        if time_major:
            sequence = tf.transpose(sequence, (1, 0, 2))
        return last, sequence, tf.nest.pack_sequence_as(tuple(initial_states), new_states)

    with ExitStack() as wrappings:
        for family in loaded():
            # Not `call`, whose arguments Keras 2 inspects.
            cls = family.layers.RNN
            name = next(name for name in _BEFORE_LOOP if hasattr(cls, name))
            wrappings.enter_context(wrapped(cls, name, entered))
            backend = sys.modules[f"{family.__name__}.src.backend"]
            wrappings.enter_context(wrapped(backend, "rnn", rnn))
        yield


_BEFORE_LOOP = ("_maybe_config_dropout_masks", "_process_inputs")
"""A method that each recurrent layer runs before its loop: of Keras 3, and of Keras 2."""


def _is_of_library(function: Any) -> bool:
    """Whether this is code of Keras itself."""
    names = {family.__name__ for family in loaded()}
    return (getattr(function, "__module__", None) or "").partition(".")[0] in names


@dataclass(frozen=True, eq=False)
class _Cell:
    """A cell of Keras that one of ONNX's operators computes."""

    cell: Any
    operator: str
    activations: tuple[Activation, ...]

    def is_random(self, output: Any) -> bool:
        """Whether an output depends on random numbers."""
        if not (getattr(self.cell, "dropout", 0) or getattr(self.cell, "recurrent_dropout", 0)):
            return False
        seen: set[str] = set()
        waiting = [output.op]
        while waiting:
            operation = waiting.pop()
            if operation.name not in seen:
                seen.add(operation.name)
                waiting += [tensor.op for tensor in operation.inputs]
                if "Random" in operation.type:
                    return True
        return False

    def run(
        self,
        sequence: Any,
        mask: Any,
        states: Sequence[Any],
        *,
        backwards: bool,
        zero_output_for_mask: bool,
    ) -> tuple[Any, Any, list[Any]]:
        """The outputs of all steps, the output of the last one, and the states after it."""
        dtype = states[0].dtype
        bias = self.cell.bias if self.cell.use_bias else None
        given = not all(map(_is_zero, states))
        weights = [x for x in (self.cell.kernel, self.cell.recurrent_kernel, bias) if x is not None]
        recurrence = Recurrence(
            operator=self.operator,
            activations=self.activations,
            backwards=backwards,
            reset_after=bool(getattr(self.cell, "reset_after", False)),
            zero_output_for_mask=zero_output_for_mask,
            has_bias=bias is not None,
            has_mask=mask is not None,
            has_states=given,
        )
        results = tf.raw_ops.PyFuncStateless(
            input=[
                *(tf.cast(tf.convert_to_tensor(x), dtype) for x in (sequence, *weights)),
                *([] if mask is None else [mask]),
                *(states if given else []),
            ],
            token=recurrence.to_token(),
            Tout=[dtype] * (2 + len(states)),
        )
        units = self.cell.units
        outputs, *rest = results
        outputs = tf.ensure_shape(outputs, (*sequence.shape[:2], units))
        last, *after = [tf.ensure_shape(x, (sequence.shape[0], units)) for x in rest]
        return outputs, last, after


def _cells(cell: Any) -> list[_Cell]:
    """The cells of a layer, in the order in which a step goes through them."""
    if _is_plain(cell, "StackedRNNCells"):
        if getattr(cell, "reverse_state_order", False):
            raise _NoOperatorError("its states are in reverse order")
        return [inner for part in cell.cells for inner in _cells(part)]
    for name, operator in (("LSTMCell", "LSTM"), ("GRUCell", "GRU"), ("SimpleRNNCell", "RNN")):
        if _is_plain(cell, name):
            gates = [] if operator == "RNN" else [cell.recurrent_activation]
            functions = [*gates, cell.activation, *([cell.activation] * (operator == "LSTM"))]
            return [_Cell(cell, operator, tuple(map(_activation, functions)))]
    raise _NoOperatorError(f"ONNX has no operator for the cell {type(cell).__name__!r}")


def _is_plain(cell: Any, name: str) -> bool:
    """Whether a cell is of a class of Keras, and no subclass has changed what it computes."""
    return any(
        isinstance(cell, cls) and all(_code(type(cell), key) is _code(cls, key) for key in _CODE)
        for cls in (getattr(family.layers, name) for family in loaded())
    )


_CODE = ("call", "_compute_carry_and_output", "_compute_carry_and_output_fused")
"""The methods that compute a step."""


def _code(cls: type, name: str) -> Any:
    return getattr(cls, name, None)


def _activation(function: Any) -> Activation:
    """ONNX's activation for a function of Keras or TensorFlow."""
    for family in loaded():
        for name, activation in _ACTIVATIONS.items():
            if function is getattr(family.activations, name, None):
                if name == "hard_sigmoid" and family.__name__ == "tf_keras":
                    return Activation("HardSigmoid", 0.2, 0.5)
                return activation
    import keras

    for name in ("tanh", "sigmoid", "relu", "softsign", "elu", "leaky_relu"):
        known = (getattr(owner, name, None) for owner in (keras.ops, tf.nn, tf, tf.math))
        if any(function is item for item in known):
            return _ACTIVATIONS[name]
    name = getattr(function, "__name__", type(function).__name__)
    if name == "softplus":  # log(1 + exp(x)): 0 below -17, infinite from 89 on
        raise _NoOperatorError(
            "onnxruntime's operators lose the digits of the activation 'softplus'"
        )
    raise _NoOperatorError(f"ONNX's operators do not have the activation {name!r}")


_ACTIVATIONS: Mapping[str, Activation] = {
    "tanh": Activation("Tanh"),
    "sigmoid": Activation("Sigmoid"),
    "relu": Activation("Relu"),
    "linear": Activation("Affine", 1.0, 0.0),
    "hard_sigmoid": Activation("HardSigmoid", 1 / 6, 0.5),
    "elu": Activation("Elu", 1.0),
    "leaky_relu": Activation("LeakyRelu", 0.2),
    "softsign": Activation("Softsign"),
}
"""ONNX's activations by the names of Keras 3's functions."""


def _is_zero(state: Any) -> bool:
    """Whether a tensor is known to hold zeros only, as the state before the first step does."""
    operation = state.op if hasattr(state, "op") else None
    if operation is None:
        return False
    if operation.type in ("Cast", "Identity"):
        return _is_zero(operation.inputs[0])
    value = tf.get_static_value(operation.inputs[1] if operation.type == "Fill" else state)
    return operation.type == "ZerosLike" or (value is not None and not value.any())


def _plain(mask: Any, inputs: Any) -> Any:
    """A mask as bool of `(n, time)`; `None` if there is none."""
    if mask is None:
        return None
    mask = tf.cast(mask, tf.bool)
    if mask.shape.rank == 3:
        mask = mask[:, :, 0]
    return tf.broadcast_to(mask, tf.shape(inputs)[:2]) if mask.shape[0] == 1 else mask
