"""The check against the golden sample: which layer of a tampered file diverges first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import layertap
from generators import tiny
from javascript_runtime import Runtime
from layertap.comparing.golden import feeds
from layertap.format.card import KEY, Card, Golden, GoldenInput, TensorInfo
from layertap_export.verification.golden_values import golden_layer

CHECK = """
const model = await layertap.open(ort, await read("model.onnx"))
const report = await model.check()
const { passed, tolerance, layers, failed } = report
const loose = (await model.check({ tolerance: 1e9 })).passed
return { passed, tolerance, layers, failed, text: String(report), loose }
"""


def with_golden(
    made: onnx.ModelProto, inputs: tuple[GoldenInput, ...], seed: int = 0
) -> onnx.ModelProto:
    """A model with a golden sample of all its outputs."""
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    card = Card.from_json(prop.value)
    golden = Golden(seed=seed, inputs=inputs, layers={})
    arrays = feeds(golden, card.inputs)
    names = [item.name for item in made.graph.output]
    import onnxruntime

    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = dict(zip(names, session.run(names, arrays), strict=True))
    layers = {name: golden_layer(value) for name, value in values.items()}
    prop.value = replace(card, golden=replace(golden, layers=layers)).to_json()
    return made


def image_sample() -> onnx.ModelProto:
    made = tiny.differentiable()
    return with_golden(made, (GoldenInput(name="image", shape=(2, 8, 6, 3), low=-3.0, high=2.0),))


def test_a_healthy_file_passes(runtime: Runtime) -> None:
    report = runtime.run(CHECK, files={"model.onnx": image_sample().SerializeToString()}).value
    assert report["passed"]
    assert report["tolerance"] == 1e-4
    names = [layer["name"] for layer in report["layers"]]
    assert names[:4] == ["conv", "relu", "mixed", "last"]
    assert "grad/conv" in names
    assert max(layer["scaled"] for layer in report["layers"]) < 5e-6
    assert report["text"].startswith(f"{len(names)} tensors agree with the golden sample")


def test_a_quantised_file_may_differ_by_what_was_measured(runtime: Runtime, tmp_path: Path) -> None:
    from layertap_export import quantize

    generator = np.random.default_rng(0)
    images = generator.random((8, 8, 8, 1), np.float32)
    file = tiny.save(tiny.digits(), tmp_path / "plain.onnx")
    for to in ("float16", "int8"):
        report = quantize(file, tmp_path / f"{to}.onnx", to=to, calibrate=images)
        assert report.card.quantized is not None
        found = runtime.run(CHECK, files={"model.onnx": report.path.read_bytes()}).value
        assert found["passed"], found["text"]
        allowed = {layer["name"]: layer["allowed"] for layer in found["layers"]}
        for name, deviation in report.card.quantized.golden.items():
            assert allowed[name] == pytest.approx(1e-4 + 1.5 * deviation)


def test_a_tampered_file_says_which_layer(runtime: Runtime) -> None:
    for factor in (1.001, np.nan):
        made = image_sample()
        for item in made.graph.initializer:
            if item.name == "kernel2":
                value = numpy_helper.to_array(item).copy()
                value[3] *= np.float32(factor)
                item.CopyFrom(numpy_helper.from_array(value, item.name))
        report = runtime.run(CHECK, files={"model.onnx": made.SerializeToString()}).value
        assert not report["passed"]
        assert report["failed"][0]["name"] == "mixed"
        assert "The first to diverge is 'mixed'" in report["text"]
        assert report["loose"] == (factor == factor)


def test_inputs_of_every_dtype_are_those_of_the_formula(runtime: Runtime) -> None:
    """Each layer is its input, so the golden values are those of the generated sample."""
    kinds: dict[str, tuple[int, dict[str, Any]]] = {
        "float32": (TensorProto.FLOAT, {"low": -3.0, "high": 2.0}),
        "float64": (TensorProto.DOUBLE, {"low": 0.1, "high": 1e9}),
        "float16": (TensorProto.FLOAT16, {"low": -1.0, "high": 1.0}),
        "int64": (TensorProto.INT64, {"low": -5.0, "high": 1000.0}),
        "int32": (TensorProto.INT32, {"low": 0.0, "high": 7.0}),
        "uint8": (TensorProto.UINT8, {"low": 0.0, "high": 256.0}),
        "bool": (TensorProto.BOOL, {"low": 0.0, "high": 1.0}),
        "keys": (TensorProto.INT64, {"low": 0.0, "high": 3.0, "choices": (7, -11, 13)}),
        "steps": (TensorProto.INT64, {"low": 2.0, "high": 9.0, "step": 1.75}),
    }
    names = {name: f"in/{name}" for name in kinds}
    nodes = [tiny.node("Identity", names[name], name) for name in kinds]
    shape = (3, 5, 41)
    made = tiny.model(
        nodes,
        [tiny.value(names[name], shape, kind) for name, (kind, _) in kinds.items()],
        [tiny.value(name, shape, kind) for name, (kind, _) in kinds.items()],
        card=tiny.card([], {}, {}),
    )
    (prop,) = (item for item in made.metadata_props if item.key == KEY)

    def info(name: str, kind: int) -> TensorInfo:
        return TensorInfo(name=name, shape=shape, dtype=helper.tensor_dtype_to_np_dtype(kind).name)

    prop.value = replace(
        Card.from_json(prop.value),
        inputs=tuple(info(names[name], kind) for name, (kind, _) in kinds.items()),
        outputs=tuple(info(name, kind) for name, (kind, _) in kinds.items()),
    ).to_json()
    inputs = tuple(
        GoldenInput(name=names[name], shape=shape, **draw) for name, (_, draw) in kinds.items()
    )
    for seed in (0, 1, 2**40 + 12345):
        data = with_golden(made, inputs, seed).SerializeToString()
        report = runtime.run(CHECK, files={"model.onnx": data}).value
        assert len(report["layers"]) == len(kinds)
        assert max(layer["scaled"] for layer in report["layers"]) < 5e-6, report["layers"]
        assert layertap.open(data).card is not None
