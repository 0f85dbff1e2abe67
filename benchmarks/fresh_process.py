"""A new process: imports, opening a model, and the first activation; time and peak memory.

All processes use compiled bytecode, from a separate folder that the warm-up round fills. Otherwise,
packages that were installed without bytecode (`PYTHONDONTWRITEBYTECODE`) would be compiled in
every process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import models
from .timing import Row, alternate

ROUNDS = 9


def measure() -> list[Row]:
    """Time from the start of the process to the first activation, not to the end."""
    import numpy as np

    files = models.files()
    memory: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:

        def case(name: str, file: Path, *options: str) -> Callable[[], float]:
            output = Path(folder, f"{'_'.join([name, *options])}.npy")
            taken = memory.setdefault(output.stem, [])
            program = [sys.executable, "-m", f"benchmarks.programs.{name}"]
            command = [*program, str(file), str(files.batch), str(output), *options]

            def run() -> float:
                seconds, peak = _run(command)
                taken.append(peak)
                return seconds

            return run

        cases = {
            "with_layertap": case("with_layertap", files.onnx),
            "with_keras_predict": case("with_keras", files.keras, "predict"),
            "with_keras_call": case("with_keras", files.keras, "call"),
        }
        seconds = alternate(cases, ROUNDS, warm_up=1)
        values = {name: np.load(Path(folder, f"{name}.npy")) for name in cases}

    ours, *peers = cases
    for name in peers:
        models.check_equal(f"{models.LATE}, {name}", values[ours], values[name])
    peaks = {name: tuple(taken[-ROUNDS:]) for name, taken in memory.items()}
    rows = []
    for unit, taken, most in (("s", seconds, 0.08), ("MB", peaks, 0.22)):
        what = "fresh process, first activation" if unit == "s" else "its peak memory"
        for name, peer in zip(peers, ("Keras, predict", "Keras, the model called"), strict=True):
            rows.append(
                Row(
                    what=what,
                    peer=peer,
                    unit=unit,
                    ours=taken[ours],
                    theirs=taken[name],
                    most=most,
                )
            )
    return rows


def environment() -> dict[str, str]:
    """The environment of measured processes, in which Python caches bytecode in our folder."""
    copied = dict(os.environ)
    copied.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**copied, "PYTHONPYCACHEPREFIX": str(models.CACHE / "bytecode")}


def _run(command: list[str]) -> tuple[float, float]:
    """Seconds until the program prints its peak memory, and that peak memory in MB."""
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=models.REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        _, errors = process.communicate()
    if process.returncode or not line:
        raise RuntimeError(f"{' '.join(command)} failed:\n{errors}")
    return seconds, float(line)
