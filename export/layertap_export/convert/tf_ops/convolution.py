"""Convolutions, where tf2onnx goes wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from tf2onnx.onnx_opset.nn import ConvOp

from .expressions import NoWayError, Value, attribute, take_over


def conv3d(graph: Any, node: Any, name: str, args: Any) -> None:
    """A 3D convolution with as many groups as its kernel says; tf2onnx counts those of 2D only."""
    last = attribute(node, "data_format").endswith("C")
    channels = graph.get_shape(node.input[0])[-1 if last else 1]
    of_group = graph.get_shape(node.input[1])[-2]
    ConvOp.any_version(graph.opset, graph, node)
    if channels > 0:
        node.set_attr("group", channels // of_group)


def transposed(graph: Any, node: Any, name: str, args: Any) -> None:
    """A transposed convolution (the gradient of a convolution) that gives an image of some size.

    Every value spreads over a patch, and patches add up; this `whole` has the size
    stride (size - 1) + dilation (kernel - 1) + 1. With padding `same`, what it has too much is cut
    off, half of it (rounded down) in front; what it lacks are zeros at the end.
    """
    last = attribute(node, "data_format").endswith("C")
    explicit = attribute(node, "padding")
    output_shape = graph.get_shape(node.output[0])
    strides, dilations = (_spatial(attribute(node, x), last) for x in ("strides", "dilations"))
    if explicit == "EXPLICIT":
        raise NoWayError("a transposed convolution with explicit paddings")

    def build(size: Value, kernel: Value, x: Value, *bias: Value) -> Value:  # tf2onnx joins a bias
        rank = x.rank
        x = x.transpose(0, rank - 1, *range(1, rank - 1)) if last else x
        kernel = kernel.transpose(rank - 1, rank - 2, *range(rank - 2))
        extents = np.subtract(_known(kernel)[2:], 1) * dilations + 1
        attributes = {"strides": strides, "dilations": dilations}
        wanted = _spatial(output_shape, last)
        given = [-1 if n is None else n for n in (x.shape or ())[2:]]
        if min(*given, *wanted) < 0:
            y = _cut(x, [kernel, *bias], size, extents, last, explicit == "SAME", attributes)
        else:
            surplus = np.multiply(strides, np.subtract(given, 1)) + extents - wanted
            cut = np.maximum(surplus, 0)
            before = cut // 2
            y = x.op(
                "ConvTranspose",
                kernel,
                *bias,
                **attributes,
                pads=[*before.tolist(), *(cut - before).tolist()],
                output_padding=np.maximum(-surplus, 0).tolist(),
            )
        return y.transpose(0, *range(2, rank), 1) if last else y

    take_over(graph, node, build)


def _cut(
    x: Value,
    weights: list[Value],
    size: Value,
    extents: Any,
    last: bool,
    same: bool,
    attributes: dict[str, Any],
) -> Value:
    """The same for a size that is worked out in the graph."""
    rank = x.rank
    # Enough zeros at the end for any size of which this can be the gradient.
    zeros = [stride - 1 for stride in attributes["strides"]]
    whole = x.op("ConvTranspose", *weights, **attributes, output_padding=zeros)
    wanted = size.cast(np.int64).cut(0, *((1, rank - 1) if last else (2, rank)))
    begin = wanted.like(np.zeros(rank - 2, np.int64))
    if same:
        given = x.sizes_of_axes().cut(0, 2, rank)
        surplus = (given - 1) * attributes["strides"] + extents - wanted
        begin = surplus.op("Max", 0) / 2
    axes = whole.sizes(range(2, rank))
    return whole.op("Slice", begin, begin + wanted, *axes)


def _spatial(values: Any, last: bool) -> list[int]:
    """What belongs to the axes of the image, out of one value per axis."""
    return [int(x) for x in (values[1:-1] if last else values[2:])]


def _known(x: Value) -> tuple[int, ...]:
    shape = x.shape
    if shape is None or None in shape:
        raise NoWayError("a convolution with a kernel of unknown size")
    return shape  # type: ignore[return-value]
