"""The time of `import layertap` compared with numpy's, measured by Python's `-X importtime`."""

from __future__ import annotations

import subprocess
import sys

from .fresh_process import environment
from .timing import Row, Samples, alternate

ROUNDS = 15

EVERYTHING = "import numpy, layertap\nfor name in layertap.__all__: getattr(layertap, name)"
"""Imports all public names, which are otherwise imported on first use; not onnxruntime."""


def measure() -> list[Row]:
    """Time the imports of `layertap` after numpy, and the import of numpy."""
    pairs: dict[str, list[tuple[float, float]]] = {"import": [], "everything": []}

    def case(name: str, code: str) -> float:
        ours, numpy_seconds = added(code)
        pairs[name].append((ours, numpy_seconds))
        return ours

    alternate(
        {
            "import": lambda: case("import", "import numpy, layertap"),
            "everything": lambda: case("everything", EVERYTHING),
        },
        ROUNDS,
        warm_up=1,
    )

    def row(what: str, name: str, most: float | None) -> Row:
        ours: Samples
        theirs: Samples
        ours, theirs = zip(*pairs[name][-ROUNDS:], strict=True)
        return Row(
            what=what, peer="import numpy", unit="s", ours=ours, theirs=theirs, most_ours=most
        )

    return [
        row("import layertap adds", "import", 0.030),
        row("... and all its public names", "everything", None),
    ]


def added(code: str) -> tuple[float, float]:
    """Seconds that `code` spends on imports after numpy, and on numpy, which it imports first."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return parse(done.stderr)


def parse(report: str) -> tuple[float, float]:
    """The same times from the report of `-X importtime`: imports after numpy, and numpy.

    A line is `import time: self [us] | cumulative | module`. The line of a module follows those of
    the modules that it imports.
    """
    numpy_microseconds, later = None, 0
    for line in report.splitlines():
        cells = line.removeprefix("import time:").split("|")
        if len(cells) != 3 or not cells[1].strip().isdigit():
            continue  # the header
        if numpy_microseconds is not None:
            later += int(cells[0])
        elif cells[2].strip() == "numpy":
            numpy_microseconds = int(cells[1])
    if numpy_microseconds is None:
        raise ValueError("the report of -X importtime has no line for numpy.")
    return later / 1e6, numpy_microseconds / 1e6
