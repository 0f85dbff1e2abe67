"""The runtime for JavaScript, in node and in Chromium: an early layer, and opening a file."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import models
from .timing import Row, Samples

if TYPE_CHECKING:
    from javascript_runtime import Runtime

ROUNDS = 15
STARTS = 5
"""Processes in which a file is opened for the first time."""

EARLY = """
const bytes = await read("chest.onnx")
const [x, layer] = [await given("x"), (await json("asked.json")).layer]
const model = await layertap.open(ort, bytes)
const session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 3 })
const feeds = { [model.inputs[0].name]: x }
const { gradients } = model.card
if (session.inputNames.includes(gradients?.weights))
  feeds[gradients.weights] = new ort.Tensor("float32", new Float32Array(14).fill(1), [1, 14])
const cases = {
  ours: () => model.activations(x, layer),
  whole: async () => (await session.run(feeds, [layer]))[layer],
}
const seconds = { ours: [], whole: [] }
for (let round = -2; round < (await json("asked.json")).rounds; round++)
  for (const [name, run] of Object.entries(cases)) {
    await new Promise((resolve) => setTimeout(resolve, 50))
    const start = performance.now()
    await run()
    if (round >= 0) seconds[name].push((performance.now() - start) / 1000)
  }
for (const [name, run] of Object.entries(cases)) keep(name, await run())
return seconds
"""

OPEN = """
const bytes = await read("chest.onnx")
let start = performance.now()
await layertap.open(ort, bytes)
const ours = (performance.now() - start) / 1000
start = performance.now()
await ort.InferenceSession.create(bytes, { logSeverityLevel: 3 })
return { ours: [ours], whole: [(performance.now() - start) / 1000] }
"""


def measure() -> list[Row]:
    """Time calls inside the engine; nothing if node or its packages are missing."""
    sys.path.append(str(models.REPOSITORY / "tests"))
    from javascript_runtime import Browser, Runtime, missing

    rows: list[Row] = []
    for kind in (Runtime, Browser):
        reason = missing(chromium=kind is Browser)
        if reason:
            print(f"{kind.name} is not measured: {reason}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            runtime = kind(Path(folder))
            try:
                rows += _early(runtime)
                if kind is Runtime:
                    rows += _opened(runtime)
            finally:
                runtime.close()
    return rows


def _run(runtime: Runtime, code: str) -> dict[str, list[float]]:
    files = models.files()
    asked = f'{{"layer": "{models.EARLY}", "rounds": {ROUNDS}}}'.encode()
    given = {"chest.onnx": files.onnx.read_bytes(), "asked.json": asked}
    done = runtime.run(code, {"x": np.load(files.batch)}, given)
    if done.arrays:
        models.check_equal(models.EARLY, done.arrays["ours"], done.arrays["whole"])
    seconds: dict[str, list[float]] = done.value
    return seconds


def _early(runtime: Runtime) -> list[Row]:
    seconds = _run(runtime, EARLY)
    return [
        Row(
            what=f"one early layer, {models.EARLY}, in {runtime.name}",
            peer="onnxruntime for JavaScript, by name from the all-layers file",
            unit="s",
            ours=tuple(seconds["ours"]),
            theirs=tuple(seconds["whole"]),
            most=0.05,
        )
    ]


def _opened(runtime: Runtime) -> list[Row]:
    runs = [_run(runtime, OPEN) for _ in range(STARTS)]
    ours: Samples = tuple(run["ours"][0] for run in runs)
    return [
        Row(
            what="opening the chest model in node, first in the process",
            peer="onnxruntime-node, a session on the all-layers file",
            unit="s",
            ours=ours,
            theirs=tuple(run["whole"][0] for run in runs),
            most_ours=0.1,
        )
    ]
