"""Every operator's rule: against finite differences in float64, and against TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from generators.gradient_rules import CASES, operators
from generators.gradient_rules.operators import Backward, Case, newest
from layertap_export import GradientError


def runs(chosen: Callable[[Case], object]) -> pytest.MarkDecorator:
    """Parametrises a test by the cases chosen and their opsets, of which one is quick."""
    rows = [
        pytest.param(name, opset, marks=[] if opset == newest(case) else [pytest.mark.slow])
        for name, case in CASES.items()
        if chosen(case)
        for opset in case.opsets
    ]
    return pytest.mark.parametrize(("name", "opset"), rows)


def weights_for(case: Case, opset: int) -> operators.Array:
    shape = operators.forward(operators.model(case, opset), case.entries).shape
    return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


def assert_close(actual: operators.Array, expected: operators.Array) -> None:
    assert actual.shape == expected.shape
    scale = max(float(np.abs(expected).max(initial=0)), 1e-3)
    assert np.abs(actual - expected).max(initial=0) <= 2e-5 * scale


@runs(lambda case: case.smooth)
def test_against_central_differences(name: str, opset: int) -> None:
    case = CASES[name]
    weights: operators.Array = weights_for(case, opset).astype(_dtype(case))
    found = Backward.of(operators.model(case, opset)).run(case.entries, weights)
    for entry, expected in operators.differences(case, opset, weights).items():
        assert_close(found[entry], expected)


def _dtype(case: Case) -> type[np.floating[Any]]:
    return np.float64 if case.attributes.get("to") == 11 else np.float32


@pytest.mark.tensorflow
@runs(lambda case: case.tensorflow)
def test_against_tensorflow(name: str, opset: int) -> None:
    pytest.importorskip("tensorflow")
    case = CASES[name]
    weights: operators.Array = weights_for(case, opset).astype(_dtype(case))
    found = Backward.of(operators.model(case, opset)).run(case.entries, weights)
    for entry, gradient in operators.by_tensorflow(case, weights).items():
        assert_close(found[entry], gradient)


# --- Sizes that are known only when the graph runs -----------------------------------------------

FIXED_ONLY = {
    "Pad reflect": "Pad of mode 'reflect' along an axis of free size",
    "Pad edge": "Pad of mode 'edge' along an axis of free size",
    "Pad edge that crops": "Pad of mode 'edge' along an axis of free size",
    "Pad of some axes": "Pad of mode 'reflect' along an axis of free size",
    "Pad wrap": "Pad of mode 'wrap' along an axis of free size",
    "MaxPool of a volume": "MaxPool with a free number of channels",
    "DFT of a stated length": "DFT that truncates or pads its input",
    "ConvTranspose to a shape": "ConvTranspose with padding that depends on a free size",
}
"""What is said of forms that need to know sizes."""


@pytest.mark.parametrize("name", CASES)
def test_free_sizes(name: str) -> None:
    """The gradients are the same where no size is known when the file is made."""
    case, opset = CASES[name], newest(CASES[name])
    weights: operators.Array = weights_for(case, opset).astype(_dtype(case))
    free = operators.model(case, opset, free=True)
    if name in FIXED_ONLY:
        with pytest.raises(GradientError) as caught:
            Backward.of(free)
        assert str(caught.value) == (
            f"'x' has no gradient: layertap has no rule for {FIXED_ONLY[name]}, in the node "
            "'node' between it and the score. Choose a layer after that."
        )
        return
    expected = Backward.of(operators.model(case, opset)).run(case.entries, weights)
    for entry, gradient in Backward.of(free).run(case.entries, weights).items():
        assert_close(gradient, expected[entry])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.rows])
@pytest.mark.parametrize("free", [False, True], ids=["one", "batch"])
def test_many_rows_of_weights_for_one_sample(name: str, free: bool) -> None:
    """The forward half runs once, on one sample, and the gradients are those of as many runs."""
    case, opset = CASES[name], newest(CASES[name])
    if "x" not in case.entries or not case.entries["x"].ndim:
        pytest.skip("a number has no samples")
    inputs = {**case.inputs, **{key: value[:1] for key, value in case.entries.items()}}
    sizes = inputs.get("sizes")
    if sizes is not None and len(sizes) == case.entries["x"].ndim:
        if free:
            pytest.skip("the size of its batch is stated")
        inputs["sizes"] = np.array([1, *sizes[1:]])
    one = replace(case, inputs=inputs)
    backward = Backward.of(operators.model(one, opset, batch=free))
    row: operators.Array = weights_for(one, opset).astype(_dtype(case))
    rows = np.concatenate([row, row * 2 + 1, -row]).astype(row.dtype)
    together = backward.run(one.entries, rows)
    for entry, gradients in together.items():
        alone = [backward.run(one.entries, rows[i : i + 1])[entry] for i in range(3)]
        assert_close(gradients, np.concatenate(alone))
