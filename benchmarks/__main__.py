"""`python -m benchmarks [SUBJECT ...]`: measure, and print a table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from . import machine, models, peers
from .timing import Row, table

SUBJECTS = (
    "late_layer",
    "early_layer",
    "every_depth",
    "engines",
    "floor",
    "all_layers",
    "peers",
    "overhead",
    "cutting",
    "big_files",
    "score_cam",
    "rise",
    "fresh_process",
    "cold_start",
    "import_time",
    "exporting",
    "gradients",
    "regions",
    "finished",
    "quantizing",
    "recurrent",
    "whole_collections",
    "layer_statistics",
    "javascript",
    "view",
    "overlays",
)
"""The modules with measurements, in the order of the table. Each runs in its own process."""

OWN_MODELS = frozenset({"engines", "recurrent", "overlays", "regions"})
"""The subjects that measure models of their own."""

PACKAGES = (
    "numpy",
    "onnxruntime",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "tf2onnx",
    "onnx",
    *peers.PACKAGES,
    "layertap",
)

BUSY = 0.1
"""Share of the processor time used by other processes above which results count as disturbed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return exit code 1 if a target is missed or a measurement failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"one of {', '.join(SUBJECTS)}; default: all"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all measurements")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.subjects if name not in SUBJECTS]
    if unknown:
        parser.error(f"no subject is named {unknown[0]!r}; the subjects are {', '.join(SUBJECTS)}")

    machine.settle()
    if options.here:
        (name,) = options.subjects
        _write(options.json, import_module(f"benchmarks.{name}").measure())
        return 0

    subjects = options.subjects or SUBJECTS
    for name in models.NAMES if set(subjects) - OWN_MODELS else ():
        models.files(name)
    rows: list[Row] = []
    disturbed, failed = [], []
    print(f"{_now()}, load {_load()}: starting", file=sys.stderr)
    for name in subjects:
        measured, others = _measure_in_process(name)
        if measured is None:
            failed.append(name)
            continue
        rows += measured
        print(
            f"{_now()}, load {_load()}: {name} measured; other processes used {others:.0%} of the "
            "processor time",
            file=sys.stderr,
        )
        if others > BUSY:
            disturbed.append(f"{name} ({others:.0%})")
    print(table([row for row in rows if not row.detail]))
    if any(row.detail for row in rows):
        print("\nDetails:\n\n" + table([row for row in rows if row.detail]))
    print(f"\nMachine: {machine.description()}.\nVersions: {machine.versions(PACKAGES)}.")
    absent = [name for name in peers.PACKAGES if find_spec(name) is None]
    if absent:
        print(f"Not measured, because not installed: {', '.join(absent)} (the `bench` extra).")
    if disturbed:
        print(f"Disturbed by other processes: {', '.join(disturbed)}. Measure these again.")
    if failed:
        print(f"Failed: {', '.join(failed)}.")
    if options.json:
        _write(options.json, rows)
    return int(bool(failed) or any(row.met is False for row in rows))


def _measure_in_process(name: str) -> tuple[list[Row] | None, float]:
    """Measure a subject in a new process.

    Returns:
        The rows, or `None` if the process failed (its error output is printed); and the share of
        the processor time that other processes used meanwhile, 0 to 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        command = [sys.executable, "-m", "benchmarks", "--here", name, "--json", str(file)]
        others = machine.Others()
        done = subprocess.run(
            command, cwd=models.REPOSITORY, stderr=subprocess.PIPE, text=True, check=False
        )
        share = others.share()
        if done.returncode:
            print(f"{name} failed:\n{done.stderr}", file=sys.stderr)
            return None, share
        return [Row.from_dict(item) for item in json.loads(file.read_text(encoding="utf-8"))], share


def _write(file: Path, rows: Sequence[Row]) -> None:
    text = json.dumps([row.to_dict() for row in rows], indent=1)
    file.write_text(text + "\n", encoding="utf-8")


def _now() -> str:
    return time.strftime("%H:%M:%S")


def _load() -> str:
    """The load average of the last minute."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


if __name__ == "__main__":
    sys.exit(main())
