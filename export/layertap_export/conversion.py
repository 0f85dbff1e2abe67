"""From a traced TensorFlow function to a raw ONNX graph, through tf2onnx with its traps disarmed.

tf2onnx's own optimisers are not used: with every layer an output they take time that grows with
the square of the network, and `layout.py` does in one pass what we need of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import onnx
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tf2onnx import tf_loader, tfonnx
from tf2onnx.graph import Graph
from tf2onnx.tfonnx import process_tf_graph

from .errors import ExportError, UnsupportedLayerError
from .operators import HANDLERS, REFUSED


@dataclass(frozen=True, eq=False)
class RawGraph:
    """What tf2onnx made of the function."""

    model: onnx.ModelProto
    """Inputs are called as asked; outputs stand in the function's order."""
    shapes: dict[str, tuple[int | None, ...]]
    """Shapes of tensors, as far as TensorFlow knew them."""


def to_onnx(
    function: Any,
    input_names: Sequence[str],
    opset: int,
    layers: Collection[str] = (),
    *,
    keep_pads: bool = False,
) -> RawGraph:
    """Convert a concrete function.

    Args:
        function: the concrete function; it returns a list of tensors.
        input_names: names for its inputs, in order.
        opset: ONNX opset, 13 to 18.
        layers: names of the model's layers, for messages.
        keep_pads: let each convolution read the padding before it as a layer of its own, which
            its gradient needs, instead of padding by itself.

    Raises:
        UnsupportedLayerError: an operation has no way into ONNX; the message names it and the
            layer that uses it.
    """
    graph_def, inputs, outputs = _frozen(function)
    _refuse(graph_def, layers)
    with (
        _quiet(),
        _linear_cleanup(),
        _kept_pads() if keep_pads else nullcontext(),
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
                custom_op_handlers=dict(HANDLERS),
            )
            converted.delete_unused_nodes(converted.outputs)
            converted.topological_sort(converted.get_nodes())
        except Exception as exc:
            raise ExportError(f"tf2onnx cannot convert this model: {exc}") from exc
        _check_operators(converted, layers)
        model = converted.make_model("layertap")
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
    frozen = convert_variables_to_constants_v2(
        function, lower_control_flow=False, aggressive_inlining=True
    )
    graph_def = frozen.graph.as_graph_def(add_shapes=True)
    for node in graph_def.node:
        if node.op == "Placeholder" and node.name in captures:
            value = captures[node.name].numpy()
            dtype = node.attr["dtype"].type
            node.op = "Const"
            node.ClearField("attr")
            node.attr["dtype"].type = dtype
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype, value.shape))
    graph_def = tf_loader.fix_freezing_errors_part2(graph_def)
    with tf.Graph().as_default():  # grappler wants no eager execution around it
        return tf_loader.tf_optimize(inputs, outputs, graph_def), inputs, outputs


def _refuse(graph_def: Any, layers: Collection[str]) -> None:
    nodes = [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]
    for node in nodes:
        if node.op in REFUSED:
            raise UnsupportedLayerError(
                f"layer {_layer_of(node.name, layers)!r} uses the TensorFlow operation {node.op}: "
                f"{REFUSED[node.op]}. Export a model that ends before it."
            )


def _check_operators(graph: Any, layers: Collection[str]) -> None:
    """What tf2onnx did not know it leaves in the graph under its TensorFlow name."""
    unknown = {
        node.type: _layer_of(node.name, layers)
        for node in graph.get_nodes()
        if not node.is_const()
        and not node.is_graph_input()
        and not onnx.defs.has(node.type, graph.opset, node.domain or "")
    }
    if unknown:
        listed = ", ".join(f"{op} (layer {layer!r})" for op, layer in sorted(unknown.items()))
        raise UnsupportedLayerError(
            f"ONNX has no way for these TensorFlow operations: {listed}. Export a model that ends "
            "before them."
        )


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
        graph.reset_nodes([node for node in graph.get_nodes() if node in used])

    Graph.delete_unused_nodes = delete_unused_nodes
    try:
        yield
    finally:
        Graph.delete_unused_nodes = original


@contextmanager
def _kept_pads() -> Iterator[None]:
    """Keep tf2onnx from taking a padding into the convolution that follows it."""
    original = tfonnx.rewrite_conv2d_with_pad
    tfonnx.rewrite_conv2d_with_pad = lambda graph, ops: ops
    try:
        yield
    finally:
        tfonnx.rewrite_conv2d_with_pad = original


@contextmanager
def _quiet() -> Iterator[None]:
    """tf2onnx logs what it leaves unconverted; `_check_operators` raises it instead."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
