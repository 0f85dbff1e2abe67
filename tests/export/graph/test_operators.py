"""The table of operators is complete, and agrees with the standard and with the runtime."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from layertap.format.operators import MOVERS
from layertap_export.graph.operators import OPERATORS, facts

OPSET = 18

SAME_DTYPE = (
    "elementwise",
    "reduction",
    "along axis",
    "cumulative",
    "layout",
    "matrix",
    "convolution",
    "pooling",
    "normalisation",
)
"""Kinds of operators that do not change the dtype, unless the row says so."""


def current(op_type: str) -> onnx.defs.OpSchema:
    """The operator in opset 18, or, if it is newer, in the newest opset."""
    try:
        schema = onnx.defs.get_schema(op_type, OPSET, "")
    except onnx.defs.SchemaError:
        return onnx.defs.get_schema(op_type)
    return onnx.defs.get_schema(op_type) if schema.deprecated else schema


def standard() -> set[str]:
    """The operators of opset 18 in the default domain."""
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    found = set()
    for name in names:
        try:
            schema = onnx.defs.get_schema(name, OPSET, "")
        except onnx.defs.SchemaError:
            continue
        if not schema.deprecated:
            found.add(name)
    return found


def test_every_operator_of_the_opset_has_a_row() -> None:
    assert standard() - OPERATORS.keys() == set()


@pytest.mark.parametrize("op_type", OPERATORS)
def test_a_row_fits_the_standard(op_type: str) -> None:
    """The operator exists, and has the inputs and outputs that its row speaks of."""
    row, schema = OPERATORS[op_type], current(op_type)
    if row.result:
        name = onnx.TensorProto.DataType.Name(row.result).lower()
        assert schema.outputs[0].types == {f"tensor({name})"}
    elif row.kind in SAME_DTYPE:
        assert schema.outputs[0].type_str == schema.inputs[row.typed_by].type_str
    if row.kind == "along axis" and "axis" in schema.attributes:
        assert schema.attributes["axis"].default_value.i == row.axis


def test_the_rows_and_the_runtime_name_the_same_movers() -> None:
    assert {op_type for op_type, row in OPERATORS.items() if row.moves} == set(MOVERS)


def test_an_operator_of_another_domain_has_no_row() -> None:
    assert facts(helper.make_node("Relu", ["x"], ["y"])) is OPERATORS["Relu"]
    assert facts(helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")) is OPERATORS["Relu"]
    assert facts(helper.make_node("Relu", ["x"], ["y"], domain="own")) is None
    assert facts(helper.make_node("ReLU", ["x"], ["y"])) is None
