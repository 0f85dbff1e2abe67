"""Where a gradient stops: `tf.stop_gradient`, for which ONNX has no operator."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto
from tf2onnx.onnx_opset.misc import MoveToIdent

from layertap_export.graph.operators import STOP_GRADIENT


def stop_gradient(graph: Any, node: Any, name: str, args: Any) -> None:
    """The values themselves, by a Dropout, which in inference is an identity.

    Its doc string says that no gradient flows through it. tf2onnx's own Identity would not be left
    in the graph.
    """
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    if graph.get_dtype(node.input[0]) not in floats:
        MoveToIdent.version_1(graph, node)
        return
    node.type = "Dropout"
    node.op.doc_string = STOP_GRADIENT
