"""One layer at the start of the network: a tap, beside plain onnxruntime."""

from __future__ import annotations

import layertap

from . import chest
from .timing import PAUSE, Row, alternate, timed

ROUNDS = 60


def measure() -> list[Row]:
    """Steady calls; both sessions are ready before."""
    files, batch = chest.files(), chest.batch()
    tap = layertap.open(files.onnx).tap(chest.EARLY)
    session = chest.plain_session()
    feed = {session.get_inputs()[0].name: batch}

    cases = {
        "ours": lambda: tap(batch),
        "plain": lambda: session.run([chest.EARLY], feed)[0],
    }
    seconds = alternate({name: timed(call, PAUSE) for name, call in cases.items()}, ROUNDS, 3)
    chest.check_equal(chest.EARLY, cases["ours"](), cases["plain"]())
    return [
        Row(
            what=f"one early layer, {chest.EARLY}",
            peer="onnxruntime, by name from the all-layers file",
            unit="s",
            ours=seconds["ours"],
            theirs=seconds["plain"],
            most=0.05,
        )
    ]
