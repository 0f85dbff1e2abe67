"""Every operator's rule: against finite differences in float64, and against TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest

from gradient_rules import CASES, operators
from gradient_rules.operators import Backward, Case

RUNS = [(name, opset) for name, case in CASES.items() for opset in case.opsets]


def weights_for(case: Case, opset: int) -> operators.Array:
    shape = operators.forward(operators.model(case, opset), case.entries).shape
    return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


def assert_close(actual: operators.Array, expected: operators.Array) -> None:
    assert actual.shape == expected.shape
    scale = max(float(np.abs(expected).max(initial=0)), 1e-3)
    assert np.abs(actual - expected).max(initial=0) <= 2e-5 * scale


@pytest.mark.parametrize(("name", "opset"), [r for r in RUNS if CASES[r[0]].smooth])
def test_against_central_differences(name: str, opset: int) -> None:
    case = CASES[name]
    weights = weights_for(case, opset)
    weights = weights.astype(np.float64).astype(_dtype(case))
    found = Backward.of(operators.model(case, opset)).run(case.entries, weights)
    for entry, expected in operators.differences(case, opset, weights).items():
        assert_close(found[entry], expected)


def _dtype(case: Case) -> type:
    return np.float64 if case.attributes.get("to") == 11 else np.float32


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.tensorflow])
def test_against_tensorflow(name: str) -> None:
    pytest.importorskip("tensorflow")
    case = CASES[name]
    weights = weights_for(case, case.opsets[0]).astype(_dtype(case))
    expected = operators.by_tensorflow(case, weights)
    for opset in case.opsets:
        found = Backward.of(operators.model(case, opset)).run(case.entries, weights)
        for entry, gradient in expected.items():
            assert_close(found[entry], gradient)
