"""`python -m benchmarks.comparing FILE [--images N]`: time and memory of comparing two files.

The second file is a copy of the first with one weight of a convolution in its middle times 1.01, so
that half of all layers differ. Each case runs in a process of its own; times are those of the
calls, without imports. Peaks are of the process, above its memory before the files are opened.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

import layertap

from . import machine

CASES = ("opened", "alone", "compare", "without born", "record", "from record")


def damaged(file: Path, target: Path) -> None:
    """Write a copy of a file with one weight in its middle changed."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(file)
    kernels = [item for item in model.graph.initializer if len(item.dims) in (2, 4)]
    item = kernels[len(kernels) // 2]
    value = numpy_helper.to_array(item) * np.float32(1.01)
    item.CopyFrom(numpy_helper.from_array(value, item.name))
    onnx.save(model, target)


@contextmanager
def peak(found: list[float]) -> Iterator[None]:
    """Add the peak of this process's memory in MB, above what it has now."""
    process, stop = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.002):
            most = max(most, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        found.append((most - before) / 1e6)


def measure(case: str, a: Path, b: Path, images: int, record: Path) -> tuple[float, float]:
    """The seconds and the peak in MB of one case, in this process."""
    shape = layertap.open(a).inputs[0].shape
    batch = np.random.default_rng(0).uniform(-1, 1, (images, *(x or 224 for x in shape[1:])))
    batch = batch.astype(np.float32)
    layertap.open(a).predict(batch[:1])  # imports everything
    peaks: list[float] = []
    with warnings.catch_warnings(), peak(peaks):
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        if case == "opened":  # both models, each with the session for its outputs
            kept = [layertap.open(file) for file in (a, b)]
            for model in kept:
                model.predict(batch[:1])
        elif case == "alone":  # all layers of both, image by image, nothing kept
            for file in (a, b):
                tap = layertap.open(file).tap()
                for at in range(images):
                    tap(batch[at : at + 1])
        elif case == "record":
            layertap.open(a).record(batch, record)
        elif case == "from record":
            layertap.compare(record, b)
        else:
            layertap.compare(a, b, batch, born=case == "compare")
        seconds = time.perf_counter() - started
    return seconds, peaks[0]


def main() -> None:
    """Measure all cases, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparing", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.onnx")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--inside", nargs=3, metavar=("CASE", "B", "RECORD"), help="used by itself")
    args = parser.parse_args()
    if args.inside:
        case, other, record = args.inside
        print(json.dumps(measure(case, args.file, Path(other), args.images, Path(record))))
        return
    print(machine.description())
    with tempfile.TemporaryDirectory() as folder:
        other, record = Path(folder, "b.onnx"), Path(folder, "a.npz")
        damaged(args.file, other)
        alone = None
        for case in args.case or CASES:
            inside = ["--inside", case, str(other), str(record), "--images", str(args.images)]
            command = [sys.executable, "-m", "benchmarks.comparing", str(args.file), *inside]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, most = json.loads(done.stdout)
            alone = seconds if case == "alone" else alone
            ratio = f"  {seconds / alone:.2f} x alone" if alone else ""
            print(f"{case:13} {seconds:7.2f} s  peak {most:6.0f} MB{ratio}", flush=True)
        if record.exists():
            print(f"the record has {record.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
