"""Other tools for the same activations: Polygraphy with marked outputs, OpenVINO on the cut."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import layertap

from . import models
from .cutting import cut, index
from .machine import cores
from .timing import PAUSE, Row, alternate, timed

ROUNDS = 30
PACKAGES = ("polygraphy", "openvino")
"""Packages of the `bench` extra. Those that are not installed are skipped."""


def measure() -> list[Row]:
    """Time repeated calls, with all sessions and compiled models prepared."""
    makers = {"polygraphy": _polygraphy, "openvino": _openvino}
    batch = models.batch()
    opened = layertap.open(models.files().onnx)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for layer in (models.EARLY, models.LATE):
            tap = opened.tap(layer)
            peers = {
                package: make(layer, Path(folder))
                for package, make in makers.items()
                if find_spec(package)
            }
            cases: dict[str, Callable[[], Any]] = {"ours": lambda tap=tap: tap(batch)}
            cases |= {name: lambda run=run: run(batch) for name, (_, run) in peers.items()}
            seconds = alternate(
                {name: timed(call, PAUSE) for name, call in cases.items()}, ROUNDS, 3
            )
            values = {name: call() for name, call in cases.items()}
            for name, (title, _) in peers.items():
                models.check_equal(f"{layer}, {name}", values["ours"], values[name])
                rows.append(
                    Row(
                        what=f"one layer, {layer}",
                        peer=title,
                        unit="s",
                        ours=seconds["ours"],
                        theirs=seconds[name],
                    )
                )
    return rows


Peer = tuple[str, Callable[[Any], Any]]


def _polygraphy(layer: str, folder: Path) -> Peer:
    """Polygraphy's method: mark the layer as an output, and run the model with onnxruntime."""
    from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs, OnnxFromPath
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.ERROR
    marked = ModifyOutputs(OnnxFromPath(str(models.files().onnx)), outputs=[layer])
    runner = OnnxrtRunner(SessionFromOnnx(BytesFromOnnx(marked)))
    runner.activate()
    (name,) = runner.get_input_metadata()
    return "Polygraphy, that output marked", lambda batch: runner.infer({name: batch})[layer]


def _openvino(layer: str, folder: Path) -> Peer:
    """OpenVINO with the same cut; the output is channels first, so it is transposed to a view."""
    import openvino

    file = folder / f"{layer}.onnx"
    file.write_bytes(cut(models.files().onnx, index(models.files().onnx), layer))
    compiled = openvino.Core().compile_model(
        file, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores()}
    )

    def run(batch: Any) -> Any:
        return compiled(batch)[0].transpose(0, 2, 3, 1)

    return "OpenVINO on the same cut, float32", run
