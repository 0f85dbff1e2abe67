"""What tensors are in terms of others, and which nodes read them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from generators import tiny
from layertap_export.graph.formulas import Formulas, Polynomial, Term, letter

pytestmark = pytest.mark.tensorflow  # needs the export extra; TensorFlow itself is not imported

node = tiny.node


def formulas(*steps: str, keep: str = "y", more: list[onnx.NodeProto] | None = None) -> Formulas:
    """Of a graph with the inputs x and z, the numbers two and three, and four values w."""
    nodes = [node(*step.split(":")) for step in steps] + (more or [])
    model = tiny.model(
        nodes,
        [tiny.value("x", ("n", 4)), tiny.value("z", ("n", 4), TensorProto.FLOAT16)],
        [tiny.value(name, None) for name in keep.split()],
        [
            tiny.constant("two", 2, np.float32),
            tiny.constant("three", 3, np.float32),
            tiny.weights("w", 4),
        ],
    )
    return Formulas(model.graph)


def found(*steps: str, keep: str = "y") -> set[str]:
    """The tensors that are 2 x or 3 x."""

    def match(value: Polynomial) -> bool | None:
        return True if value in ((Term(2.0, "x"),), (Term(3.0, "x"),)) else None

    return set(formulas(*steps, keep=keep).matches({"x": letter("x")}, match))


def test_polynomials() -> None:
    steps = ["Mul:x two:a", "Sub:three a:b", "Neg:b:c", "Identity:c:d", "Div:d two:e", "Mul:e w:y"]
    terms = (Term(-1.5, "", ("w",)), Term(1.0, "x", ("w",)))
    assert formulas(*steps).expressed("y", {"x": letter("x")}) == terms
    assert formulas(*steps).expressed("y", {"z": letter("z")}) is None
    assert formulas("Pow:x three:y").expressed("y", {"x": letter("x")}) == (Term(1.0, "xxx"),)
    assert formulas("Pow:two x:y").expressed("y", {"x": letter("x")}) is None


def test_the_last_match_counts() -> None:
    twice = ["Mul:x two:a", "Identity:a:b", "Relu:b:y"]
    assert found(*twice) == {"a"}
    again = ["Mul:x two:a", "Mul:x three:b", "Sub:b x:c", "Relu:c:y", "Relu:a:z2"]
    assert found(*again, keep="y z2 b") == {"a", "b"}


def test_what_follows_from_a_match_that_stays_is_none() -> None:
    chain = ["Mul:x two:a", "Mul:a one:b", "Mul:b one:y"]
    known = [step.replace("one", "unit") for step in chain]
    graph = formulas(*known, keep="a y")
    graph.values["unit"] = np.float32(1).reshape(())
    graph.constants.add("unit")

    def match(value: Polynomial) -> bool | None:
        return True if value == (Term(2.0, "x"),) else None

    assert set(graph.matches({"x": letter("x")}, match)) == {"a"}


def test_readers() -> None:
    """A tensor that the body of an If captures is read by it."""
    body = helper.make_graph([node("Relu", "a", "inner")], "body", [], [tiny.value("inner", None)])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)
    one = formulas("Mul:x two:a", "Neg:a:b")
    reader = one.only_reader("a")
    assert reader is not None
    assert reader.op_type == "Neg"
    assert formulas("Mul:x two:a", "Neg:a:b", more=[branch]).only_reader("a") is None
    assert formulas("Mul:x two:a", "Neg:a:b", keep="a").only_reader("a") is None
    assert formulas("Mul:x two:y").only_reader("y") is None


@pytest.mark.parametrize(
    ("steps", "dtype"),
    [
        (["Relu:x:y"], TensorProto.FLOAT),
        (["Relu:z:a", "Neg:a:y"], TensorProto.FLOAT16),
        (["Shape:x:a", "Where:c x a:y"], TensorProto.FLOAT),
        (["Relu:nothing:y"], 0),
    ],
)
def test_dtypes(steps: list[str], dtype: int) -> None:
    assert formulas(*steps).dtype("y") == dtype
    cast = helper.make_node("Cast", ["y"], ["end"], to=TensorProto.DOUBLE)
    assert formulas(*steps, more=[cast]).dtype("end") == TensorProto.DOUBLE
