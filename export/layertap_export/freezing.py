"""From a traced function to a TensorFlow graph without variables, as tf2onnx takes it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tf2onnx import tf_loader

from .number_types import widen
from .operators.lookup import Table


def frozen(function: Any) -> tuple[Any, list[str], list[str]]:
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
    constant = convert_variables_to_constants_v2(
        function, lower_control_flow=False, aggressive_inlining=True
    )
    graph_def = constant.graph.as_graph_def(add_shapes=True)
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


def lookup_tables(function: Any, graph_def: Any) -> dict[str, Table]:
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
