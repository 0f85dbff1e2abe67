"""The slow and sure way to a tensor: the `onnx` package makes it an output, and all is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime


def session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, tensors: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """The values of `tensors`, computed by the whole model with these as its outputs."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    del whole.graph.output[:]
    for name in tensors:
        whole.graph.output.add().name = name
    ready = session(whole.SerializeToString())
    known = {item.name for item in ready.get_inputs()}
    return ready.run(list(tensors), {name: value for name, value in feeds.items() if name in known})


def same(actual: Any, expected: Any) -> None:
    """Assert that two values are alike: lists by element, floats within 1e-5, others exactly."""
    if isinstance(expected, list):
        assert isinstance(actual, list)
        assert len(actual) == len(expected)
        for left, right in zip(actual, expected, strict=True):
            same(left, right)
        return
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(actual, expected)
