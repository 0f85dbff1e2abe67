"""Quantised models: a layer has the same values alone and beside all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import layertap
from generators.tiny import constant, model, node, value, weights

SCALE = 0.03


def quantised(**more: Any) -> onnx.ModelProto:
    """Images (n, 3, 8, 8) -> three convolutions of int8, as onnxruntime's quantiser writes them."""
    nodes: list[Any] = []
    kernels, now = [], "x"
    for at in range(3):
        kernel = onnx.numpy_helper.to_array(weights(f"k{at}", 6, 3 if at == 0 else 6, 3, 3))
        kernels.append(constant(f"k{at}", np.rint(kernel / 3 * 127).clip(-127, 127), np.int8))
        nodes += [
            node("QuantizeLinear", f"{now} scale zero", f"q{at}"),
            node("DequantizeLinear", f"q{at} scale zero", f"d{at}"),
            node("DequantizeLinear", f"k{at} small zero", f"w{at}"),
            node("Conv", f"d{at} w{at}", f"c{at}", pads=[1, 1, 1, 1]),
            node("Relu", f"c{at}", f"r{at}"),
        ]
        now = f"r{at}"
    nodes += [
        node("QuantizeLinear", f"{now} scale zero", "q"),
        node("DequantizeLinear", "q scale zero", "y"),
    ]
    return model(
        nodes,
        [value("x", ["n", 3, 8, 8])],
        [value("y", ["n", 6, 8, 8])],
        [
            *kernels,
            constant("scale", SCALE, np.float32),
            constant("small", 1 / 700, np.float32),
            constant("zero", 0, np.int8),
        ],
        **more,
    )


@pytest.fixture(scope="module")
def opened() -> Iterator[layertap.Model]:
    with layertap.open(quantised().SerializeToString()) as made:
        yield made


@pytest.fixture(scope="module")
def x() -> Any:
    return np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)


def test_each_layer_alone_is_what_it_is_beside_all_others(opened: layertap.Model, x: Any) -> None:
    together = opened.activations(x)
    assert set(together) > {"r0", "d1", "r1", "r2", "y"}
    for name, expected in together.items():
        np.testing.assert_array_equal(opened.activations(x, name), expected, err_msg=name)


def test_layers_are_what_the_file_defines(opened: layertap.Model, x: Any) -> None:
    """By the reference evaluator of ONNX; rounding may put a value one step away."""
    made = quantised(opset=21, ir_version=10)  # the first opset that the evaluator computes
    names = ["r0", "d1", "r1", "d2", "y"]
    for name in names[:-1]:
        made.graph.output.append(value(name, None))
    expected = dict(
        zip(["y", *names[:-1]], ReferenceEvaluator(made).run(None, {"x": x}), strict=True)
    )
    for name in names:
        found = opened.activations(x, name)
        steps = np.abs(found - expected[name]) / SCALE
        assert steps.max() < 1.01, name
        assert (steps > 0.01).mean() < 0.002, name


def test_predictions_are_computed_in_integers(opened: layertap.Model, x: Any) -> None:
    """As onnxruntime runs the file, and within a few steps of what it defines."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        quantised().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(opened.predict(x), session.run(["y"], {"x": x})[0])
    assert np.abs(opened.predict(x) - opened.activations(x, "y")).max() < 4 * SCALE


def test_the_callers_option_is_used(x: Any) -> None:
    data = quantised().SerializeToString()
    fused = layertap.open(data, session_options={"session.disable_quant_qdq": "0"})
    np.testing.assert_array_equal(fused.activations(x, "y"), fused.predict(x))
