"""The quickest commands in a new process: the table of layers, and an early layer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from layertap._cut.plan import plan_cut
from layertap._cut.write import write_cut
from layertap.format.graph import read_graph
from layertap.format.source import FileSource

from . import models
from .fresh_process import environment
from .timing import Row, alternate

ROUNDS = 31


def measure() -> list[Row]:
    """Time processes from start to end."""
    import numpy as np

    import layertap

    files = models.files()
    with tempfile.TemporaryDirectory() as folder:
        cut, ours, plain = (Path(folder, name) for name in ("cut.onnx", "ours.npy", "plain.npy"))
        source = FileSource(files.onnx)
        with source.read() as buffer:
            graph = read_graph(buffer)
            cut.write_bytes(write_cut(buffer, graph, plan_cut(graph, [models.EARLY])))
        program = [sys.executable, "-m", "benchmarks.programs.first"]
        command = Path(sys.executable).with_name("layertap")
        commands = {
            "python": [sys.executable, "-c", "pass"],
            "table": [str(command), "layers", str(files.onnx)],
            "ours": [*program, "layertap", str(files.onnx), str(files.batch), str(ours)],
            "plain": [*program, "onnxruntime", str(cut), str(files.batch), str(plain)],
        }
        seconds = alternate({name: _timed(line) for name, line in commands.items()}, ROUNDS, 2)
        models.check_equal(models.EARLY, np.load(ours), np.load(plain))
        said = subprocess.run(commands["table"], capture_output=True, text=True, check=True).stdout
        if said.rstrip("\n") != layertap.open(files.onnx).summary():
            raise ValueError("`layertap layers` does not print the summary.")
    return [
        Row(
            what="layertap layers, a fresh process",
            peer="python -c pass",
            unit="s",
            ours=seconds["table"],
            theirs=seconds["python"],
            most=4,
        ),
        Row(
            what=f"first activation of {models.EARLY}, a fresh process",
            peer="import onnxruntime, a session of that cut alone, and its run",
            unit="s",
            ours=seconds["ours"],
            theirs=seconds["plain"],
            most=1.25,
        ),
    ]


def _timed(command: list[str]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        subprocess.run(
            command, cwd=models.REPOSITORY, env=_environment, check=True, stdout=subprocess.DEVNULL
        )
        return time.perf_counter() - started

    return run


_environment = environment()
