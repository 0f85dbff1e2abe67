"""Activation functions that TensorFlow computes in steps, in one step."""

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


@pytest.mark.parametrize(("keep", "left"), [("a y", 1), ("b y", 2), ("c y", 3)])
def test_a_step_that_is_asked_for_stays(keep: str, left: int) -> None:
    assert fused(STEPS, keep=keep) == [*["Add", "Clip", "Mul"][:left], "HardSwish"]


def test_a_step_that_something_else_reads_stays() -> None:
    assert fused([*STEPS, "Relu:b:z"], keep="y z") == ["Add", "Clip", "HardSwish", "Relu"]


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


GELU = [
    "Mul:half x:a",
    "Neg:x:b",
    "Mul:b root:c",
    "Erf:c:d",
    "Sub:one d:e",
    "Mul:a e:y",
]
WRITTEN = ["Div", "Erf", "Add", "Mul", "Mul"]
GELU_NUMBERS = {"half": 0.5, "root": 0.5**0.5, "one": 1.0, "two": 2.0, "root2": 2**0.5}


@pytest.mark.parametrize(
    "steps",
    [
        GELU,
        ["Div:x root2:c", "Erf:c:d", "Add:d one:e", "Mul:x e:f", "Mul:f half:y"],
        ["Mul:root x:c", "Erf:c:d", "Add:one d:e", "Mul:x e:f", "Div:f two:y"],
        ["Mul:root x:c", "Erf:c:d", "Mul:x d:e", "Add:x e:f", "Mul:half f:y"],
    ],
    ids=["TensorFlow", "PyTorch", "other order", "multiplied out"],
)
def test_gelu(steps: list[str]) -> None:
    """It is written in the steps from which onnxruntime makes one operator."""
    assert fused(steps, GELU_NUMBERS) == WRITTEN


@pytest.mark.parametrize(("name", "value"), [("half", 0.4), ("root", 0.7), ("one", 1.1)])
def test_other_numbers_are_no_gelu(name: str, value: float) -> None:
    assert "Sub" in fused(GELU, {**GELU_NUMBERS, name: value})


def test_steps_of_gelu_that_are_asked_for_stay() -> None:
    assert fused(GELU, GELU_NUMBERS, keep="d y") == ["Neg", "Mul", "Erf", *WRITTEN]
