"""From a traced TensorFlow function to a raw ONNX graph, through tf2onnx with its traps disarmed.

tf2onnx's own optimisers are not used: with every layer an output they take time that grows with
the square of the network, and `layout.py` does in one pass what we need of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import tensorflow as tf
from onnx import helper
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tf2onnx import tf_loader
from tf2onnx.graph import Graph
from tf2onnx.tfonnx import process_tf_graph

from .errors import ExportError, UnsupportedLayerError
from .number_types import widen
from .operators import handlers
from .operators.expressions import NoWayError
from .operators.fourier import COMPLEX_OPERATIONS
from .operators.lookup import DOMAIN, VERSION, Table
from .operators.reasons import RANDOM, way_out, why
from .pruning import bodies

UNKNOWN_TYPES: Mapping[int, str] = {
    **{
        dtype.as_datatype_enum: (
            "which onnxruntime does not compute. Work with real and imaginary parts in tensors of "
            "their own, or export a model that ends before it."
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
"""What to say of TensorFlow's types that cannot be exported, by their number."""


@dataclass(frozen=True, eq=False)
class RawGraph:
    """What tf2onnx made of the function."""

    model: onnx.ModelProto
    """Inputs are called as asked; outputs stand in the function's order."""
    shapes: dict[str, tuple[int | None, ...]]
    """Shapes of tensors, as far as TensorFlow knew them."""


def to_onnx(
    function: Any, input_names: Sequence[str], opset: int, layers: Collection[str] = ()
) -> RawGraph:
    """Convert a concrete function.

    Args:
        function: the concrete function; it returns a list of tensors.
        input_names: names for its inputs, in order.
        opset: ONNX opset, 13 to 18.
        layers: names of the model's layers, for messages.

    Raises:
        UnsupportedLayerError: an operation has no way into ONNX; the message names it and the
            layer that uses it.
    """
    _refuse_random(function, layers)
    graph_def, inputs, outputs = _frozen(function)
    _refuse_types(graph_def, layers)
    tables = _tables(function, graph_def)
    with (
        _failures() as failed,
        _linear_cleanup(),
        tf.device("/cpu:0"),
        tf.Graph().as_default() as graph,
    ):
        tf.import_graph_def(graph_def, name="")
        try:
            converted = process_tf_graph(
                graph,
                continue_on_error=True,  # so that all that is missing can be named at once
                opset=opset,
                input_names=inputs,
                output_names=outputs,
                tensors_to_rename=dict(zip(inputs, input_names, strict=True)),
                custom_op_handlers=handlers(tables),
                extra_opset=[helper.make_opsetid(DOMAIN, VERSION)],
            )
            converted.delete_unused_nodes(converted.outputs)
            converted.topological_sort(converted.get_nodes())
        except Exception as exc:
            _check_operators(failed, layers)
            raise ExportError(f"tf2onnx cannot convert this model: {exc}") from exc
        # Nodes of functions bear longer names where they are put in.
        present = [node.name for node in _all_nodes(converted)] if failed else []
        left = {k: v for k, v in failed.items() if any(name.endswith(k) for name in present)}
        _check_operators(left, layers)
        model = converted.make_model("layertap")
        _state_counters(model.graph)
        names = {name for node in converted.get_nodes() for name in node.output}
        shapes = {name: converted.get_shape(name) for name in names}
    return RawGraph(
        model,
        {
            name: tuple(None if size is None or size < 0 else size for size in shape)
            for name, shape in shapes.items()
            if shape is not None
        },
    )


def _frozen(function: Any) -> tuple[Any, list[str], list[str]]:
    """The function as a GraphDef without variables, and the names of its inputs and outputs.

    Keras's `Normalization` and others capture eager constants, which TensorFlow's freezing leaves
    as placeholders that nobody feeds: they become constants here.
    """
    captures = {
        inner.name.split(":")[0]: outer
        for outer, inner in function.graph.captures
        if inner.dtype not in (tf.resource, tf.variant)
    }
    inputs = [
        tensor.name
        for tensor in function.inputs
        if tensor.dtype != tf.resource and tensor.name.split(":")[0] not in captures
    ]
    outputs = [tensor.name for tensor in function.outputs]
    function.graph.clear_collection(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)  # it warns of them
    frozen = convert_variables_to_constants_v2(
        function, lower_control_flow=False, aggressive_inlining=True
    )
    graph_def = frozen.graph.as_graph_def(add_shapes=True)
    _keep_shapes(function, graph_def)
    for node in graph_def.node:
        if node.op == "Placeholder" and node.name in captures:
            value = captures[node.name].numpy()
            dtype = node.attr["dtype"].type
            node.op = "Const"
            node.ClearField("attr")
            node.attr["dtype"].type = dtype
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype, value.shape))
    graph_def = tf_loader.fix_freezing_errors_part2(graph_def)
    widen(graph_def)
    with tf.Graph().as_default():  # grappler wants no eager execution around it
        return tf_loader.tf_optimize(inputs, outputs, graph_def), inputs, outputs


def _keep_shapes(function: Any, graph_def: Any) -> None:
    """State the shapes of what lookup tables give, which TensorFlow can't infer from the graph."""
    for node in [node for node in graph_def.node if node.op == "LookupTableFindV2"]:
        shape = function.graph.get_tensor_by_name(f"{node.name}:0").shape
        found = graph_def.node.add()
        found.CopyFrom(node)
        found.name = f"{node.name}/found"
        dtype = node.attr["Tout"].type
        node.op, node.input[:] = "EnsureShape", [found.name]
        node.attr.clear()
        node.attr["T"].type = dtype
        node.attr["shape"].shape.CopyFrom(shape.as_proto())


def _refuse_random(function: Any, layers: Collection[str]) -> None:
    """Random numbers that the outputs depend on; most of what layers draw, inference ignores."""
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
                f"layer {_layer_of(operation.name, layers)!r} draws random numbers "
                f"({operation.type}) in inference too, so that nothing could be compared with "
                "Keras. Export a model that ends before it, or that takes them as an input."
            )


def _refuse_types(graph_def: Any, layers: Collection[str]) -> None:
    """Operations on numbers of a kind that ONNX, or onnxruntime, does not know."""
    nodes = [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]
    for node in nodes:
        types = {attribute.type for attribute in node.attr.values()}
        types.update(*(attribute.list.type for attribute in node.attr.values()))
        if node.op in COMPLEX_OPERATIONS:
            types -= {tf.complex64.as_datatype_enum, tf.complex128.as_datatype_enum}
        for number in types & UNKNOWN_TYPES.keys():
            raise UnsupportedLayerError(
                f"layer {_layer_of(node.name, layers)!r} uses the TensorFlow operation {node.op} "
                f"on numbers of type {tf.as_dtype(number).name}, {UNKNOWN_TYPES[number]}"
            )


def _tables(function: Any, graph_def: Any) -> dict[str, Table]:
    """The lookup tables that a function uses, by the name of the node that stands for each."""
    handles = {inner.name.partition(":")[0]: outer for outer, inner in function.graph.captures}
    nodes = [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]
    tables: dict[str, Table] = {}
    for node in nodes:
        if node.op == "LookupTableFindV2" and node.input[0] in handles:
            keys, values = tf.raw_ops.LookupTableExportV2(
                table_handle=handles[node.input[0]],
                Tkeys=node.attr["Tin"].type,
                Tvalues=node.attr["Tout"].type,
            )
            tables[node.input[0]] = (keys.numpy(), values.numpy())
    return tables


def _all_nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of the bodies in it."""
    for node in graph.get_nodes():
        yield node
        for body in (node.get_body_graphs() or {}).values():
            yield from _all_nodes(body)


def _check_operators(failed: Mapping[str, _Failure], layers: Collection[str]) -> None:
    """What tf2onnx did not know or could not convert it leaves in the graph as it was."""
    if not failed:
        return
    found = {
        (failure.operation, _layer_of(name, layers), failure.reason)
        for name, failure in failed.items()
    }
    listed = ", ".join(
        f"{operation} (layer {layer!r}{f': {reason}' if reason else ''})"
        for operation, layer, reason in sorted(found)
    )
    operations = [operation for operation, _, _ in found]
    sentences = [
        f"ONNX has no way for these TensorFlow operations: {listed}.",
        why(operations),
        way_out(operations),
    ]
    raise UnsupportedLayerError(" ".join(sentence for sentence in sentences if sentence))


def _layer_of(node_name: str, layers: Collection[str]) -> str:
    """The layer that made an operation: TensorFlow's scopes are model, layers, operation.

    TensorFlow numbers scopes that it sees again: `functional_1/conv1_1/convolution` -> `conv1`.
    """
    scopes = node_name.split("__")[0].split("/")[1:-1]
    found = ""
    for scope in scopes:
        inside = f"{found}/" if found else ""
        known = [inside + name for name in (scope, re.sub(r"_\d+$", "", scope))]
        found = next((name for name in known if name in layers), found)
    return found or "/".join(scopes) or node_name


def _state_counters(graph: onnx.GraphProto) -> None:
    """Say that a loop's counter and condition are scalars, which onnxruntime wants to read."""
    for node in graph.node:
        for body in bodies(node):
            for value in body.input[:2] if node.op_type == "Loop" else ():
                value.type.tensor_type.shape.SetInParent()
            _state_counters(body)


@contextmanager
def _linear_cleanup() -> Iterator[None]:
    """Let tf2onnx find what is used in one walk from all outputs, not in one walk per output."""
    original = Graph.delete_unused_nodes

    def delete_unused_nodes(graph: Any, outputs: Sequence[str]) -> None:
        if not outputs:
            return
        wanted = [*outputs, *(node.output[0] for node in graph.inputs)]
        used: set[Any] = set()
        while wanted:
            node = graph.get_node_by_output(wanted.pop(), search_in_parent_graphs=False)
            if node is not None and node not in used:
                used.add(node)
                wanted += [*node.input, *node.get_implicit_inputs()]
        for node in used:
            for body in (node.get_body_graphs() or {}).values():
                body.delete_unused_nodes(body.outputs)
        # tf2onnx enters some nodes twice (Gemm in the body of a loop).
        graph.reset_nodes([node for node in dict.fromkeys(graph.get_nodes()) if node in used])

    Graph.delete_unused_nodes = delete_unused_nodes
    try:
        yield
    finally:
        Graph.delete_unused_nodes = original


@dataclass(frozen=True)
class _Failure:
    """A TensorFlow operation that stays in the graph."""

    operation: str
    reason: str
    """Why, if it is one that can be converted elsewhere."""


class _Listener(logging.Handler):
    """Hears from tf2onnx's log what it could not convert."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.failed: dict[str, _Failure] = {}
        """By the name of the node."""

    def emit(self, record: logging.LogRecord) -> None:
        if not isinstance(record.args, tuple):
            return
        if record.msg.startswith("Tensorflow op ["):
            name, operation = record.args
            self.failed.setdefault(str(name), _Failure(str(operation), ""))
        elif record.msg.startswith("Failed to convert node") and record.exc_info:
            name, _, summary = record.args
            kind = re.match(r"OP=(\w+)", str(summary))
            exc = record.exc_info[1]
            reason = str(exc) if isinstance(exc, NoWayError) else "not as it is used here"
            self.failed[str(name)] = _Failure(kind[1] if kind else "While", reason)


@contextmanager
def _failures() -> Iterator[dict[str, _Failure]]:
    """Collect what tf2onnx logs of its failures; `_check_operators` raises it. Print nothing."""
    logger = logging.getLogger("tf2onnx")
    listener = _Listener()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.addHandler(listener)
    try:
        yield listener.failed
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate
