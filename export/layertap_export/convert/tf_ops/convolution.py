"""Convolutions that tf2onnx converts incorrectly."""

from __future__ import annotations

from typing import Any

import numpy as np
from tf2onnx.onnx_opset.nn import ConvOp

from .expressions import UnsupportedUseError, Value, attribute, replace_node
from .windows import same_pads, skips, spatial

FORWARD = ("Conv2D", "DepthwiseConv2dNative", "Conv3D")
"""The operations that are convolutions and no gradients of one."""


def pad_same(graph: Any, nodes: Any) -> Any:
    """Pad the inputs of convolutions with padding `same` themselves, where the strides are larger
    than the kernel and the sizes free: ONNX's own rule gives negative sizes there.

    tf2onnx calls this before it converts the operations of a graph.
    """
    for node in nodes:
        if node.type in FORWARD and attribute(node, "padding") == "SAME":
            _pad(graph, node)
    return graph.get_nodes()


def _pad(graph: Any, node: Any) -> None:
    """Pad the input of a convolution with `same_pads`, where that is needed."""
    channels_last = attribute(node, "data_format").endswith("C")
    strides, dilations = (
        spatial(attribute(node, x), channels_last) for x in ("strides", "dilations")
    )
    kernel = graph.get_shape(node.input[1])[: len(strides)]
    extents = (np.subtract(kernel, 1) * dilations + 1).tolist()
    if min(kernel) < 1 or not skips(graph, node, channels_last, extents, strides):
        return
    x = Value(graph, node.input[0])
    rank, shape = x.rank, graph.get_shape(x.name)
    x = x.transpose(0, rank - 1, *range(1, rank - 1)) if channels_last else x
    x = x.op("Pad", same_pads(x, extents, strides))
    x = x.transpose(0, *range(2, rank), 1) if channels_last else x
    axes = range(1, rank - 1) if channels_last else range(2, rank)
    graph.set_shape(x.name, [-1 if axis in axes else size for axis, size in enumerate(shape)])
    graph.replace_input(node, node.input[0], x.name, 0)
    node.set_attr("padding", "VALID")


def conv3d(graph: Any, node: Any, name: str, args: Any) -> None:
    """A 3D convolution with groups; tf2onnx sets the number of groups in 2D only."""
    channels_last = attribute(node, "data_format").endswith("C")
    channels = graph.get_shape(node.input[0])[-1 if channels_last else 1]
    channels_per_group = graph.get_shape(node.input[1])[-2]
    ConvOp.any_version(graph.opset, graph, node)
    if channels > 0:
        node.set_attr("group", channels // channels_per_group)


def transposed(graph: Any, node: Any, name: str, args: Any) -> None:
    """A transposed convolution (the gradient of a convolution) with an output of a given size.

    Each input value contributes to a patch of the output; overlapping patches are summed. The
    unpadded output has the size stride (size - 1) + dilation (kernel - 1) + 1. With padding `same`,
    a surplus is cut off, half of it (rounded down) at the start; missing elements are zeros at the
    end.
    """
    channels_last = attribute(node, "data_format").endswith("C")
    padding = attribute(node, "padding")
    output_shape = graph.get_shape(node.output[0])
    strides, dilations = (
        spatial(attribute(node, x), channels_last) for x in ("strides", "dilations")
    )
    if padding == "EXPLICIT":
        raise UnsupportedUseError("a transposed convolution with explicit padding is not supported")

    def build(size: Value, kernel: Value, x: Value, *bias: Value) -> Value:  # tf2onnx joins a bias
        rank = x.rank
        x = x.transpose(0, rank - 1, *range(1, rank - 1)) if channels_last else x
        kernel = kernel.transpose(rank - 1, rank - 2, *range(rank - 2))
        extents = np.subtract(_static_shape(kernel)[2:], 1) * dilations + 1
        attributes = {"strides": strides, "dilations": dilations}
        output_size = spatial(output_shape, channels_last)
        input_size = [-1 if n is None else n for n in (x.shape or ())[2:]]
        if min(*input_size, *output_size) < 0:
            y = _with_computed_size(
                x, [kernel, *bias], size, extents, channels_last, padding == "SAME", attributes
            )
        else:
            surplus = np.multiply(strides, np.subtract(input_size, 1)) + extents - output_size
            pads = np.maximum(surplus, 0)
            before = pads // 2
            y = x.op(
                "ConvTranspose",
                kernel,
                *bias,
                **attributes,
                pads=[*before.tolist(), *(pads - before).tolist()],
                output_padding=np.maximum(-surplus, 0).tolist(),
            )
        return y.transpose(0, *range(2, rank), 1) if channels_last else y

    replace_node(graph, node, build)


def _with_computed_size(
    x: Value,
    weights: list[Value],
    size: Value,
    extents: Any,
    channels_last: bool,
    same: bool,
    attributes: dict[str, Any],
) -> Value:
    """A transposed convolution whose output size is computed in the graph."""
    rank = x.rank
    # Enough zeros at the end for any size that results in this input size.
    zeros = [stride - 1 for stride in attributes["strides"]]
    unpadded = x.op("ConvTranspose", *weights, **attributes, output_padding=zeros)
    output_size = size.cast(np.int64).slice(0, *((1, rank - 1) if channels_last else (2, rank)))
    begin = output_size.like(np.zeros(rank - 2, np.int64))
    if same:
        input_size = x.shape_tensor().slice(0, 2, rank)
        surplus = (input_size - 1) * attributes["strides"] + extents - output_size
        begin = surplus.op("Max", 0) / 2
    axes = unpadded.int64s(range(2, rank))
    return unpadded.op("Slice", begin, begin + output_size, *axes)


def _static_shape(x: Value) -> tuple[int, ...]:
    """The shape of `x`.

    Raises:
        UnsupportedUseError: a size is not known.
    """
    shape = x.shape
    if shape is None or None in shape:
        raise UnsupportedUseError("the size of the convolution's kernel is not known")
    return shape  # type: ignore[return-value]
