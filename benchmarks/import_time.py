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

    def row(what: str, name: str) -> Row:
        ours: Samples
        numpys: Samples
        ours, numpys = zip(*pairs[name][-ROUNDS:], strict=True)
        return Row(
            what=what, peer="import numpy", unit="s", ours=ours, theirs=numpys, most_ours=0.030
        )

    return [
        row("import layertap adds", "import"),
        row("... and every public name of it", "everything"),
    ]


def added(code: str) -> tuple[float, float]:
    """Seconds that the modules of layertap take to import, with all that they bring; and numpy."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return parse(done.stderr)


def parse(report: str) -> tuple[float, float]:
    """The same, from what `-X importtime` prints.

    A line is `import time: self [us] | cumulative | module`; modules that another brings come
    before it, and are indented by two more spaces.
    """
    seconds = {"layertap": 0.0, "numpy": 0.0}
    outer: list[tuple[int, str, float]] = []
    for line in report.splitlines():
        _, _, rest = line.partition("import time:")
        cells = rest.split("|")
        if len(cells) != 3 or not cells[1].strip().isdigit():
            continue
        name = cells[2].strip()
        depth = len(cells[2]) - len(cells[2].lstrip())
        outer = [item for item in outer if item[0] <= depth]
        outer.append((depth, name, int(cells[1]) / 1e6))
    for depth, name, value in outer:
        package = name.partition(".")[0]
        if package in seconds and depth == min(item[0] for item in outer):
            seconds[package] += value
    return seconds["layertap"], seconds["numpy"]
