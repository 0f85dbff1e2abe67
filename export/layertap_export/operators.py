"""ONNX for TensorFlow operations that tf2onnx 1.17 leaves out, and those it gets wrong.

Each handler states its formula. tf2onnx calls it as `handler(graph, node, name, args)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto
from tf2onnx import utils
from tf2onnx.onnx_opset.nn import ConvOp
from tf2onnx.onnx_opset.nn import Resize as TensorFlowResize

Handler = Callable[[Any, Any, str, Any], None]


def _replace(graph: Any, node: Any, build: Callable[[str, Any], str]) -> None:
    """Put what `build(input, dtype)` makes in the place of a node with one input and output."""
    source, output = node.input[0], node.output[0]
    shapes, dtypes = node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    dtype = utils.map_onnx_to_numpy_type(graph.get_dtype(source))
    result = build(source, dtype)
    graph.make_node("Identity", [result], outputs=[output], shapes=shapes, dtypes=dtypes)


def _constant(graph: Any, value: Any, dtype: Any) -> str:
    name: str = graph.make_const(utils.make_name("constant"), np.array(value, dtype)).output[0]
    return name


def _node(graph: Any, op_type: str, inputs: list[str], **attributes: Any) -> str:
    name: str = graph.make_node(op_type, inputs, attr=attributes or None).output[0]
    return name


def erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    """erfc(x) = 1 - erf(x); TensorFlow's exact `gelu` uses it."""

    def build(x: str, dtype: Any) -> str:
        return _node(graph, "Sub", [_constant(graph, 1, dtype), _node(graph, "Erf", [x])])

    _replace(graph, node, build)


def expm1(graph: Any, node: Any, name: str, args: Any) -> None:
    """expm1(x) = tanh(x / 2) (exp(x) + 1), which loses no digits near 0 as exp(x) - 1 would."""

    def build(x: str, dtype: Any) -> str:
        half = _node(graph, "Mul", [x, _constant(graph, 0.5, dtype)])
        above = _node(graph, "Add", [_node(graph, "Exp", [x]), _constant(graph, 1, dtype)])
        return _node(graph, "Mul", [_node(graph, "Tanh", [half]), above])

    _replace(graph, node, build)


def log1p(graph: Any, node: Any, name: str, args: Any) -> None:
    """log1p(x) = log(1 + x)."""

    def build(x: str, dtype: Any) -> str:
        return _node(graph, "Log", [_node(graph, "Add", [x, _constant(graph, 1, dtype)])])

    _replace(graph, node, build)


def conv3d(graph: Any, node: Any, name: str, args: Any) -> None:
    """A 3D convolution with as many groups as its kernel says; tf2onnx counts those of 2D only."""
    channels, of_group = graph.get_shape(node.input[0])[-1], graph.get_shape(node.input[1])[-2]
    ConvOp.any_version(graph.opset, graph, node)
    if channels > 0:
        node.set_attr("group", channels // of_group)


RESIZINGS: Mapping[str, Mapping[str, Any]] = {
    "ResizeBicubic": {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
    "ResizeBilinear": {"mode": "linear"},
    "ResizeNearestNeighbor": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
}
"""Attributes of ONNX's Resize, by TensorFlow operation."""


def resize(graph: Any, node: Any, name: str, args: Any) -> None:
    """Resizing to a size, as `tf.image.resize` does it.

    tf2onnx writes scales in float32, which may round to one pixel less (12 * (7 / 12) = 6.99), and
    for nearest a mode that opset 13 took out of the standard. For nearest TensorFlow takes pixel
    floor((x + 0.5) / scale), which is (x + 0.5) / scale - 0.5 rounded, halves upwards. Its bicubic
    kernel is Keys's, with a = -0.5, from a table of 1024 steps.
    """
    if not node.get_attr_value("half_pixel_centers"):  # from before TensorFlow 2
        TensorFlowResize.version_11(graph, node)
        return
    attributes = RESIZINGS[node.type]
    source, size = node.input
    output, shapes, dtypes = node.output, node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    image = _node(graph, "Transpose", [source], perm=[0, 3, 1, 2])
    ends = [_constant(graph, [end], np.int64) for end in (0, 2)]
    outer = _node(graph, "Slice", [_node(graph, "Shape", [image]), *ends])
    inner = _node(graph, "Cast", [size], to=TensorProto.INT64)
    sizes = _node(graph, "Concat", [outer, inner], axis=0)
    resized = _node(
        graph,
        "Resize",
        [image, "", "", sizes],
        coordinate_transformation_mode="half_pixel",
        **attributes,
    )
    graph.make_node(
        "Transpose", [resized], {"perm": [0, 2, 3, 1]}, outputs=output, shapes=shapes, dtypes=dtypes
    )


HANDLERS: Mapping[str, tuple[Handler, list[Any]]] = {
    "Erfc": (erfc, []),
    "Expm1": (expm1, []),
    "Log1p": (log1p, []),
    "Conv3D": (conv3d, []),
    **dict.fromkeys(RESIZINGS, (resize, [])),
}
"""By TensorFlow operation, as tf2onnx's `custom_op_handlers` takes them."""

REFUSED: Mapping[str, str] = {
    "ResizeArea": "area interpolation has no equal in ONNX, and tf2onnx puts another in its place",
}
"""Operations that tf2onnx converts without complaint into something else, and what it is."""
