"""`import layertap` itself, beside numpy's: what Python's own `-X importtime` says."""

from __future__ import annotations

import subprocess
import sys

from .fresh_process import environment
from .timing import Row, Samples, alternate

ROUNDS = 15

EVERYTHING = "import numpy, layertap\nfor name in layertap.__all__: getattr(layertap, name)"
"""Also what is imported when it is first used: all public names, but onnxruntime."""


def measure() -> list[Row]:
    """What `layertap` adds where numpy is there already, and what numpy takes."""
    pairs: dict[str, list[tuple[float, float]]] = {"import": [], "everything": []}

    def case(name: str, code: str) -> float:
        ours, numpys = added(code)
        pairs[name].append((ours, numpys))
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
        numpys: Samples
        ours, numpys = zip(*pairs[name][-ROUNDS:], strict=True)
        return Row(
            what=what, peer="import numpy", unit="s", ours=ours, theirs=numpys, most_ours=most
        )

    return [
        row("import layertap adds", "import", 0.030),
        row("... and all its public names", "everything", None),
    ]


def added(code: str) -> tuple[float, float]:
    """Seconds that `code`, which imports numpy first, spends on further imports; and on numpy."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return parse(done.stderr)


def parse(report: str) -> tuple[float, float]:
    """The same, from what `-X importtime` prints: what came after numpy, and numpy.

    A line is `import time: self [us] | cumulative | module`; a module's line comes when it is
    done, after those of the modules that it brought.
    """
    numpys, later = None, 0
    for line in report.splitlines():
        cells = line.removeprefix("import time:").split("|")
        if len(cells) != 3 or not cells[1].strip().isdigit():
            continue  # the title
        if numpys is not None:
            later += int(cells[0])
        elif cells[2].strip() == "numpy":
            numpys = int(cells[1])
    if numpys is None:
        raise ValueError("the report of -X importtime has no line for numpy.")
    return later / 1e6, numpys / 1e6
