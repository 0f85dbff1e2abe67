"""The operators that replace those of the reference evaluator.

That they compute what onnxruntime computes is asserted with every rule, in `test_rules`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from generators.tiny import model, node, value
from layertap_export.graph import operators
from layertap_export.verification.float64_operators import REPLACEMENTS, evaluator


def test_float64_stays_float64() -> None:
    made = model([node("Erf", "x", "y")], [value("x", [3], 11)], [value("y", [3], 11)])
    reference: Any = evaluator(made)
    (y,) = reference.run(None, {"x": np.array([0.1, 1e-9, 2.0])})
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, [0.1124629160182849, 1.1283791670955126e-9, 0.9953222650189527])


def test_the_table_of_operators_names_them() -> None:
    named = {op_type for op_type, row in operators.OPERATORS.items() if row.own_float64}
    assert {operator.__name__ for operator in REPLACEMENTS} == named


@pytest.mark.parametrize("operator", REPLACEMENTS, ids=lambda operator: operator.__name__)
def test_each_says_what_it_computes(operator: type) -> None:
    assert operator.__doc__
    assert operator.op_domain == ""  # type: ignore[attr-defined]
