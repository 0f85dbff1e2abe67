"""Recurrent layers: an exported file beside an ONNX operator written by hand, and OpenVINO."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import layertap
from layertap._engine.program import program_of

from . import models
from .machine import cores
from .timing import PAUSE, Row, alternate, compare, timed

ROUNDS = 60
SAMPLES, STEPS, FEATURES, UNITS = 8, 64, 64, 128
TARGET = 1.2
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "RNN": (0,)}
"""ONNX's gates in Keras's order."""

CASES: Mapping[str, tuple[str, bool, bool]] = {
    "LSTM": ("LSTM", False, False),
    "LSTM, masked": ("LSTM", True, False),
    "Bidirectional LSTM": ("LSTM", False, True),
    "GRU": ("GRU", False, False),
    "GRU, masked": ("GRU", True, False),
    "Bidirectional GRU": ("GRU", False, True),
    "SimpleRNN": ("RNN", False, False),
    "SimpleRNN, masked": ("RNN", True, False),
}
"""The operator, whether a mask says how long each sequence is, and whether it runs both ways."""


def measure() -> list[Row]:
    """Time repeated calls, with all sessions prepared."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for what, case in CASES.items():
            rows += _measure(what, *case, Path(folder))
    return rows


def _measure(what: str, operator: str, masked: bool, both_ways: bool, folder: Path) -> list[Row]:
    import layertap_export

    model = _keras_model(operator, masked, both_ways)
    exported, by_hand = folder / "exported.onnx", folder / "by_hand.onnx"
    layertap_export.export(model, exported)
    onnx.save(_by_hand(operator, model.get_weights(), masked, both_ways), by_hand)
    feeds = _feeds(masked)
    calls: dict[str, Callable[[], Any]] = {
        "ours": _run(exported, feeds),
        "by hand": _run(by_hand, feeds),
    }
    models.check_equal(what, calls["ours"](), calls["by hand"]())
    shown: dict[str, tuple[str, float | None]] = {
        "by hand": (f"the {operator} operator written by hand", TARGET)
    }
    if find_spec("openvino"):
        calls["openvino"] = _openvino(exported, feeds)
        models.check_equal(f"{what}, OpenVINO", calls["openvino"](), calls["ours"]())
        shown["openvino"] = ("OpenVINO on our file, float32", None)
    seconds = alternate({name: timed(call, PAUSE) for name, call in calls.items()}, ROUNDS, 3)
    size = f"{SAMPLES} x {STEPS} x {FEATURES} to {UNITS} units"
    return compare(f"{what}, {size}", seconds, shown)


def _keras_model(operator: str, masked: bool, both_ways: bool) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    cls = {"LSTM": "LSTM", "GRU": "GRU", "RNN": "SimpleRNN"}[operator]
    layer = getattr(keras.layers, cls)(
        UNITS,
        return_sequences=True,
        zero_output_for_mask=masked,  # as ONNX's operators do
        name="layer",
    )
    if both_ways:
        layer = keras.layers.Bidirectional(layer, name="both")
    entry = keras.Input((None, FEATURES), name="x")
    if not masked:
        return keras.Model(entry, layer(entry))
    mask = keras.Input((None,), dtype="bool", name="mask")
    return keras.Model([entry, mask], layer(entry, mask=mask))


def _feeds(masked: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {"x": rng.uniform(-1, 1, (SAMPLES, STEPS, FEATURES)).astype(np.float32)}
    if masked:
        feeds["mask"] = np.arange(STEPS) < rng.integers(STEPS // 2, STEPS + 1, (SAMPLES, 1))
    return feeds


def _by_hand(operator: str, weights: list[Any], masked: bool, both_ways: bool) -> onnx.ModelProto:
    """The shortest graph with the operator that gives Keras's outputs."""
    nodes = [helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "time", FEATURES])]
    constants = {"shape": np.array([0, 0, (1 + both_ways) * UNITS])}
    parts = [_weights(operator, *weights[i : i + 3]) for i in range(0, len(weights), 3)]
    for name, arrays in zip("WRB", zip(*parts, strict=True), strict=True):
        constants[name] = np.stack(arrays).astype(np.float32)
    lengths = ""
    if masked:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, ["n", "time"]))
        constants["one"] = np.array([1])
        nodes += [
            helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.INT32),
            helper.make_node("ReduceSum", ["kept", "one"], ["lengths"], keepdims=0),
        ]
        lengths = "lengths"
    attributes: dict[str, Any] = {"direction": "bidirectional"} if both_ways else {}
    if operator == "GRU":
        attributes["linear_before_reset"] = 1
    nodes += [
        helper.make_node(
            operator, ["steps", "W", "R", "B", lengths], ["all"], hidden_size=UNITS, **attributes
        ),
        helper.make_node("Transpose", ["all"], ["swapped"], perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["swapped", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "by_hand",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _weights(operator: str, kernel: Any, recurrent_kernel: Any, bias: Any) -> tuple[Any, Any, Any]:
    """The inputs W, R and B of one direction."""
    rows = np.concatenate([np.arange(UNITS) + UNITS * gate for gate in GATES[operator]])
    both = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
    return kernel.T[rows], recurrent_kernel.T[rows], both[:, rows].ravel()


def _run(file: Path, feeds: Mapping[str, Any]) -> Callable[[], Any]:
    model = layertap.open(file)
    (output,) = model.outputs
    fetch = program_of(model).fetch([output.name])
    return lambda: fetch(feeds)[output.name]


def _openvino(file: Path, feeds: Mapping[str, Any]) -> Callable[[], Any]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores()}
    compiled = openvino.Core().compile_model(file, "CPU", settings)
    (output,) = layertap.open(file).outputs
    return lambda: compiled(feeds)[output.name]
