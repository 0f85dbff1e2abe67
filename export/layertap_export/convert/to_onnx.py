"""From a traced TensorFlow function to a raw ONNX graph, through tf2onnx with its traps disarmed.

tf2onnx's own optimisers are not used: with every layer an output they take time that grows with
the square of the network, and the passes of `graph.passes` do what we need of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import onnx
import tensorflow as tf
from onnx import helper
from tf2onnx import tfonnx
from tf2onnx.graph import Graph
from tf2onnx.tfonnx import process_tf_graph

from layertap_export.errors import ExportError
from layertap_export.graph.constant_folding import weights_to_initializers
from layertap_export.graph.graph import bodies
from layertap_export.graph.weights import Initializers
from layertap_export.keras_model.recording import SCOPE
from layertap_export.keras_model.wrapping import wrapped

from .freezing import freeze, lookup_tables
from .tf_ops import handlers
from .tf_ops.convolution import pad_same
from .tf_ops.lookup import DOMAIN, VERSION
from .unsupported import (
    check_operators,
    failures,
    refuse_changes,
    refuse_effects,
    refuse_random,
    refuse_types,
    refuse_unknown,
)


@dataclass(frozen=True, eq=False)
class RawGraph:
    """What tf2onnx made of the function."""

    model: onnx.ModelProto
    """Inputs are called as asked; outputs stand in the function's order."""
    shapes: dict[str, tuple[int | None, ...]]
    """Shapes of tensors, as far as TensorFlow knew them."""
    initializers: Initializers
    """The values of the model's initializers; the large ones are not in it."""


def to_onnx(
    function: Any,
    input_names: Sequence[str],
    opset: int,
    layers: Mapping[str, str] | None = None,
    *,
    keep_pads: bool = False,
) -> RawGraph:
    """Convert a concrete function.

    Args:
        function: the concrete function; it returns a list of tensors.
        input_names: names for its inputs, in order.
        opset: ONNX opset, 13 to 18.
        layers: names of the model's layers by the scopes of their operations, for messages.
        keep_pads: let each convolution read the padding before it as a layer of its own, which
            its gradient needs, instead of padding by itself.

    Raises:
        UnsupportedLayerError: an operation cannot be converted to ONNX; the message names it and
            the layer that uses it.
    """

    def layer_of(node_name: str) -> str:
        return _layer_of(node_name, layers or {})

    refuse_changes(function, layer_of)
    refuse_effects(function, layer_of)
    refuse_random(function, layer_of)
    frozen = freeze(function)
    refuse_types(frozen.graph_def, layer_of)
    tables = lookup_tables(function, frozen.graph_def)
    weights = {name: f"weight/{i}" for i, name in enumerate(frozen.weights)}
    with (
        failures() as failed,
        wrapped(Graph, "delete_unused_nodes", _cleaned_up),
        wrapped(Graph, "replace_all_inputs", _replaced),
        # It writes EyeLike, which onnxruntime does not have for truth values.
        wrapped(tfonnx, "rewrite_eye", lambda _, graph, operations: graph.get_nodes()),
        _kept_pads() if keep_pads else nullcontext(),
        tf.device("/cpu:0"),
        tf.Graph().as_default() as graph,
    ):
        tf.import_graph_def(frozen.graph_def, name="")
        try:
            converted = process_tf_graph(
                graph,
                continue_on_error=True,  # so that all that is missing can be named at once
                opset=opset,
                input_names=[*frozen.inputs, *weights],
                output_names=frozen.outputs,
                tensors_to_rename=dict(zip(frozen.inputs, input_names, strict=True)) | weights,
                custom_op_handlers=handlers(tables),
                custom_rewriter=[pad_same],
                extra_opset=[helper.make_opsetid(DOMAIN, VERSION)],
            )
            converted.delete_unused_nodes(converted.outputs)
            converted.topological_sort(converted.get_nodes())
        except Exception as exc:
            check_operators(failed, layer_of)
            raise ExportError(f"tf2onnx cannot convert this model: {exc}") from exc
        # Nodes of functions bear longer names where they are put in.
        present = [node.name for node in _all_nodes(converted)] if failed else []
        left = {k: v for k, v in failed.items() if any(name.endswith(k) for name in present)}
        check_operators(left, layer_of)
        model = converted.make_model("layertap")
        refuse_unknown(model.graph, layer_of)
        _state_counters(model.graph)
        names = {name for node in converted.get_nodes() for name in node.output}
        shapes = {name: converted.get_shape(name) for name in names}
    initializers = Initializers()
    values = {weights[name]: value for name, value in frozen.weights.items()}
    weights_to_initializers(model, values, initializers)
    return RawGraph(
        model,
        {
            name: tuple(None if size is None or size < 0 else size for size in shape)
            for name, shape in shapes.items()
            if shape is not None
        },
        initializers,
    )


def _all_nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of the bodies in it."""
    for node in graph.get_nodes():
        yield node
        for body in (node.get_body_graphs() or {}).values():
            yield from _all_nodes(body)


def _layer_of(node_name: str, layers: Mapping[str, str]) -> str:
    """The innermost layer that made an operation."""
    scopes = [scope for scope in re.findall(rf"{SCOPE}\d+", node_name) if scope in layers]
    return layers[scopes[-1]] if scopes else node_name


def _state_counters(graph: onnx.GraphProto) -> None:
    """Say that a loop's counter and condition are scalars, which onnxruntime wants to read."""
    for node in graph.node:
        for body in bodies(node):
            for value in body.input[:2] if node.op_type == "Loop" else ():
                value.type.tensor_type.shape.SetInParent()
            _state_counters(body)


def _cleaned_up(original: Any, graph: Any, outputs: Sequence[str]) -> None:
    """Find what is used in one walk from all outputs; tf2onnx makes one walk per output."""
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
    # tf2onnx lists some nodes of loops twice, where it makes a Gemm.
    graph.reset_nodes([*dict.fromkeys(node for node in graph.get_nodes() if node in used)])


def _replaced(
    original: Any, graph: Any, old: str, new: str, ops: Sequence[Any] | None = None
) -> None:
    """Let nodes read another tensor; of the nodes that are given, those that read the old one.

    tf2onnx notes all of them as readers of the new tensor, and later goes through all of these.
    """
    original(graph, old, new, None if ops is None else [node for node in ops if old in node.input])


def _kept_pads() -> AbstractContextManager[None]:
    """Keep tf2onnx from taking a padding into the convolution that follows it."""
    return wrapped(tfonnx, "rewrite_conv2d_with_pad", lambda original, graph, ops: ops)
