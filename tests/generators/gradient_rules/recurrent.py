"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from generators.gradient_rules.operators import Array, Case
from generators.gradient_rules.values import numbers

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, ROWS, WIDTH, HIDDEN = 4, 2, 3, 2


def _case(
    op_type: str,
    *,
    bias: bool = True,
    lengths: tuple[int, ...] | None = None,
    states: bool = False,
    outputs: int = 1,
    opsets: tuple[int, ...] = (18,),
    **attributes: Any,
) -> Case:
    """An operator of 2 units on 2 sequences of 4 steps."""
    count, gates = (2 if attributes.get("direction") == "bidirectional" else 1), GATES[op_type]
    size = gates * HIDDEN
    first = numbers(count, ROWS, HIDDEN, seed=5) * 0.5
    inputs: dict[str, Array | None] = {
        "x": numbers(STEPS, ROWS, WIDTH),
        "w_": numbers(count, size, WIDTH, seed=2) * 0.5,
        "r_": numbers(count, size, HIDDEN, seed=3) * 0.5,
        "b_": numbers(count, 2 * size, seed=4) * 0.5 if bias else None,
        "lengths": None if lengths is None else np.array(lengths, np.int32),
        "h": first.astype(np.float32) if states else None,
    }
    if op_type == "LSTM":
        inputs["c"] = (first + 0.25).astype(np.float32) if states else None
    return Case(
        op_type,
        {
            k: v if v is None or v.dtype.kind != "f" else v.astype(np.float32)
            for k, v in inputs.items()
        },
        {"hidden_size": HIDDEN, **attributes},
        outputs=outputs,
        opsets=opsets,
        rows=False,
    )


FORMS: Mapping[str, Mapping[str, Any]] = {
    "": {"opsets": (13, 14, 18, 22)},
    " without biases": {"bias": False},
    " from states": {"states": True},
    " reversed": {"direction": "reverse", "states": True},
    " both ways": {"direction": "bidirectional", "states": True},
    " of sequences": {"lengths": (4, 2), "states": True},
    " of sequences, reversed": {"lengths": (1, 3), "direction": "reverse"},
    " of sequences, both ways": {"lengths": (0, 3), "direction": "bidirectional"},
}

PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "Relu": {},
    "Sigmoid": {},
    "LeakyRelu": {},
    "Elu": {"activation_alpha": [0.7]},
    "ThresholdedRelu": {"activation_alpha": [0.4]},
}

CASES: Mapping[str, Case] = {
    **{
        f"{op_type}{name}": _case(op_type, **options)
        for op_type in GATES
        for name, options in FORMS.items()
    },
    "GRU after reset": _case("GRU", linear_before_reset=1, states=True),
    "GRU after reset without biases": _case("GRU", linear_before_reset=1, bias=False),
    "GRU after reset both ways": _case("GRU", linear_before_reset=1, direction="bidirectional"),
    "LSTM of other activations": _case(
        "LSTM",
        activations=["HardSigmoid", "Softsign", "ScaledTanh"],
        activation_alpha=[0.3, 1.5],
        activation_beta=[0.4, 0.8],
    ),
    "GRU of other activations": _case(
        "GRU",
        direction="bidirectional",
        activations=["Affine", "Softplus", "Sigmoid", "Elu"],
        activation_alpha=[0.5, 0.9],
        activation_beta=[0.1],
    ),
    **{
        f"RNN of {name}": _case("RNN", activations=[name], **more)
        for name, more in PARAMETERS.items()
    },
}
