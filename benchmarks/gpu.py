"""An NVIDIA GPU compared with the CPU: `python -m benchmarks.gpu`.

First, all layers of the chest model are compared with the results of the CPU. Then, images per
second are printed by batch size: for the late layer and for all layers, copied to arrays and left
on the GPU. Without a GPU, a message is printed and nothing is measured.
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
"""Maximum duration of one measurement in seconds."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "float32": {},
    "float32, NHWC": {"prefer_nhwc": True},
    "TF32": {"tf32": True},
    "TF32, NHWC": {"tf32": True, "prefer_nhwc": True},
}
TOLERANCES = {False: models.TOLERANCE, True: 1e-2}
"""Largest allowed scaled error, without and with TF32, which has a mantissa of 10 bits."""


def main() -> int:
    """Measure, and return exit code 1 if a layer differs, else 0 (also without a GPU)."""
    file = _file()
    try:
        layertap.open(file, device="cuda")
    except layertap.DeviceError as exc:
        print(f"Nothing was measured, because {exc}")
        return 0
    print(f"{_gpu_name()}; {machine.versions(['onnxruntime-gpu'])}\n")
    names = [layer.name for layer in layertap.open(file).layers if layer.type != "InputLayer"]
    failed = False
    for title, options in SETTINGS.items():
        # One at a time: onnxruntime keeps the memory of a session as long as the session exists.
        with layertap.open(file, device="cuda", **options) as model:
            failed |= not _agrees(title, model, file, names)
    print(f"\n{_head()}")
    for title, options in SETTINGS.items():
        for what, layers in ((models.LATE, models.LATE), (f"all {len(names)} layers", names)):
            for on_device in (False, True):
                where = "left on the GPU" if on_device else "as arrays"
                with layertap.open(file, device="cuda", **options) as model:
                    tap = model.tap(layers, on_device=on_device)
                    print(_line(f"{title}, {what}, {where}", tap), flush=True)
                    del tap
    return int(failed)


def _file() -> Any:
    """The chest model's file. TensorFlow, which may have to create it, must not use the GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    machine.quiet()
    file = models.files().onnx
    if visible is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    return file


def _gpu_name() -> str:
    if not shutil.which("nvidia-smi"):
        return "an NVIDIA GPU"
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _agrees(title: str, model: layertap.Model, file: Any, names: Sequence[str]) -> bool:
    """Whether all layers agree with the CPU, both as arrays and left on the GPU."""
    import numpy as np

    batch = models.batch()
    expected = layertap.open(file).activations(batch, names)
    allowed = TOLERANCES["TF32" in title]
    worst, at = 0.0, ""
    for on_device in (False, True):
        for name, value in model.activations(batch, names, on_device=on_device).items():
            array = value.numpy() if on_device else value  # type: ignore[attr-defined]
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
        except layertap.DeviceError:  # out of GPU memory
            cells.append(f"{'-':>8}")
    return " ".join(cells)


def _seconds(tap: layertap.Tap, batch: Any) -> float:
    """The median duration of one call, not including the release of the results."""
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
