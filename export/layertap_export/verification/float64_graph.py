"""The graph of a file, computed in float64 as it is written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from layertap_export.graph.graph import attributes, leading_to

from .float64_operators import double, evaluator, in_double, tensor_in_double
from .written_file import WrittenFile

USUAL_ACTIVATIONS = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}
"""The activations of recurrent operators that the reference evaluator computes."""


def in_float64(
    file: WrittenFile, tensors: Sequence[str], feeds: Mapping[str, NDArray[Any]], until: float
) -> dict[str, NDArray[Any]]:
    """The values of tensors; empty if the reference evaluator cannot compute them in time.

    Args:
        file: the file.
        tensors: names of tensors in its graph.
        feeds: a value for each of the model's inputs.
        until: the value of `time.monotonic()` at which to give up.
    """
    graph = file.model.graph
    nodes, needed = leading_to(graph.node, tensors)
    if any(_is_simplified(node) for node in nodes):
        return {}
    part = helper.make_graph(
        [in_double(node) for node in nodes],
        "part",
        [onnx.ValueInfoProto(name=name) for name in feeds if name in needed],
        [onnx.ValueInfoProto(name=name) for name in tensors],
        [tensor_in_double(file.loaded(x)) for x in graph.initializer if x.name in needed],
    )
    model = helper.make_model(part, opset_imports=file.model.opset_import, ir_version=8)
    given = {name: double(value) for name, value in feeds.items() if name in needed}
    try:
        found = evaluator(model, until).run(None, given)
    except Exception:  # noqa: BLE001 - it raises errors of any class, and TimeUp
        return {}
    return dict(zip(tensors, map(np.asarray, found), strict=True))


def _is_simplified(node: onnx.NodeProto) -> bool:
    """Whether the evaluator ignores a part of the operator: the lengths of sequences, and other
    activations than the usual ones."""
    usual = USUAL_ACTIVATIONS.get(node.op_type)
    if usual is None:
        return False
    given = attributes(node)
    names = [name.decode() for name in given.get("activations", [])]
    ignored = {"clip", "activation_alpha", "activation_beta"} & given.keys()
    return any(node.input[4:5]) or bool(ignored) or names not in ([], usual, usual * 2)


def has_only_weights(file: WrittenFile, weights: Iterable[NDArray[Any]]) -> bool:
    """Whether a file has no weights that were computed from those of its model.

    It has one if fewer than half of a tensor's values are values of the model's weights, with or
    without their signs. (One of which some rows are wrong still counts as taken from the model.)
    """
    known = np.unique(np.concatenate([[0.0], *(np.abs(x).ravel() for x in weights)]))
    return all(
        _share(numpy_helper.to_array(file.loaded(item)), known) >= 0.5 for item in _floats(file)
    )


def _floats(file: WrittenFile) -> Collection[onnx.TensorProto]:
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    items = file.model.graph.initializer
    return [x for x in items if x.data_type in kinds and np.prod(x.dims) > 1]


def _share(value: NDArray[Any], known: NDArray[Any]) -> float:
    return float(np.isin(np.abs(value), known).mean())
