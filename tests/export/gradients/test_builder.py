"""What the builder takes for the same expression."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from layertap_export.gradients.builder import Builder, Value
from layertap_export.graph.shapes.shapes import Shapes


def builder() -> Builder:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    model = helper.make_model(helper.make_graph([], "made", [x], []))
    return Builder(model, Shapes(model))


def body(op_type: str) -> onnx.GraphProto:
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, [2])
    return helper.make_graph([helper.make_node(op_type, ["x"], ["made"])], "body", [], [made])


@pytest.mark.parametrize(
    ("op_type", "name", "one", "other"),
    [
        ("If", "then_branch", body("Neg"), body("Abs")),
        ("ConstantOfShape", "value", *map(numpy_helper.from_array, np.array([[1.0], [2.0]]))),
        ("Concat", "axis", 0, 1),
        ("Concat", "axis", 1, 1.0),
    ],
)
def test_equal_expressions_are_one_node(op_type: str, name: str, one: Any, other: Any) -> None:
    """Also those with graphs and tensors, whose `repr` is the same for different ones."""
    build = builder()
    x = Value(build, "x", TensorProto.FLOAT)
    first, second, third = (build.node(op_type, x, **{name: value}) for value in (one, other, one))
    assert first.name != second.name
    assert first.name == third.name
