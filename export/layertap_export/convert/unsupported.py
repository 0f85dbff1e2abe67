"""Operations that cannot be converted to ONNX, with the layer that uses them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import tensorflow as tf

from layertap_export.errors import UnsupportedLayerError
from layertap_export.graph.graph import bodies
from layertap_export.keras_model.effects import effect_of
from layertap_export.keras_model.recurrence import OPERATION, Recurrence
from layertap_export.keras_model.wrapping import setting

from .dtypes import nodes_of
from .tf_ops.expressions import UnsupportedUseError
from .tf_ops.fourier import COMPLEX_OPERATIONS
from .tf_ops.reasons import RANDOM, explanation, workaround

UNKNOWN_TYPES: Mapping[int, str] = {
    **{
        dtype.as_datatype_enum: (
            "which onnxruntime does not compute. Work with real and imaginary parts in separate "
            "tensors, or export a model that ends before it."
        )
        for dtype in (tf.complex64, tf.complex128)
    },
    **{
        dtype.as_datatype_enum: (
            "which ONNX does not have before opset 19. Export a model of another dtype policy, or "
            "one that ends before it."
        )
        for dtype in (tf.dtypes.experimental.float8_e4m3fn, tf.dtypes.experimental.float8_e5m2)
    },
}
"""Why TensorFlow's types cannot be exported, by their number."""


def refuse_changes(function: Any, layer_of: Callable[[str], str]) -> None:
    """Raise if the model changes a `tf.Variable`. Keras's own changes are not in the trace."""
    for node in nodes_of(function.graph.as_graph_def()):
        if node.op.startswith("Assign"):
            raise UnsupportedLayerError(
                f"layer {layer_of(node.name)!r} changes a tf.Variable while it runs, which an ONNX "
                "file cannot. Make it a weight of the layer with add_weight (its changes are "
                "ignored), or change it only in training."
            )


def refuse_effects(function: Any, layer_of: Callable[[str], str]) -> None:
    """Raise if the model reaches files, the network or Python, which a file cannot.

    If nothing reads the result of such an operation, the conversion would leave it out.
    """
    for node in nodes_of(function.graph.as_graph_def()):
        if node.op == OPERATION and Recurrence.from_token(
            node.attr["token"].s.decode("utf-8", "replace")
        ):
            continue  # our own, which stands for a recurrent layer
        stream = node.attr["output_stream"].s.decode("utf-8", "replace")
        effect = effect_of(node.op, stream if node.op == "PrintV2" else "")
        if effect:
            raise UnsupportedLayerError(
                f"layer {layer_of(node.name)!r} {effect} (the TensorFlow operation {node.op}), "
                "which an ONNX file cannot. Export a model without this layer, or one that ends "
                "before it."
            )


def refuse_random(function: Any, layer_of: Callable[[str], str]) -> None:
    """Raise if the outputs depend on random numbers; most layers draw them only in training."""
    seen: set[str] = set()
    waiting = [tensor.op for tensor in function.outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        waiting += [tensor.op for tensor in operation.inputs]
        if operation.type in RANDOM:
            raise UnsupportedLayerError(
                f"layer {layer_of(operation.name)!r} draws random numbers "
                f"({operation.type}) in inference too, so its results cannot be compared with "
                "Keras. Export a model that ends before it, or that takes the random numbers as an "
                "input."
            )


def refuse_types(graph_def: Any, layer_of: Callable[[str], str]) -> None:
    """Raise for operations on number types that ONNX or onnxruntime does not support."""
    for node in nodes_of(graph_def):
        types = {attribute.type for attribute in node.attr.values()}
        types.update(*(attribute.list.type for attribute in node.attr.values()))
        if node.op in COMPLEX_OPERATIONS:
            types -= {tf.complex64.as_datatype_enum, tf.complex128.as_datatype_enum}
        for number in types & UNKNOWN_TYPES.keys():
            raise UnsupportedLayerError(
                f"layer {layer_of(node.name)!r} uses the TensorFlow operation {node.op} "
                f"on numbers of type {tf.as_dtype(number).name}, {UNKNOWN_TYPES[number]}"
            )


def check_operators(failed: Mapping[str, Failure], layer_of: Callable[[str], str]) -> None:
    """Raise for operations that tf2onnx left in the graph, because it could not convert them."""
    if not failed:
        return
    found = {
        (failure.operation, layer_of(name), failure.reason) for name, failure in failed.items()
    }
    listed = ", ".join(
        f"{operation} (layer {layer!r}{f': {reason}' if reason else ''})"
        for operation, layer, reason in sorted(found)
    )
    operations = [operation for operation, _, _ in found]
    sentences = [
        f"these TensorFlow operations cannot be converted to ONNX: {listed}.",
        explanation(operations),
        workaround(operations),
    ]
    raise UnsupportedLayerError(" ".join(sentence for sentence in sentences if sentence))


def refuse_unknown(graph: onnx.GraphProto, layer_of: Callable[[str], str]) -> None:
    """Raise for operations that tf2onnx left in a graph without saying so, as in some loops."""
    failed: dict[str, Failure] = {}
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            waiting += bodies(node)
            if not onnx.defs.has(node.op_type, node.domain):
                failed[node.name] = Failure(node.op_type, "")
    check_operators(failed, layer_of)


@dataclass(frozen=True)
class Failure:
    """A TensorFlow operation that stays in the graph."""

    operation: str
    reason: str
    """Why, if it is one that can be converted elsewhere."""


class _Listener(logging.Handler):
    """Collects from tf2onnx's log the operations that it could not convert."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.failed: dict[str, Failure] = {}
        """By the name of the node."""

    def emit(self, record: logging.LogRecord) -> None:
        if not isinstance(record.args, tuple):
            return
        if record.msg.startswith("Tensorflow op ["):
            name, operation = record.args
            self.failed.setdefault(str(name), Failure(str(operation), ""))
        elif record.msg.startswith("Failed to convert node") and record.exc_info:
            name, _, summary = record.args
            op_type = re.match(r"OP=(\w+)", str(summary))
            exc = record.exc_info[1]
            reason = str(exc) if isinstance(exc, UnsupportedUseError) else "not as it is used here"
            self.failed[str(name)] = Failure(op_type[1] if op_type else "While", reason)


@contextmanager
def failures() -> Iterator[dict[str, Failure]]:
    """Collect what tf2onnx logs of its failures; `check_operators` raises it. Print nothing."""
    logger = logging.getLogger("tf2onnx")
    listener = _Listener()

    def configure(state: tuple[int, bool]) -> None:
        level, logger.propagate = state
        logger.setLevel(level)

    with setting(
        lambda: (logger.level, logger.propagate), configure, lambda before: (logging.ERROR, False)
    ):
        logger.addHandler(listener)
        try:
            yield listener.failed
        finally:
            logger.removeHandler(listener)
