"""Computing what a graph computes from constants alone, while the file is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from .graph import attributes, bodies
from .operators import facts
from .weights import Initializers


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node; `None` for another node, or a value that is no dense tensor of
    numbers."""
    if node.op_type != "Constant" or not node.attribute:
        return None
    name, value = node.attribute[0].name, helper.get_attribute_value(node.attribute[0])
    if name == "value":
        return value if isinstance(value, onnx.TensorProto) else None
    if name in ("value_float", "value_floats"):
        return numpy_helper.from_array(np.array(value, np.float32))
    if name in ("value_int", "value_ints"):
        return numpy_helper.from_array(np.array(value, np.int64))
    return None


def compute(
    node: onnx.NodeProto,
    values: Mapping[str, NDArray[Any]],
    imports: Iterable[onnx.OperatorSetIdProto],
) -> list[NDArray[Any]] | None:
    """The outputs of a node whose inputs are all constant, without those that it leaves out.

    Args:
        node: the node.
        values: the values of all its inputs, by name.
        imports: the opsets of the graph.

    Returns:
        `None` if the node has no fixed result (it draws random numbers, or has a body), or the
        `onnx` package cannot compute it.
    """
    constant = constant_of(node)
    if constant is not None:
        return [numpy_helper.to_array(constant)]
    row = facts(node)
    if not node.input or bodies(node) or (row is not None and row.kind == "random"):
        return None
    if row is not None and row.array is not None and all(node.input):
        value = row.array([values[name] for name in node.input], attributes(node))
        if value is not None:
            return [value]
    known = {name: values[name] for name in node.input if name}
    model = helper.make_model(
        helper.make_graph(
            [node],
            "fold",
            [_value_info(name, value) for name, value in known.items()],
            [helper.make_empty_tensor_value_info(name) for name in node.output if name],
        ),
        opset_imports=list(imports),
    )
    try:
        results = ReferenceEvaluator(model).run(None, known)
    except Exception:  # noqa: BLE001 - the evaluator has gaps; onnxruntime computes the node then
        return None
    return [np.asarray(result) for result in results]


def _value_info(name: str, value: NDArray[Any]) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, dtype, value.shape)


def weights_to_initializers(
    model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]], initializers: Initializers
) -> None:
    """Turn the graph's inputs that are weights into initializers, in place.

    A converter that sees weights as inputs leaves in the graph what it would else compute from
    them (the transpose of a kernel, its cast to float16): that is computed here.

    Args:
        model: its nodes are in topological order.
        weights: values by name of the input.
        initializers: keeps the values.
    """
    graph = model.graph
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    known = dict(weights)
    constants = {item.name: item for item in graph.initializer}
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    made: dict[tuple[object, ...], str] = {}
    nodes = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        first, *others = node.input or [""]
        rest = [numpy_helper.to_array(constants[name]) for name in others if name in constants]
        row = facts(node)
        if first not in known or len(rest) < len(others) or row is None or row.array is None:
            nodes.append(node)
            continue
        output, settings = node.output[0], attributes(node)
        key = (first, node.op_type, str(settings), *(value.tobytes() for value in rest))
        if output not in outputs and key in made:
            same[output] = made[key]
            continue
        value = row.array([known[first], *rest], settings)
        if value is None:
            nodes.append(node)
            continue
        known[output] = value
        if output not in outputs:
            made[key] = output
    kept = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in kept for name in node.input} | outputs
    graph.initializer.extend(
        initializers.make(value, name) for name, value in known.items() if name in read
    )


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied
