"""An NVIDIA GPU compared with the CPU, in a few minutes: `python -m benchmarks.gpu`.

    python -m benchmarks.gpu --prepare FOLDER     # with the exporter, on any machine: writes files
    python -m benchmarks.gpu FOLDER               # on a machine with a GPU, without TensorFlow

First, everything that layertap does on a GPU is compared with the CPU, see `gpu_checks`. Then
images per second are printed by batch size, beside plain onnxruntime on the same cut.

The exit code is 0 if all checks held, 1 if one did not, and 2 if there is no GPU that works.
`--rehearse` runs everything on the CPU: it tests this program, and must end with 1.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shutil import which
from typing import Any

import layertap

from . import machine, models
from .gpu_checks import CUDA, CheckError, Files, Machine, checks, image

BATCHES = (1, 4, 16, 64)
ROUNDS = 20
SECONDS = 1.5
"""Maximum duration of one measurement in seconds."""
DEFAULT = models.CACHE / "gpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--prepare", action="store_true", help="write the files, and stop")
    parser.add_argument("--rehearse", action="store_true", help="run everything on the CPU")
    args = parser.parse_args(arguments)
    files = _files(args.folder, args.prepare)
    if args.prepare:
        return 0
    device = "cpu" if args.rehearse else "cuda"
    try:
        layertap.open(files.chest, device=device)
    except layertap.DeviceError as exc:
        print(f"Nothing was measured, because {exc}", file=sys.stderr)
        return 2
    print(f"{_gpu_name()}; {machine.versions(['onnxruntime-gpu', 'onnxruntime', 'numpy'])}\n")
    place = Machine(files, device)
    failed = [title for title, check in checks() if not _holds(title, check, place)]
    print(f"\n{_head()}")
    try:
        for title, seconds in _measured(place):
            cells = ("-" if one is None else f"{size / one:.0f}" for size, one in seconds)
            print(" ".join([f"{title:60}", *(f"{cell:>8}" for cell in cells)]), flush=True)
    except Exception as exc:  # noqa: BLE001 - what the checks found must not be lost
        print(f"{type(exc).__name__}: {exc}")
        failed.append("times")
    print(f"\n{len(failed)} checks failed: {', '.join(failed)}" if failed else "\nall checks hold")
    return int(bool(failed))


def _files(folder: Path, prepare: bool) -> Files:
    """The files; they are made if they are not there and the exporter is.

    Making them runs in a process of its own: TensorFlow must not use the GPU.
    """
    found = Files(folder / "chest.onnx", folder / "half.onnx")
    if prepare or not found.chest.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        program = (
            "import os; os.environ['CUDA_VISIBLE_DEVICES'] = '-1'; import sys, layertap_export; "
            "from layertap_models import chest_xray; chest, half, layer = sys.argv[1:]; "
            "layertap_export.export(chest_xray.build(), chest, gradients=layer); "
            "layertap_export.quantize(chest, half, to='float16')"
        )
        command = [sys.executable, "-c", program, *map(str, found[:2]), models.LATE]
        done = subprocess.run(command, cwd=models.REPOSITORY, check=False)
        if done.returncode:
            sys.exit(
                "the files could not be made. Run `python -m benchmarks.gpu --prepare FOLDER` "
                "where the exporter is installed, and give the folder here."
            )
    return found if found.half and found.half.is_file() else Files(found.chest, None)


def _gpu_name() -> str:
    if not which("nvidia-smi"):
        return "an NVIDIA GPU"
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _holds(title: str, check: Callable[[Machine], str], place: Machine) -> bool:
    """Run a check and print its line. Whatever it raises is a failure, and the others go on."""
    started = time.perf_counter()
    try:
        verdict, text = "ok", check(place)
    except CheckError as exc:
        verdict, text = "FAILED", str(exc)
    except Exception as exc:  # noqa: BLE001 - the next check may hold
        verdict, text = "FAILED", f"{type(exc).__name__}: {exc}"
    if text.startswith("skipped"):
        verdict = "-"
    took = time.perf_counter() - started
    print(f"{verdict:7} {title}: {text} ({took:.1f} s)", flush=True)
    return verdict != "FAILED"


def _head() -> str:
    cells = [f"{'images per second by batch size':60}", *(f"{size:>8}" for size in BATCHES)]
    return " ".join(cells)


def _measured(place: Machine) -> Iterator[tuple[str, list[tuple[int, float | None]]]]:
    """The seconds of one run by batch size, for each row of the table."""
    settings: dict[str, dict[str, Any]] = {"float32": {}, "TF32": {"tf32": True}}
    if place.device == "cpu":
        del settings["TF32"]
    for title, options in settings.items():
        with place.open(**options) as model:
            every = [layer.name for layer in model.layers if layer.type != "InputLayer"]
        for what, layers in ((models.LATE, models.LATE), (f"all {len(every)} layers", every)):
            for on_device in (False, True):
                where = "left on the GPU" if on_device else "as arrays"
                # One at a time: onnxruntime keeps a session's memory as long as the session.
                with place.open(**options) as model:
                    tap = model.tap(layers, on_device=on_device)
                    yield f"{title}, {what}, {where}", _by_size(tap)
                    del tap
        yield f"{title}, {models.LATE}, plain onnxruntime on the cut", _plain(place, options)
    if place.files.half is not None:
        with layertap.open(place.files.half, device=place.device) as model:
            yield f"float16, {models.LATE}, as arrays", _by_size(model.tap(models.LATE))


def _plain(place: Machine, options: dict[str, Any]) -> list[tuple[int, float | None]]:
    """The same cut in a session of onnxruntime's own."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder, "cut.onnx")
        with layertap.open(place.files.chest) as model:
            model.cut(cut, None, models.LATE)
        providers: list[Any] = ["CPUExecutionProvider"]
        if place.device == "cuda":
            providers.insert(0, (CUDA, {"use_tf32": int("tf32" in options)}))
        session = onnxruntime.InferenceSession(str(cut), providers=providers)
    if session.get_providers()[0] != (CUDA if place.device == "cuda" else providers[0]):
        raise CheckError(f"plain onnxruntime runs on {session.get_providers()}")
    (name,) = (item.name for item in session.get_inputs())
    return _by_size(lambda batch: session.run(None, {name: batch}))


def _by_size(run: Callable[[Any], Any]) -> list[tuple[int, float | None]]:
    import numpy as np

    found: list[tuple[int, float | None]] = []
    for size in BATCHES:
        batch = np.repeat(image(), size, axis=0)
        try:
            found.append((size, _seconds(run, batch)))
        except Exception as exc:  # out of memory, in the words of layertap or onnxruntime
            if isinstance(exc, layertap.DeviceError) or "memory" in str(exc):
                found.append((size, None))
            else:
                raise
    return found


def _seconds(run: Callable[[Any], Any], batch: Any) -> float:
    """The median duration of one call, not including the release of the results."""
    run(batch)
    taken: list[float] = []
    while len(taken) < ROUNDS and sum(taken) < SECONDS:
        started = time.perf_counter()
        values = run(batch)
        taken.append(time.perf_counter() - started)
        del values
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
