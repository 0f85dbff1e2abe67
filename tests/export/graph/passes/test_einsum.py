"""Each Einsum of two tensors that is a matrix product becomes one, with the same result."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from generators import tiny
from layertap_export.graph.passes.einsum import products_of_einsum

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 1, "f": 3}


def replaced(equation: str, free: str = "") -> list[str]:
    """The operators after the pass, which has not changed the result.

    Args:
        equation: with the axes of SIZES.
        free: axes whose size the graph leaves open.
    """
    terms = equation.partition("->")[0].split(",")
    known = {letter: None if letter in free else size for letter, size in SIZES.items()}
    shapes = {
        name: tuple(known.get(letter) for letter in term)
        for name, term in zip("xz", terms, strict=False)
    }
    generator = np.random.default_rng(0)
    feeds = {
        name: generator.normal(size=[SIZES.get(letter, 2) for letter in term]).astype(np.float32)
        for name, term in zip("xz", terms, strict=False)
    }
    inputs = [tiny.value(name, (None,) * len(shape)) for name, shape in shapes.items()]
    expected = np.einsum(equation, *feeds.values())
    model = tiny.model(
        [tiny.node("Einsum", " ".join(shapes), "y", equation=equation)],
        inputs,
        [tiny.value("y", (None,) * expected.ndim)],
    )
    products_of_einsum(model, {**shapes})
    onnx.checker.check_model(model, full_check=True)
    (after,) = reference.run(model, ["y"], feeds)
    reference.same(after, expected)
    return [item.op_type for item in model.graph.node]


def test_attention() -> None:
    """Of attention with free numbers of queries and keys, nothing but the order of axes changes."""
    assert replaced("aecd,abcd->acbe", "abe") == ["Transpose", "Transpose", "MatMul"]
    assert replaced("acbe,aecd->abcd", "abe") == ["Transpose", "MatMul", "Transpose"]


def test_matrix_of_weights() -> None:
    """All axes but the last stay as they are, also if several sizes are free."""
    assert replaced("abcd,de->abce", "abc") == ["MatMul"]


def test_several_free_axes_of_one_kind() -> None:
    """Their product is computed in the graph."""
    assert "Concat" in replaced("abcd,acef->abdef", "abcdef")


@pytest.mark.parametrize(
    ("shape", "reads", "operators"),
    [
        ((4, 3), "p bias", ["MatMul", "Add", "Reshape"]),
        ((4, 3), "bias p", ["MatMul", "Add", "Reshape"]),
        ((3,), "p bias", ["MatMul", "Reshape", "Add"]),
        ((1, 4, 3), "p bias", ["MatMul", "Reshape", "Add"]),
        ((2, 4, 4, 3), "p bias", ["MatMul", "Reshape", "Add"]),
    ],
    ids=str,
)
def test_bias(shape: tuple[int, ...], reads: str, operators: list[str]) -> None:
    """One value for each column is added before the columns are taken apart."""
    nodes = [
        tiny.node("Einsum", "x w", "p", equation="abc,cde->abde"),
        tiny.node("Add", reads, "y"),
    ]
    assert biased(nodes, shape) == operators


def test_products_without_bias_that_are_read_stay() -> None:
    nodes = [
        tiny.node("Einsum", "x w", "p", equation="abc,cde->abde"),
        tiny.node("Relu", "p", "q"),
        tiny.node("Add", "q bias", "r"),
        tiny.node("Add", "p bias", "s"),
        tiny.node("Add", "r s", "y"),
    ]
    assert biased(nodes, (4, 3)) == ["MatMul", "Reshape", "Relu", "Add", "Add", "Add"]


def biased(nodes: list[onnx.NodeProto], shape: tuple[int, ...]) -> list[str]:
    """The operators after the pass, without Reshapes of constants. The result is the same."""
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)}
    model = tiny.model(
        nodes,
        [tiny.value("x", ("n", 4, 5))],
        [tiny.value("y", (None,) * 4)],
        [tiny.weights("w", 5, 4, 3), tiny.weights("bias", *shape)],
    )
    expected = reference.run(model, ["y"], feeds)
    shapes: dict[str, tuple[int | None, ...]] = {"x": (None, 4, 5), "w": (5, 4, 3), "bias": shape}
    products_of_einsum(model, shapes)
    onnx.checker.check_model(model, full_check=True)
    reference.same(reference.run(model, ["y"], feeds), expected)
    constants = {item.name for item in model.graph.initializer}
    return [x.op_type for x in model.graph.node if not constants.issuperset(x.input)]


@pytest.mark.parametrize(
    "equation",
    ["aab,bc->ac", "ab,bc->c", "ab,cd->abcd", "ab,b->ab", "a...,ab->b...", "ab,bc"],
    ids=["diagonal", "summed alone", "outer", "no sum", "ellipsis", "implicit result"],
)
def test_other_sums_stay(equation: str) -> None:
    """What is not a sum over products of two axes stays an Einsum."""
    assert replaced(equation) == ["Einsum"]


@given(st.data())
def test_any_product(data: st.DataObject) -> None:
    """Any order of any axes, with any of their sizes free."""
    kinds = {
        letter: data.draw(st.sampled_from(["batch", "row", "column", "sum"])) for letter in SIZES
    }
    kinds["d"] = "sum"

    def term(without: str) -> str:
        letters = [letter for letter, kind in kinds.items() if kind != without]
        return "".join(data.draw(st.permutations(letters)))

    equation = f"{term('column')},{term('row')}->{term('sum')}"
    free = data.draw(st.sets(st.sampled_from(sorted(SIZES))))
    assert "Einsum" not in replaced(equation, "".join(sorted(free)))
