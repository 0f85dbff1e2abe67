"""Principal components as nodes, beside numpy's SVD and the runtime's kernel PCA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from layertap.cam import projections as in_numpy
from layertap_export.finishing import projections
from layertap_export.gradients.builder import Builder, Value
from layertap_export.graph.shapes.shapes import Shapes

Maps = NDArray[np.float64]
SHAPES = [(2, 3, 4, 7), (2, 3, 4, 12), (2, 3, 4, 40), (1, 5, 5, 3), (2, 1, 1, 5), (2, 5, 4, 1)]


def computed(formula: Callable[[Builder, Value], Value], maps: Maps) -> Maps:
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", "h", "w", "c"])
    graph = helper.make_graph([], "made", [x], [])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="tests"
    )
    build = Builder(model, Shapes(model), prefix="made/", names_nodes=False)
    build.output(formula(build, Value(build, "x", TensorProto.DOUBLE)), "y")
    build.finish()
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None] * 3))
    onnx.checker.check_model(model)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=providers)
    (found,) = session.run(None, {"x": maps})
    return np.asarray(found)


def maps_of(shape: tuple[int, ...]) -> Maps:
    return np.maximum(np.random.default_rng(0).normal(size=shape), 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_principal_component(shape: tuple[int, ...]) -> None:
    """With fewer positions than channels, as many, and more."""
    maps = maps_of(shape)
    found = computed(projections.principal, maps)
    for one, values in zip(found, maps, strict=True):
        places = values.reshape(-1, shape[-1])
        centred = places - places.mean(axis=0)
        _, _, directions = np.linalg.svd(centred)
        exact = centred @ directions[0]
        exact *= 1.0 if exact @ places.sum(axis=1) >= 0 else -1.0
        np.testing.assert_allclose(one.ravel(), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_component_of_a_kernel_pca(shape: tuple[int, ...]) -> None:
    maps = maps_of(shape)
    expected = np.stack([in_numpy.kernel_principal(one) for one in maps])
    np.testing.assert_allclose(computed(projections.kernel_principal, maps), expected, atol=1e-9)


@pytest.mark.parametrize("formula", [projections.principal, projections.kernel_principal])
def test_equal_positions_give_zeros(formula: Any) -> None:
    np.testing.assert_array_equal(computed(formula, np.ones((1, 4, 5, 3))), np.zeros((1, 4, 5)))


def test_the_smaller_matrix_is_squared() -> None:
    """With all 40,000 positions beside each other, it would take 13 GB and hours."""
    maps = maps_of((1, 200, 200, 2))
    exact = in_numpy.principal(maps[0])
    np.testing.assert_allclose(computed(projections.principal, maps)[0], exact, atol=1e-9)
