"""The four steps of a hard swish, joined."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import reference
from generators import tiny
from layertap_export.graph.passes.fuse import fuse

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

node, constant = tiny.node, tiny.constant
X = np.linspace(-9, 9, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
STEPS = ["Add:x three:a", "Clip:a zero six:b", "Mul:b sixth:c", "Mul:x c:y"]
NUMBERS = {"three": 3, "zero": 0, "six": 6, "sixth": 1 / 6}


def fused(
    steps: list[str], numbers: dict[str, Any] = NUMBERS, keep: str = "y", opset: int = 18
) -> list[str]:
    """The operators after the pass, which must not change the kept tensors."""
    names = keep.split()
    model = tiny.model(
        [node(*step.split(":")) for step in steps],
        [tiny.value("x", ("n", 3, 4, 5))],
        [tiny.value(name, (None,) * 4) for name in names],
        [constant(name, value, np.float32) for name, value in numbers.items()],
        opset=opset,
    )
    expected = reference.run(model, names, {"x": X})
    fuse(model, {}, names)
    onnx.checker.check_model(model, full_check=True)
    for actual, value in zip(reference.run(model, names, {"x": X}), expected, strict=True):
        np.testing.assert_allclose(actual, value, rtol=0, atol=2e-6)
    return [item.op_type for item in model.graph.node]


@pytest.mark.parametrize(
    "steps",
    [
        STEPS,
        ["Add:three x:a", "Clip:a zero six:b", "Mul:sixth b:c", "Mul:c x:y"],
        [*STEPS, "Relu:x:other"],
    ],
)
def test_four_steps_are_one(steps: list[str]) -> None:
    assert fused(steps) == ["HardSwish"]


@pytest.mark.parametrize("keep", ["a y", "b y", "c y"])
def test_a_step_that_is_asked_for_stays(keep: str) -> None:
    assert fused(STEPS, keep=keep) == ["Add", "Clip", "Mul", "Mul"]


def test_a_step_that_something_else_reads_stays() -> None:
    assert fused([*STEPS, "Relu:b:z"], keep="y z") == ["Add", "Clip", "Mul", "Mul", "Relu"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("three", 2), ("zero", -1), ("six", 5), ("sixth", 0.2), ("three", [3, 3, 3, 3, 3])],
)
def test_other_numbers_are_no_hard_swish(name: str, value: Any) -> None:
    assert fused(STEPS, {**NUMBERS, name: value}) == ["Add", "Clip", "Mul", "Mul"]


def test_another_factor_is_no_hard_swish() -> None:
    assert fused([*STEPS[:3], "Neg:x:w", "Mul:w c:y"]) == ["Add", "Clip", "Mul", "Neg", "Mul"]


def test_before_opset_14_there_is_none() -> None:
    assert fused(STEPS, opset=13) == ["Add", "Clip", "Mul", "Mul"]
    assert fused(STEPS, opset=14) == ["HardSwish"]
