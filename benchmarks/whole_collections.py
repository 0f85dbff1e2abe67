"""Whole collections: `extract` beside the limit of the cores, and beside loops that people write.

    python -m benchmarks whole_collections                           # everything
    python -m benchmarks.whole_collections depths --layer conv1_relu # a part; --help lists them

Where the time of `extract` is compared, it is that of N images less that of `STARTED` images, as
that of all N: what a call takes before its first image is a row of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import layertap

from . import machine, models
from .fresh_process import environment
from .pictures import DRAWN, KINDS, pictures
from .synthetic import WIDTH, finished_collection, quick_model, tiny_pictures
from .timing import Row, alternate, table, timed


class Depth(NamedTuple):
    """A layer, and how much of it is measured."""

    layer: str
    images: int
    """In one call; a multiple of `BATCH`."""
    of_tap: float | None
    """Targets for the time: as a part of that of the pure tap, and of that of the plain loop."""
    of_loop: float | None


DEPTHS = (
    Depth("conv1_relu", 576, None, 1 / 1.5),
    Depth("conv2_block6_concat", 96, None, None),
    Depth("conv5_block16_concat", 48, 1.0, 1 / 1.15),
)
BATCH = 8
"""Images in one call of the pure tap and the plain loop."""
STARTED = 2
"""Images whose time counts as that of the start: one for each worker."""
ROUNDS = 3
OF_LIMIT = 1 / 0.97
"""Target for the time, as a part of the least time that the cores can take."""
OVERHEAD = 0.03
"""Target for the processor time of hashes, journal and writing, as a part of all of it."""
GROWTH = 1.1
"""Target for the peak memory of ten times as many images, as a part of that of fewer."""


# --- Beside the limit, the pure tap and the plain loop --------------------------------------------


def depths(options: argparse.Namespace) -> list[Row]:
    """Time and processor time of `extract` at three depths, of two formats."""
    rows = []
    for depth in DEPTHS:
        for kind in KINDS:
            if options.layer in (None, depth.layer) and options.kind in (None, kind):
                rows += _depth(depth, kind, options.rounds or ROUNDS)
    return rows


def _depth(depth: Depth, kind: str, rounds: int) -> list[Row]:
    file, asked = models.files().onnx, {depth.layer: "mean"}
    paths = pictures(kind, depth.images)
    one, two = layertap.open(file, threads=1), layertap.open(file, threads=2)
    recipe = _recipe(two)
    tap1, tap2 = (model.tap(asked, dtype="float16") for model in (one, two))
    ready = np.stack([recipe(path) for path in paths[: min(DRAWN, depth.images)]])
    shares: list[float] = []
    starts: list[float] = []

    with tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()

        def extract(count: int) -> float:
            out = Path(folder, f"out{next(numbers)}")
            began = time.perf_counter()
            two.extract(paths[:count], asked, out, dtype="float16", preprocess=models.RECIPE)
            return time.perf_counter() - began

        def ours() -> float:
            starts.append(extract(STARTED))
            with _overhead() as spent:
                began = time.process_time()
                seconds = extract(depth.images)
                shares.append(sum(spent) / (time.process_time() - began))
            return (seconds - starts[-1]) * depth.images / (depth.images - STARTED)

        def tap() -> float:
            began = time.perf_counter()
            for start in range(0, depth.images, BATCH):
                at = start % len(ready)
                tap2(ready[at : at + BATCH])
            return time.perf_counter() - began

        def loop() -> float:
            began = time.perf_counter()
            parts = []
            for start in range(0, depth.images, BATCH):
                images = np.stack([recipe(path) for path in paths[start : start + BATCH]])
                parts.append(tap2(images)[depth.layer])
            np.save(Path(folder, "loop.npy"), np.concatenate(parts))
            return time.perf_counter() - began

        def limit() -> float:
            prepared = _processor_seconds(lambda at: recipe(paths[at]), depth.images)
            run = _processor_seconds(lambda at: tap1(ready[[at % len(ready)]]), depth.images)
            return (prepared + run) / machine.cores()

        cases = {"ours": ours, "limit": limit, "tap": tap, "loop": loop}
        seconds = alternate(cases, rounds)
        written = layertap.features(Path(folder, "out1"))[depth.layer]
        models.check_equal("extract", written, np.load(Path(folder, "loop.npy")), 2e-3)

    what = f"{depth.images} {kind.upper()} files, {depth.layer}=mean"
    peers = {
        "limit": ("the processor time of recipe and run, divided by the cores", OF_LIMIT),
        "tap": (f"tap on ready arrays, 2 threads, batches of {BATCH}", depth.of_tap),
        "loop": ("a loop: read, recipe, tap with 2 threads, np.save at the end", depth.of_loop),
    }
    rows = [
        Row(what=what, peer=peer, unit="s", ours=seconds["ours"], theirs=seconds[name], most=most)
        for name, (peer, most) in peers.items()
    ]
    return [
        *rows,
        _of_one("... hashes, journal and writing, of all processor time", shares[1:], OVERHEAD),
        Row(
            what=f"... the first {STARTED} images",
            peer=f"all {depth.images} images",
            unit="s",
            ours=tuple(starts[1:]),
            theirs=seconds["ours"],
        ),
    ]


def _of_one(what: str, ours: Sequence[float], most: float | None) -> Row:
    """A row for shares."""
    return Row(
        what=what, peer="1", unit="x", ours=tuple(ours), theirs=(1.0,) * len(ours), most=most
    )


def _recipe(model: Any) -> Callable[[str], Any]:
    from layertap._engine.feeds import as_recipe
    from layertap._engine.program import program_of

    return program_of(model).fitted(as_recipe(models.RECIPE))


def _processor_seconds(call: Callable[[int], object], count: int) -> float:
    """The processor time of `count` calls, on all cores at once."""

    def work(first: int) -> None:
        for at in range(first, count, machine.cores()):
            call(at)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(machine.cores())]
    began = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.process_time() - began


@contextmanager
def _overhead() -> Iterator[list[float]]:
    """The processor times of hashing and writing, call by call."""
    from layertap.extract.items import Items
    from layertap.extract.writer import Writer

    spent: list[float] = []

    def measured(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                spent.append(time.thread_time() - began)

        return call

    names = [(Items, "sha256"), (Writer, "write"), (Writer, "finish")]
    before = [getattr(owner, name) for owner, name in names]
    for owner, name in names:
        setattr(owner, name, measured(getattr(owner, name)))
    try:
        yield spent
    finally:
        for (owner, name), function in zip(names, before, strict=True):
            setattr(owner, name, function)


# --- Beside Keras ---------------------------------------------------------------------------------


def loops(options: argparse.Namespace) -> list[Row]:
    """Time and peak memory in new processes, beside loops over Keras's `predict`."""
    if find_spec("tensorflow") is None:
        return []
    files, count = models.files(), 96
    methods = {
        "layertap": files.onnx,
        "predict": files.keras,
        "kept": files.keras,
    }
    peaks: dict[str, list[float]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()

        def case(method: str) -> Callable[[], float]:
            def run() -> float:
                out = Path(folder, f"{method}{next(numbers)}")
                seconds, peak, _ = _in_process(
                    method, methods[method], models.LATE, out, pictures("png", count)
                )
                peaks[method].append(peak)
                return seconds

            return run

        cases = {name: case(name) for name in methods}
        seconds = alternate(cases, options.rounds or 2, warm_up=0)
        ours = layertap.features(next(Path(folder).glob("layertap*")))[models.LATE]
        theirs = np.load(next(Path(folder).glob("kept*/features.npy")))
        models.check_equal("extract and Keras", ours, theirs)
    titles = {
        "predict": "a loop over Keras's predict, batches of 32, np.save for each",
        "kept": "thingsvision's way: the same, kept until the end, joined",
    }
    return [
        Row(
            what=what,
            peer=titles[name],
            unit=unit,
            ours=tuple(taken["layertap"]),
            theirs=tuple(taken[name]),
        )
        for what, unit, taken in (
            (f"{count} PNG files, {models.LATE}", "s", seconds),
            ("... peak memory of the process", "MB", peaks),
        )
        for name in titles
    ]


def _in_process(
    method: str, file: Path, layer: str, out: Path, images: Sequence[str]
) -> list[float]:
    """Seconds, peak memory, and that of the imports, of a collection in a new process."""
    program = [sys.executable, "-m", "benchmarks.programs.collection"]
    command = [*program, method, str(file), layer, json.dumps(models.RECIPE), str(out), *images]
    done = subprocess.run(
        command, cwd=models.REPOSITORY, env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{method} failed:\n{done.stderr}")
    return [*map(float, done.stdout.split())]


# --- Memory ---------------------------------------------------------------------------------------


def memory(options: argparse.Namespace) -> list[Row]:
    """Peak memory of 100 and of 1,000 images, and its bound."""
    file, layer = models.files().onnx, DEPTHS[0].layer
    peaks: dict[int, list[float]] = {100: [], 1000: []}
    with tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()
        for _ in range(options.rounds or 2):
            for count, taken in peaks.items():
                out = Path(folder, f"out{next(numbers)}")
                images = pictures("png", count)
                _, peak, imports = _in_process("layertap", file, f"{layer}=mean", out, images)
                taken.append(peak - imports)
        identity = layertap.features(out).identity
        chunk = identity.asked["chunk"] * layertap.features(out).nbytes / 1000
    bound = (file.stat().st_size + machine.cores() * 2 * chunk) / 1e6 + 100
    many = tuple(peaks[1000])
    return [
        Row(
            what=f"1,000 PNG files, {layer}=mean: peak memory beyond the imports",
            peer="100 of them",
            unit="MB",
            ours=many,
            theirs=tuple(peaks[100]),
            most=GROWTH,
        ),
        Row(
            what="...",
            peer="the model, 2 chunks for each worker, and 100 MB",
            unit="MB",
            ours=many,
            theirs=(bound,) * len(many),
            most=1.0,
        ),
    ]


# --- Opening and continuing -----------------------------------------------------------------------


def opening(options: argparse.Namespace) -> list[Row]:
    """Opening a finished collection of 10 million rows."""
    rows, rounds = options.rows or 10_000_000, options.rounds or 5

    def opened(ids: bool) -> Callable[[], float]:
        def read() -> float:
            began = time.perf_counter()
            found = layertap.features(folder)
            row = len(found) * 7 // 9
            assert found.ok[row]
            assert found["bn"][row].shape == (WIDTH,)
            assert not found.errors
            assert not ids or found.ids[row].endswith(f"{row}.png")
            return time.perf_counter() - began

        return read

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "out")
        finished_collection(folder, rows)
        taken = alternate({"rows": opened(False), "ids": opened(True)}, rounds)
    whats = {"rows": "its ok, and a row", "ids": "and the id of a row"}
    return [
        Row(
            what=f"opening a collection of {rows:,} rows, {what}",
            peer="1 s",
            unit="s",
            ours=taken[name],
            theirs=(1.0,) * rounds,
            most_ours=1.0 if name == "rows" else None,
        )
        for name, what in whats.items()
    ]


def resuming(options: argparse.Namespace) -> list[Row]:
    """Continuing a collection of which nothing is left, for 100,000 rows."""
    rows, rounds = options.rows or 100_000, options.rounds or 5
    results = []
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        quick_model(top / "quick.onnx", (4, 4, 3))
        tiny_pictures(top / "files", rows)
        np.save(top / "rows.npy", np.zeros((rows, 4, 4, 3), np.float32))
        model = layertap.open(top / "quick.onnx")

        def extract(source: Path, out: Path) -> Any:
            recipe = {"size": [4, 4]} if source.is_dir() else None
            return model.extract(source, {"relu": "mean"}, out, preprocess=recipe)

        def listed() -> float:
            began = time.perf_counter()
            paths = [
                os.path.join(root, name)
                for root, _, names in os.walk(top / "files")
                for name in names
            ]
            for path in sorted(paths):
                os.stat(path)
            return time.perf_counter() - began

        for source in (top / "rows.npy", top / "files"):
            out = top / f"out-{source.stem}"
            extract(source, out)
            cases = {
                "ours": timed(lambda source=source, out=out: extract(source, out)),
                "open": timed(lambda: layertap.open(top / "quick.onnx")),
                "listed": listed,
            }
            taken = alternate(cases, rounds)
            alone = statistics.median(taken["open"])
            ours = tuple((seconds - alone) * 100_000 / rows for seconds in taken["ours"])
            results.append(
                Row(
                    what=f"nothing to do, 100,000 rows of {source.name}",
                    peer="listing a folder of as many files, and os.stat of each",
                    unit="s",
                    ours=ours,
                    theirs=tuple(seconds * 100_000 / rows for seconds in taken["listed"]),
                    most_ours=0.1,
                )
            )
    return results


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "depths": depths,
    "loops": loops,
    "memory": memory,
    "opening": opening,
    "resuming": resuming,
}


def measure() -> list[Row]:
    """All parts."""
    options = _parser().parse_args([])
    return [row for part in PARTS.values() for row in part(options)]


def _parser() -> argparse.ArgumentParser:
    program = "python -m benchmarks.whole_collections"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--layer", choices=[depth.layer for depth in DEPTHS], help="of `depths`")
    parser.add_argument("--kind", choices=KINDS, help="of `depths`")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--rows", type=int, help="of `opening` and `resuming`")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure some parts, and print their table."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"no part is named {name!r}; the parts are {', '.join(PARTS)}")
    machine.settle()
    for name in options.parts or PARTS:
        others = machine.Others()
        rows = PARTS[name](options)
        share = others.share()
        print(f"{table(rows)}\n\nOther processes used {share:.0%} of the processor time.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
