"""The operators that replace those of the reference evaluator.

That they compute what onnxruntime computes is asserted with every rule, in `test_rules`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
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


# --- Recurrent operators ------------------------------------------------------------------------

FUNCTIONS = ("Sigmoid", "Tanh", "Relu", "Affine", "LeakyRelu", "HardSigmoid", "Elu", "Softsign")


@st.composite
def recurrent(draw: st.DrawFn) -> tuple[str, dict[str, Any], set[str], int]:
    """An operator, its attributes, the optional inputs that it has, and a seed."""
    op_type = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    attributes: dict[str, Any] = {"hidden_size": 3, "direction": direction}
    if draw(st.booleans()):
        count = {"LSTM": 3, "GRU": 2, "RNN": 1}[op_type] * (1 + (direction == "bidirectional"))
        names = draw(st.lists(st.sampled_from(FUNCTIONS), min_size=count, max_size=count))
        attributes["activations"] = names
        for key, owners in (("alpha", ("Affine", "LeakyRelu", "HardSigmoid", "Elu")),
                            ("beta", ("Affine", "HardSigmoid"))):  # fmt: skip
            values = [0.25] * sum(name in owners for name in names)
            if values:
                attributes[f"activation_{key}"] = values
    if op_type == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    optional = ["B", "lengths", "h", *(["c", "P"] if op_type == "LSTM" else [])]
    given_inputs = {name for name in optional if draw(st.booleans())}
    return op_type, attributes, given_inputs, draw(st.integers(0, 99))


@given(case=recurrent())
@settings(deadline=None, max_examples=60)
def test_recurrent_operators_compute_what_onnxruntime_does(
    case: tuple[str, dict[str, Any], set[str], int],
) -> None:
    op_type, attributes, present, seed = case
    ways = 1 + (attributes["direction"] == "bidirectional")
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
    shapes = {
        "x": [5, 2, 4], "W": [ways, 3 * gates, 4], "R": [ways, 3 * gates, 3],
        "B": [ways, 6 * gates], "lengths": [2], "h": [ways, 2, 3], "c": [ways, 2, 3],
        "P": [ways, 9],
    }  # fmt: skip
    names = ["x", "W", "R", "B", "lengths", "h", *(["c", "P"] if op_type == "LSTM" else [])]
    used = [name for name in names if name in {"x", "W", "R", *present}]
    inputs = " ".join(name if name in used else "_" for name in names)
    rng = np.random.default_rng(seed)
    feeds = {name: rng.normal(0, 0.5, shapes[name]).astype(np.float32) for name in used}
    if "lengths" in feeds:
        feeds["lengths"] = rng.integers(1, 6, 2).astype(np.int32)
    outputs = ["y", "last", *(["cell"] if op_type == "LSTM" else [])]
    made = model(
        [node(op_type, inputs, " ".join(outputs), **attributes)],
        [value(name, shapes[name], 6 if name == "lengths" else 1) for name in used],
        [value(name, None, 1) for name in outputs],
    )
    expected = reference.session(made.SerializeToString()).run(None, feeds)
    wide = {name: x if x.dtype == np.int32 else x.astype(np.float64) for name, x in feeds.items()}
    evaluated: Any = evaluator(made)
    for actual, right in zip(evaluated.run(None, wide), expected, strict=True):
        assert actual.dtype == np.float64
        np.testing.assert_allclose(actual, right, atol=2e-6 * max(1, np.abs(right).max()))
