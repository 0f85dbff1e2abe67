"""The time that layertap adds to a run of onnxruntime: checking inputs, and creating views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import layertap
from layertap._cut.plan import view
from layertap._engine.program import program_of

from . import models
from .timing import Row, alternate, timed

FIRST = "zero_padding2d"
"""The first computed layer, which is so cheap that the overhead is measurable."""


def measure() -> list[Row]:
    """Measure the differences of successive calls, with and without layertap, on one session."""
    opened = layertap.open(models.files().onnx)
    names = [layer.name for layer in opened.layers if layer.type != "InputLayer"]
    return [_row(opened, [FIRST], 500, 60e-6), _row(opened, names, 60, 1e-3)]


def _row(opened: layertap.Model, layers: Sequence[str], rounds: int, most: float) -> Row:
    batch = models.batch()
    feed = {opened.inputs[0].name: batch}
    tap = opened.tap(layers)
    program = program_of(opened)
    fetch = program.fetch(program.request(layers).tensors)  # it finds the session of the tap
    assert fetch.session is not None
    session, outputs = fetch.session.inner, fetch.outputs
    cases: dict[str, Callable[[], Any]] = {
        "tap": lambda: list(tap(batch).values()),
        "run": lambda: session.run(outputs, feed),
    }
    seconds = alternate({name: timed(call) for name, call in cases.items()}, rounds, 5)
    computed = dict(zip(fetch.plan.outputs, cases["run"](), strict=True))
    for ours, (layer, leaf) in zip(cases["tap"](), fetch.plan.leaves.items(), strict=True):
        models.check_equal(layer, ours, view(computed[leaf.source], leaf.perms))
    count = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"
    return Row(
        what=f"tap(x) on top of InferenceSession.run, {count}",
        peer="InferenceSession.run itself, same session",
        unit="s",
        ours=tuple(a - b for a, b in zip(seconds["tap"], seconds["run"], strict=True)),
        theirs=seconds["run"],
        most_ours=most,
    )
