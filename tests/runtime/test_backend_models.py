"""Every model of ONNX's own backend tests that onnxruntime runs, cut at each of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import reference

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CHANCE = ("Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike", "Dropout")
"""Operators that draw random numbers."""


def cases(kind: str) -> Iterator[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    """Name, model and inputs of each test that is there."""
    from onnx.backend.test.loader import load_model_tests

    for case in load_model_tests(kind=kind):
        folder = Path(case.model_dir) if case.model_dir else None
        if folder and (folder / "model.onnx").exists():
            model = onnx.load(folder / "model.onnx")
        elif case.model is not None:
            model = case.model
        else:
            continue
        weights = {item.name for item in model.graph.initializer}
        names = [item.name for item in model.graph.input if item.name not in weights]
        if case.data_sets:
            values = list(case.data_sets[0][0])
        elif folder:
            files = [folder / "test_data_set_0" / f"input_{i}.pb" for i in range(len(names))]
            if not all(file.exists() for file in files):
                continue
            tensors = [onnx.TensorProto.FromString(file.read_bytes()) for file in files]
            values = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
        if len(values) == len(names):
            yield case.name, model, dict(zip(names, values, strict=True))


def alike(actual: Any, expected: Any) -> None:
    """Within float tolerance; half floats are fused, and so rounded, in other places."""
    if isinstance(expected, list):
        assert len(actual) == len(expected)
        for left, right in zip(actual, expected, strict=True):
            alike(left, right)
    elif expected is None:
        assert actual is None
    elif expected.dtype.kind == "f":
        half = expected.dtype == np.float16
        np.testing.assert_allclose(actual, expected, rtol=1e-2 if half else 1e-3, atol=1e-3)
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("kind", "least"),
    [("node", 1400), ("simple", 5), ("pytorch-converted", 20), ("pytorch-operator", 10)],
)
def test_models_of_the_onnx_backend_tests(kind: str, least: int) -> None:
    failures, count = [], 0
    for name, model, feeds in cases(kind):
        if any(node.op_type in CHANCE for node in model.graph.node) or "training_mode" in name:
            continue
        tensors = [item for node in model.graph.node for item in node.output if item]
        try:
            expected = reference.run(model, tensors, feeds)
        except Exception:  # noqa: BLE001 - onnxruntime does not run this model at all
            continue
        count += 1
        opened = layertap.open(model.SerializeToString(), threads=1)
        for tensor, value in zip(tensors, expected, strict=True):
            try:
                alike(opened.activations(feeds, tensor), value)
            except (AssertionError, layertap.LayertapError) as exc:
                failures.append(f"{name}, {tensor}: {exc}")
    assert failures == []
    assert count >= least
