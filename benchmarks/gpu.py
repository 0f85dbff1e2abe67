"""An NVIDIA card beside the CPU: `python -m benchmarks.gpu`.

All layers of the chest model are compared with what the CPU gives, then images per second are
printed by batch size: of the late layer and of all layers, as arrays and left on the card. Where
there is no such card, that is said, and nothing is done.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import layertap

from . import machine, models

BATCHES = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 20
SECONDS = 5.0
"""For one figure, at most."""

SETTINGS: Mapping[str, Mapping[str, bool]] = {
    "float32": {},
    "float32, NHWC": {"prefer_nhwc": True},
    "TF32": {"tf32": True},
    "TF32, NHWC": {"tf32": True, "prefer_nhwc": True},
}
TOLERANCES = {False: models.TOLERANCE, True: 1e-2}
"""Largest difference over the largest value, by whether TF32 is on: it has 10 bits of mantissa."""


def main() -> int:
    """Exit code 1 if a layer differs, 0 if all is well or there is no card."""
    file = _file()
    try:
        layertap.open(file, device="cuda")
    except layertap.DeviceError as exc:
        print(f"Nothing was measured, because {exc}")
        return 0
    print(f"{_card()}; {machine.versions(['onnxruntime-gpu'])}\n")
    names = [layer.name for layer in layertap.open(file).layers if layer.type != "InputLayer"]
    opened = {
        title: layertap.open(file, device="cuda", **options) for title, options in SETTINGS.items()
    }
    failed = [title for title, model in opened.items() if not _agrees(title, model, file, names)]
    print(f"\n{_head()}")
    for title, model in opened.items():
        for what, layers in ((models.LATE, models.LATE), (f"all {len(names)} layers", names)):
            for on_device in (False, True):
                where = "left on the card" if on_device else "as arrays"
                tap = model.tap(layers, on_device=on_device)
                print(_line(f"{title}, {what}, {where}", tap), flush=True)
    return int(bool(failed))


def _file() -> Any:
    """The chest model; its maker, TensorFlow, is not to see the card."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    machine.quiet()
    file = models.files().onnx
    if visible is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    return file


def _card() -> str:
    if not shutil.which("nvidia-smi"):
        return "an NVIDIA card"
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _agrees(title: str, model: layertap.Model, file: Any, names: Sequence[str]) -> bool:
    """Whether all layers are what they are on the CPU, taken from the card and left on it."""
    import numpy as np

    batch = models.batch()
    expected = layertap.open(file).activations(batch, names)
    allowed = TOLERANCES["TF32" in title]
    worst, at = 0.0, ""
    for on_device in (False, True):
        for name, value in model.activations(batch, names, on_device=on_device).items():
            array = value.numpy() if on_device else value
            scale = float(np.abs(expected[name]).max())
            error = float(np.abs(array - expected[name]).max()) / (scale or 1.0)
            if not error <= worst:  # NaN is the worst
                worst, at = error, name
    agrees = worst <= allowed
    print(
        f"{title}: {len(names)} layers {'agree' if agrees else 'DO NOT AGREE'} with the CPU: "
        f"largest scaled error {worst:.1e} in {at!r}, allowed {allowed:.0e}"
    )
    return agrees


def _head() -> str:
    cells = [f"{'images per second by batch size':60}", *(f"{size:>8}" for size in BATCHES)]
    return " ".join(cells)


def _line(title: str, tap: layertap.Tap) -> str:
    import numpy as np

    cells = [f"{title:60}"]
    for size in BATCHES:
        batch = np.repeat(models.batch(), size, axis=0)
        try:
            cells.append(f"{size / _seconds(tap, batch):8.0f}")
        except layertap.DeviceError:  # the card's memory does not suffice
            cells.append(f"{'-':>8}")
    return " ".join(cells)


def _seconds(tap: layertap.Tap, batch: Any) -> float:
    """The median of one call; what comes back is dropped once the clock has stopped."""
    tap(batch)
    taken: list[float] = []
    while len(taken) < ROUNDS and sum(taken) < SECONDS:
        started = time.perf_counter()
        values = tap(batch)
        taken.append(time.perf_counter() - started)
        del values
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
