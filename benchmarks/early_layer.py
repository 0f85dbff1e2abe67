"""One layer at the start of the network: a tap compared with plain onnxruntime."""

from __future__ import annotations

import layertap

from . import models
from .timing import PAUSE, Row, alternate, timed

ROUNDS = 60


def measure() -> list[Row]:
    """Time repeated calls, with both sessions prepared."""
    files, batch = models.files(), models.batch()
    tap = layertap.open(files.onnx).tap(models.EARLY)
    session = models.plain_session()
    feed = {session.get_inputs()[0].name: batch}

    cases = {
        "ours": lambda: tap(batch),
        "plain": lambda: session.run([models.EARLY], feed)[0],
    }
    seconds = alternate({name: timed(call, PAUSE) for name, call in cases.items()}, ROUNDS, 3)
    models.check_equal(models.EARLY, cases["ours"](), cases["plain"]())
    return [
        Row(
            what=f"one early layer, {models.EARLY}",
            peer="onnxruntime, by name from the all-layers file",
            unit="s",
            ours=seconds["ours"],
            theirs=seconds["plain"],
            most=0.05,
        )
    ]
