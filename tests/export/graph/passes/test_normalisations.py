"""Layer normalisations become one operator, however they are written, and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

import exact
import reference
from generators import tiny
from layertap_export.graph.graph import prune
from layertap_export.graph.operators import STOP_GRADIENT
from layertap_export.graph.passes.normalisations import normalisations

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


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """The shapes of all tensors, as far as the onnx package knows them."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known: dict[str, tuple[int | None, ...]] = {
        value.name: tuple(size.dim_value or None for size in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    return known | {item.name: tuple(item.dims) for item in graph.initializer}


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
    expected = exact.run(model, names, {"x": x})
    typed = tiny.model(nodes, [tiny.value("x", SHAPE)], [], model.graph.initializer, opset=opset)
    normalisations(model, shapes_of(typed))
    prune(model, names)
    onnx.checker.check_model(model, full_check=True)
    for actual, value in zip(reference.run(model, names, {"x": x}), expected, strict=True):
        exact.close(actual, value)
    return [item.op_type for item in model.graph.node if item.op_type != "Reshape"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axes", [(3,), (2, 3), (1, 2, 3), (1, 3), (1,)], ids=str)
def test_every_form(form: str, axes: tuple[int, ...]) -> None:
    turns = [] if axes[0] + len(axes) == 4 else ["Transpose"]
    expected = [*ONE[:2], *turns, ONE[2], *turns]
    if (form, axes) == ("without both", (1, 3)):
        expected = ["Transpose", "InstanceNormalization", "Transpose"]
    assert rewritten([*MOMENTS, *FORMS[form]], axes) == expected


def test_root_mean_square() -> None:
    """In the steps that onnxruntime computes as one."""
    nodes = [
        node("Mul", "x x", "square"),
        *MOMENTS[3:],
        node("Mul", "r gamma", "i"),
        node("Mul", "x i", "y"),
    ]
    assert rewritten(nodes) == ["Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]


@pytest.mark.parametrize("form", FORMS)
def test_means_far_from_zero(form: str) -> None:
    """No digits are lost where the mean is 1000 deviations away: see `rewritten`."""
    assert rewritten([*MOMENTS, *FORMS[form]], x=X + 2000) == ONE


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


@pytest.mark.parametrize("shape", [(1, 1, 4, 5), (1, 3, 4, 1), (2, 3, 4, 5), (4, 1)], ids=str)
def test_scales_of_another_shape(shape: tuple[int, ...]) -> None:
    """The operator takes a scale along the normalised axes only. Others come behind it."""
    gamma = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    assert rewritten([*MOMENTS, *KERAS], gamma=gamma) == [*ONE, "Mul", "Add"]
    one = rewritten([*MOMENTS, *KERAS], (1, 3), gamma=gamma)
    assert one == ["Transpose", "InstanceNormalization", "Transpose", "Mul", "Add"]


def test_one_scale_stays() -> None:
    """A number is no scale of a normalisation."""
    gamma = np.full((1, 1, 1, 1), 2, np.float32)
    assert "LayerNormalization" not in rewritten([*MOMENTS, *KERAS], gamma=gamma)


STOPPED = [
    MOMENTS[0],
    node("Dropout", "mean", "stopped"),
    node("Sub", "x stopped", "centred"),
    *MOMENTS[2:],
]
STOPPED[1].doc_string = STOP_GRADIENT


def test_stopped_gradients() -> None:
    """In a variance it makes no difference that no gradient flows through the mean. Elsewhere it
    does, so that a normalisation, which has that gradient, would be another function."""
    assert rewritten([*STOPPED, *KERAS]) == ONE
    for last in (
        [node("Mul", "centred r", "y")],
        [*KERAS[:2], node("Neg", "stopped", "minus"), *KERAS[3:]],
    ):
        assert "LayerNormalization" not in rewritten([*STOPPED, *last])


@pytest.mark.parametrize("form", ["Keras", "without offset", "without both"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2, 4, 5, 6), 3), ((2, 6, 4, 5), 1), ((2, 6), 1), ((2, 3, 6), 2), ((None, 4, 5, 6), 3)],
    ids=str,
)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_groups(form: str, shape: tuple[int | None, ...], axis: int, groups: int) -> None:
    """As Keras splits channels into groups, and joins them again."""
    known = [size or 2 for size in shape]
    split = [*known[:axis], groups, known[axis] // groups, *known[axis + 1 :]]
    sizes = [size if i in (axis, axis + 1) else 1 for i, size in enumerate(split)]
    axes = [i for i in range(1, len(split)) if i != axis]
    generator = np.random.default_rng(1)
    nodes = [
        node("Reshape", "input split", "x"),
        *MOMENTS,
        *FORMS[form][:-1],
        node(FORMS[form][-1].op_type, " ".join(FORMS[form][-1].input), "z"),
        node("Reshape", "z joined", "y"),
    ]
    model = tiny.model(
        nodes,
        [tiny.value("input", shape)],
        [tiny.value("y", shape)],
        [
            constant("axes", axes),
            constant("split", [-1, *split[1:]]),
            constant("joined", [-1, *known[1:]]),
            constant("epsilon", 1e-3, np.float32),
            *(
                constant(name, generator.normal(size=sizes), np.float32)
                for name in ("gamma", "beta")
            ),
        ],
    )
    batches = [generator.normal(mean, 2, known).astype(np.float32) for mean in (0, 2000)]
    exactly = [exact.run(model, ["y"], {"input": batch})[0] for batch in batches]
    normalisations(model, shapes_of(model))
    prune(model, ["y"])
    onnx.checker.check_model(model, full_check=True)
    after = [reference.run(model, ["y"], {"input": batch})[0] for batch in batches]
    exact.close(after[0], exactly[0])
    # Digits of the mean are lost, 6e-5 of a deviation each; with squares of it none were left.
    exact.close(after[1], exactly[1], 1e-3)
    ops = [item.op_type for item in model.graph.node if item.op_type != "Reshape"]
    turns = ["Transpose"] if axis != 1 and groups > 1 else []
    factors = {"Keras": ["Mul", "Add"], "without offset": ["Mul"], "without both": []}[form]
    assert ops == [*turns, "InstanceNormalization", *turns, *factors]
