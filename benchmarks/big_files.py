"""A file of half a gigabyte, VGG16: the time to open it, and the memory for its layers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import layertap

from . import models
from .peaks import peak
from .timing import Row, alternate, timed

ROUNDS = 3
EARLY, LATE = "block1_conv2", "predictions"


def measure() -> list[Row]:
    """Measure the time to open in this process, and memory in new processes."""
    import numpy as np

    files = models.files("vgg16")
    size = files.onnx.stat().st_size
    opening = alternate({"open": timed(lambda: layertap.open(files.onnx))}, 15, 1)["open"]
    rows = [
        Row(
            what=f"opening a file of {size / 1e6:.0f} MB",
            peer="reading it whole",
            unit="s",
            ours=opening,
            theirs=alternate({"read": timed(files.onnx.read_bytes)}, 15, 1)["read"],
            most_ours=0.050,
        )
    ]
    with tempfile.TemporaryDirectory() as folder:

        def case(name: str, layer: str, *options: str) -> Callable[[], float]:
            return lambda: peak(files, layer, Path(folder, f"{name}.npy"), *options)

        cases = {
            "early": case("early", EARLY),
            "whole": case("whole", LATE),
            "shared": case("shared", LATE, "share_weights"),
        }
        peaks = alternate(cases, ROUNDS, 0)
        session = models.plain_session(files.onnx)
        feed = {session.get_inputs()[0].name: models.batch("vgg16")}
        for name, layer in (("early", EARLY), ("whole", LATE), ("shared", LATE)):
            theirs = session.run([layer], feed)[0]
            models.check_equal(layer, np.load(Path(folder, f"{name}.npy")), theirs)
    for name, what, most in (
        ("early", f"an early layer of it, {EARLY}: peak memory beyond the imports", 0.3),
        ("whole", "the whole network: peak memory", 1.7),
        ("shared", "the same with share_weights=True", 1.2),
    ):
        rows.append(
            Row(
                what=what,
                peer="the size of the file",
                unit="MB",
                ours=peaks[name],
                theirs=(size / 1e6,) * ROUNDS,
                most=most,
            )
        )
    return rows
