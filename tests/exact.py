"""What a model computes, in float64: what float32 is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from layertap_export.verification.float64_operators import (
    double,
    evaluator,
    in_double,
    tensor_in_double,
)


def run(model: onnx.ModelProto, tensors: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """The values of `tensors`; of those that are no floats, in their own dtype."""
    graph = helper.make_graph(
        [in_double(node) for node in model.graph.node],
        "exact",
        [onnx.ValueInfoProto(name=name) for name in feeds],
        [onnx.ValueInfoProto(name=name) for name in tensors],
        [tensor_in_double(item) for item in model.graph.initializer],
    )
    whole = helper.make_model(graph, opset_imports=model.opset_import, ir_version=8)
    given = {name: double(value) for name, value in feeds.items()}
    return [np.asarray(value) for value in evaluator(whole).run(None, given)]


def close(actual: Any, expected: Any, scaled: float = 4e-6) -> None:
    """Assert that a value differs from what is right by little of its largest absolute value."""
    assert actual.shape == expected.shape
    scale = max(float(np.abs(expected).max(initial=0)), 1e-30)
    assert np.isfinite(actual).all()
    assert np.abs(actual - expected).max(initial=0) <= scaled * scale
