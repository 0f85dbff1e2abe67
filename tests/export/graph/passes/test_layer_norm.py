"""Layer normalisations become one operator, however they are written, and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

import reference
from generators import tiny
from layertap_export.graph.graph import prune
from layertap_export.graph.passes.layer_norm import layer_normalisations

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

node, constant = tiny.node, tiny.constant
SHAPE = (2, 3, 4, 5)
X = np.random.default_rng(0).normal(1, 2, SHAPE).astype(np.float32)
MOMENTS = [
    node("ReduceMean", "x axes", "mean", keepdims=1),
    node("Sub", "x mean", "centred"),
    node("Mul", "centred centred", "square"),
    node("ReduceMean", "square axes", "variance", keepdims=1),
    node("Add", "variance epsilon", "total"),
    node("Sqrt", "total", "root"),
    node("Reciprocal", "root", "r"),
]
KERAS = [
    node("Mul", "r gamma", "i"),
    node("Mul", "x i", "xi"),
    node("Neg", "mean", "minus"),
    node("Mul", "minus i", "mi"),
    node("Add", "mi beta", "offset"),
    node("Add", "xi offset", "y"),
]
FORMS = {
    "Keras": KERAS,
    "without offset": [*KERAS[:4], node("Add", "mi xi", "y")],
    "without scale": [
        node("Mul", "r x", "xi"),
        node("Mul", "mean r", "mi"),
        node("Sub", "beta mi", "offset"),
        node("Add", "offset xi", "y"),
    ],
    "without both": [node("Div", "centred root", "y")],
    "PyTorch": [
        node("Div", "centred root", "n"),
        node("Mul", "n gamma", "scaled"),
        node("Add", "beta scaled", "y"),
    ],
    "with identities": [
        node("Identity", "centred", "again"),
        node("Mul", "again r", "n"),
        node("Identity", "n", "n2"),
        node("Mul", "gamma n2", "y"),
    ],
}
ONE = ["ReduceMean", "Sub", "LayerNormalization"]


def rewritten(
    nodes: Sequence[onnx.NodeProto],
    axes: Sequence[int] = (3,),
    keep: str = "y",
    opset: int = 18,
    x: np.ndarray = X,
    **constants: Any,
) -> list[str]:
    """The operators after the pass, which has not changed the result."""
    sizes = [X.shape[axis] if axis in axes else 1 for axis in range(4)]
    generator = np.random.default_rng(1)
    values: dict[str, Any] = {
        "epsilon": np.float32(1e-3),
        "gamma": generator.normal(size=sizes).astype(np.float32),
        "beta": generator.normal(size=sizes).astype(np.float32),
    }
    names = keep.split()
    model = tiny.model(
        nodes,
        [tiny.value("x", (None,) * 4)],
        [tiny.value(name, (None,) * 4) for name in names],
        [
            constant("axes", list(axes)),
            *(constant(name, value, value.dtype) for name, value in (values | constants).items()),
        ],
        opset=opset,
    )
    expected = reference.run(model, names, {"x": x})
    inferred = onnx.shape_inference.infer_shapes(
        tiny.model(nodes, [tiny.value("x", SHAPE)], [], model.graph.initializer, opset=opset)
    )
    shapes = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.input)
    }
    shapes |= {item.name: tuple(item.dims) for item in model.graph.initializer}
    layer_normalisations(model, shapes)
    prune(model, names)
    onnx.checker.check_model(model, full_check=True)
    for actual, value in zip(reference.run(model, names, {"x": x}), expected, strict=True):
        reference.same(actual, value)
    return [item.op_type for item in model.graph.node if item.op_type != "Reshape"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", [(3,), (2, 3), (1, 2, 3), (1, 3), (1,)], ids=str)
def test_every_form(form: str, axes: tuple[int, ...]) -> None:
    turned = axes[0] + len(axes) != 4
    turns = ["Transpose"] if turned else []
    assert rewritten([*MOMENTS, *FORMS[form]], axes) == [*ONE[:2], *turns, ONE[2], *turns]


def test_root_mean_square() -> None:
    """In the steps that onnxruntime computes as one."""
    nodes = [
        node("Mul", "x x", "square"),
        *MOMENTS[3:],
        node("Mul", "r gamma", "i"),
        node("Mul", "x i", "y"),
    ]
    assert rewritten(nodes) == ["Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]


def test_means_far_from_zero() -> None:
    """The pass does not lose digits where the mean is 1000 deviations away: see `rewritten`."""
    assert rewritten([*MOMENTS, *KERAS], x=X + 2000) == ONE


def test_what_is_asked_for_stays() -> None:
    """The result without an offset is an output too, so the offset is added to it."""
    nodes = [*MOMENTS, *FORMS["PyTorch"]]
    assert rewritten(nodes, keep="scaled y") == [*ONE, "Add"]
    assert rewritten(nodes, keep="variance y")[-1] == "LayerNormalization"


@pytest.mark.parametrize(
    ("index", "other"),
    [
        (1, node("Sub", "mean x", "centred")),
        (3, node("ReduceMean", "square other_axes", "variance", keepdims=1)),
        (4, node("Sub", "variance epsilon", "total")),
        (8, node("Mul", "x r", "xi")),
        (9, node("Identity", "mean", "minus")),
        (11, node("Sub", "mi beta", "offset")),
    ],
    ids=["sign", "axes", "minus epsilon", "two scales", "plus mean", "minus offset"],
)
def test_other_formulas_stay(index: int, other: onnx.NodeProto) -> None:
    nodes = [*MOMENTS, *KERAS]
    nodes[index] = other
    assert "LayerNormalization" not in rewritten(nodes, other_axes=np.array([2]))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 4, 5), (1, 3, 1, 5), (2, 3, 4, 5)], ids=str)
def test_scales_of_another_shape_stay(shape: tuple[int, ...]) -> None:
    """The operator takes a scale along the normalised axes only."""
    gamma = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    assert "LayerNormalization" not in rewritten([*MOMENTS, *KERAS], gamma=gamma)
