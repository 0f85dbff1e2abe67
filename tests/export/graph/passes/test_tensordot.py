"""Products that TensorFlow took apart become one MatMul, and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import reference
from generators import tiny
from layertap_export.graph.graph import prune
from layertap_export.graph.passes.tensordot import restore_products

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

node, constant = tiny.node, tiny.constant
X = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)


def arithmetic(axes: str = "axes", of: str = "x") -> list[onnx.NodeProto]:
    """The sizes of the result, as TensorFlow computes them."""
    return [
        node("Shape", of, "shape"),
        node("Cast", "shape", "shape32", to=TensorProto.INT32),
        node("Gather", f"shape32 {axes}", "outer"),
        node("Concat", "outer columns", "joined", axis=0),
        node("Cast", "joined", "sizes", to=TensorProto.INT64),
    ]


def product(target: str) -> list[onnx.NodeProto]:
    return [
        node("Reshape", "x rows", "flat"),
        node("MatMul", "flat w", "product"),
        node("Reshape", f"product {target}", "y"),
    ]


def restored(
    nodes: Sequence[onnx.NodeProto],
    known: tuple[int | None, ...],
    result: tuple[int | None, ...],
    *more: onnx.TensorProto,
) -> list[str]:
    """The operators after the pass, which has not changed the result."""
    model = tiny.model(
        nodes,
        [tiny.value("x", known), tiny.value("z", ("a", "b", "c", "d"))],
        [tiny.value("y", (None,) * 4)],
        [
            constant("rows", [-1, 3]),
            tiny.weights("w", 3, 5),
            constant("axes", [0, 1, 2]),
            constant("swapped", [0, 2, 1]),
            constant("columns", [5], np.int32),
            *more,
        ],
    )
    feeds = {"x": X, "z": X}
    (before,) = reference.run(model, ["y"], feeds)
    restore_products(model, {"x": known, "flat": (None, 3), "y": result})
    prune(model, ["y"])
    onnx.checker.check_model(model, full_check=True)
    (after,) = reference.run(model, ["y"], feeds)
    reference.same(after, before)
    return [item.op_type for item in model.graph.node]


FREE = (None, None, None, 3)
STAY = ["Reshape", "MatMul", "Reshape"]


def test_all_sizes_known_but_one() -> None:
    target = constant("target", [-1, 4, 4, 5])
    assert restored(product("target"), (None, 4, 4, 3), (None, 4, 4, 5), target) == ["MatMul"]


def test_free_sizes_that_are_taken_from_the_input() -> None:
    assert restored([*arithmetic(), *product("sizes")], FREE, (None, None, None, 5)) == ["MatMul"]


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([*arithmetic("swapped"), *product("sizes")], id="height and width swapped"),
        pytest.param([*arithmetic(of="z"), *product("sizes")], id="another tensor's sizes"),
        pytest.param(product("target"), id="sizes from nowhere"),
    ],
)
def test_free_sizes_that_may_be_others(nodes: list[onnx.NodeProto]) -> None:
    target = constant("target", [2, 4, -1, 5])
    assert restored(nodes, FREE, (None, None, None, 5), target)[-3:] == STAY


def test_a_result_of_another_shape() -> None:
    target = constant("target", [-1, 2, 8, 5])
    assert restored(product("target"), (None, 4, 4, 3), (None, 2, 8, 5), target) == STAY


def test_rows_that_are_half_of_the_last_axis() -> None:
    """The result has twice as many samples, which the unknown size does not show."""
    model = tiny.model(
        product("target"),
        [tiny.value("x", (None, 4, 4, 6))],
        [tiny.value("y", None)],
        [constant("rows", [-1, 3]), tiny.weights("w", 3, 5), constant("target", [-1, 4, 4, 5])],
    )
    restore_products(model, {"x": (None, 4, 4, 6), "flat": (None, 3), "y": (None, 4, 4, 5)})
    assert [item.op_type for item in model.graph.node] == STAY
