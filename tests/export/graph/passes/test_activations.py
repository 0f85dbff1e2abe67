"""Activation functions that TensorFlow computes in steps, in one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import exact
import reference
from generators import tiny
from generators.gradient_rules.operators import Backward
from layertap_export.graph.passes.fuse import fuse

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

node, constant = tiny.node, tiny.constant
X = np.linspace(-9, 9, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
STEPS = ["Add:x three:a", "Clip:a zero six:b", "Mul:b sixth:c", "Mul:x c:y"]
NUMBERS = {"three": 3, "zero": 0, "six": 6, "sixth": 1 / 6}


def fused(
    steps: list[str],
    numbers: dict[str, Any] = NUMBERS,
    keep: str = "y",
    opset: int = 18,
    shapes: Mapping[str, tuple[int | None, ...]] | None = None,
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
    expected = exact.run(model, names, {"x": X})
    fuse(model, shapes or {}, names)
    onnx.checker.check_model(model, full_check=True)
    for actual, value in zip(reference.run(model, names, {"x": X}), expected, strict=True):
        exact.close(actual, value, 3e-7)
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
def test_other_valuesare_no_hard_swish(name: str, value: Any) -> None:
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
def test_other_valuesare_no_gelu(name: str, value: float) -> None:
    assert "Sub" in fused(GELU, {**GELU_NUMBERS, name: value})


def test_steps_of_gelu_that_are_asked_for_stay() -> None:
    assert fused(GELU, GELU_NUMBERS, keep="d y") == ["Neg", "Mul", "Erf", *WRITTEN]


TANH = [
    "Pow:x three:a",
    "Mul:cubic a:b",
    "Add:x b:c",
    "Mul:root c:d",
    "Tanh:d:e",
    "Add:one e:f",
    "Mul:half x:g",
    "Mul:g f:y",
]
GPT2 = ["Mul", "Mul", "Add", "Mul", "Mul", "Tanh", "Mul", "Add", "Mul"]
TANH_NUMBERS = {"three": 3, "cubic": 0.044715, "root": (2 / np.pi) ** 0.5, "one": 1, "half": 0.5}


@pytest.mark.parametrize(
    "steps",
    [
        TANH,
        ["Mul:x x:p", "Mul:p cubic:q", "Add:q one:r", "Mul:x r:s", "Mul:root s:d", *TANH[4:]],
        ["Mul:x x:p", "Mul:p x:a", *TANH[1:5], "Mul:e g:h", "Mul:half x:g", "Add:g h:y"],
    ],
    ids=["TensorFlow", "square", "multiplied out"],
)
def test_gelu_by_tanh(steps: list[str]) -> None:
    steps = sorted(steps, key=lambda step: step.startswith("Mul:e"))
    assert sorted(fused(ordered(steps), TANH_NUMBERS)) == sorted(GPT2)


def ordered(steps: list[str]) -> list[str]:
    """Each step behind those that it reads."""
    made = {step.split(":")[2] for step in steps}
    known: list[str] = []
    while len(known) < len(steps):
        ready = {step.split(":")[2] for step in known}
        known += [
            step
            for step in steps
            if step not in known and made.intersection(step.split(":")[1].split()) <= ready
        ]
    return known


@pytest.mark.parametrize(
    ("name", "value"), [("cubic", 0.0447), ("root", 0.8), ("one", 1.1), ("half", 0.4), ("three", 2)]
)
def test_other_valuesare_no_gelu_by_tanh(name: str, value: float) -> None:
    assert "Pow" in fused(TANH, {**TANH_NUMBERS, name: value})


MISH = ["Softplus:x:a", "Tanh:a:b", "Mul:x b:y"]
QUICK = ["Clip", "Exp", "Add", "Mul", "Div", "Add", "Div"]


def test_mish() -> None:
    """The softplus goes, also if the factors are in the other order."""
    assert fused(MISH, {}) == QUICK
    assert fused([*MISH[:2], "Mul:b x:y"], {}) == QUICK
    assert fused(MISH, {}, keep="a y") == ["Softplus", *QUICK]
    assert fused(["Softplus:x:a", "Tanh:a:b", "Mul:a b:y"], {}) == ["Softplus", "Tanh", "Mul"]


@pytest.mark.parametrize("steps", [MISH, TANH, GELU], ids=["Mish", "GELU by tanh", "GELU"])
def test_large_values(steps: list[str]) -> None:
    """Results and their slopes are finite where an exponential would not be."""
    values = [[-1e4, -200, -88.8, -50, -41, -39, 19, 21, 50, 88.8, 200, 1e4]]
    large = np.array(values, np.float32)
    numbers = GELU_NUMBERS if steps is GELU else TANH_NUMBERS
    model = tiny.model(
        [node(*step.split(":")) for step in steps],
        [tiny.value("x", ("n", 12))],
        [tiny.value("y", ("n", 12))],
        [constant(name, value, np.float32) for name, value in numbers.items()],
    )
    fuse(model, {}, ["y"])
    (actual,) = reference.run(model, ["y"], {"x": large})
    np.testing.assert_allclose(actual, np.maximum(large, 0), rtol=1e-6, atol=1e-12)
    slope = Backward.of(model).run({"x": large}, np.ones_like(large))["x"]
    np.testing.assert_allclose(slope, large > 0, rtol=1e-6, atol=1e-12)


def test_other_dtypes_stay() -> None:
    """onnxruntime has these operators in float32 only."""
    for steps in (MISH, TANH):
        model = tiny.model(
            [node(*step.split(":")) for step in steps],
            [tiny.value("x", ("n",), TensorProto.FLOAT16)],
            [tiny.value("y", ("n",), TensorProto.FLOAT16)],
            [constant(name, value, np.float16) for name, value in TANH_NUMBERS.items()],
        )
        fuse(model, {}, ["y"])
        assert [item.op_type for item in model.graph.node] == [step.split(":")[0] for step in steps]


def test_valueswith_more_axes_stay() -> None:
    """They give the result more axes than the activation has."""
    shapes = {"x": (2, 3), "y": (1, 1, 2, 3)}
    numbers = {**GELU_NUMBERS, "half": np.full((1, 1, 1, 1), 0.5)}
    assert "Neg" in fused(GELU, numbers, shapes=shapes)
