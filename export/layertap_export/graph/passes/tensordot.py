"""Restoring `tf.tensordot`: a product with a matrix is one MatMul, for any rank.

Keras's Dense on more than two axes is a tensordot, which TensorFlow computes in steps:

    x (n, h, w, k) -> Reshape (n h w, k) -> MatMul (k, m) -> Reshape (n, h, w, m)

with arithmetic on shapes where sizes are free. ONNX's MatMul takes `x` as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper, numpy_helper

from layertap.format.layer import Shape
from layertap_export.graph.graph import makers

from .contract import graph_pass, in_order, outputs_exist


@graph_pass(requires=[in_order, outputs_exist], ensures=[in_order, outputs_exist])
def restore_products(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> None:
    """Rewrite `model` in place. Nodes that nothing reads any more stay; the next pass removes them.

    Args:
        model: as tf2onnx made it.
        shapes: what is known of its tensors' shapes.
    """
    products = _Products(model.graph, shapes)
    for node in model.graph.node:
        if node.op_type == "Reshape":
            factors = products.factors(node)
            if factors is not None:
                node.CopyFrom(helper.make_node("MatMul", factors, node.output))


class _Products:
    """Finds products in one graph."""

    def __init__(self, graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
        self._makers = makers(graph.node)
        self._weights = {item.name: item for item in graph.initializer}
        self._shapes = shapes

    def factors(self, last: onnx.NodeProto) -> tuple[str, str] | None:
        """The tensor and the matrix of which the Reshape `last` ends the product."""
        product = self._makers.get(last.input[0])
        first = self._makers.get(product.input[0]) if product is not None else None
        if product is None or product.op_type != "MatMul":
            return None
        if first is None or first.op_type != "Reshape":
            return None
        data, matrix = first.input[0], self._weights.get(product.input[1])
        shape, result = self._shapes.get(data), self._shapes.get(last.output[0])
        if matrix is None or len(matrix.dims) != 2 or shape is None or result is None:
            return None
        # The two-dimensional tensor has as many columns as the matrix has rows, so each of its rows
        # holds the last axis of `data`.
        if len(self._shapes.get(first.output[0], ())) != 2:
            return None
        if len(shape) < 3 or shape[-1] != matrix.dims[0] or len(result) != len(shape):
            return None
        if self._same(shape[:-1], result[:-1]) or self._takes_shape(last.input[1], data, shape):
            return data, product.input[1]
        return None

    def _same(self, one: Shape, other: Shape) -> bool:
        """Whether two shapes of equally many elements must be equal: at most one size is open."""
        return one == other and one.count(None) <= 1

    def _takes_shape(self, target: str, data: str, shape: Shape) -> bool:
        """Whether the target of a Reshape begins with all sizes of `data` but the last."""
        joined = self._behind_casts(target)
        if joined is None or joined.op_type != "Concat" or len(joined.input) != 2:
            return False
        taken = self._behind_casts(joined.input[0])
        if taken is None or taken.op_type != "Gather":
            return False
        axes = self._weights.get(taken.input[1])
        source = self._behind_casts(taken.input[0])
        return (
            axes is not None
            and numpy_helper.to_array(axes).tolist() == list(range(len(shape) - 1))
            and source is not None
            and source.op_type == "Shape"
            and source.input[0] == data
        )

    def _behind_casts(self, name: str) -> onnx.NodeProto | None:
        node = self._makers.get(name)
        while node is not None and node.op_type in ("Cast", "Identity"):
            node = self._makers.get(node.input[0])
        return node
