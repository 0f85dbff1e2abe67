"""The smallest and the largest value of each tensor of a graph, over batches of inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from layertap._engine.session import plain_session
from layertap_export.graph.graph import input_types, subgraph
from layertap_export.graph.shapes.shapes import Shapes

Ranges = Mapping[str, tuple[float, float]]
"""By the name of a tensor, its smallest and its largest value."""


def ranges(
    model: onnx.ModelProto,
    outputs: Sequence[str],
    shapes: Shapes,
    batches: Iterable[Mapping[str, NDArray[Any]]],
) -> dict[str, tuple[float, float]]:
    """The ranges of the tensors in float32 that lead to some outputs.

    The graph computes them itself, so that no tensor leaves onnxruntime.

    Args:
        model: nodes in topological order.
        outputs: the outputs.
        shapes: knows the dtypes of its tensors.
        batches: inputs of the model.
    """
    given = input_types(model)
    part = subgraph(model, outputs, given)
    graph = part.graph
    made = [name for node in graph.node for name in node.output if name]
    entries = [value.name for value in graph.input]
    names = [name for name in (*entries, *made) if shapes.dtype(name) == TensorProto.FLOAT]
    del graph.output[:]
    for at, name in enumerate(names):
        for op_type in ("ReduceMin", "ReduceMax"):
            result = f"layertap/{op_type}/{at}"
            graph.node.append(helper.make_node(op_type, [name], [result], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, []))
    if not names:
        return {}
    session = plain_session(part.SerializeToString())
    low = np.full(len(names), np.inf)
    high = np.full(len(names), -np.inf)
    for batch in batches:
        fed = {name: value for name, value in batch.items() if name in entries}
        pairs = np.array(session.run(None, fed), np.float64).reshape(-1, 2)
        low, high = np.minimum(low, pairs[:, 0]), np.maximum(high, pairs[:, 1])
    return dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))
