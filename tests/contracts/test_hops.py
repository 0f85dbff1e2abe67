"""How much a reader has to follow: modules that the first request for a layer passes through."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import layertap

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hops.py"

MOST_CHANGES = 45
MOST_ENTRIES = 3


def test_the_first_activations_pass_through_few_modules(tiny_file: Callable[[str], Path]) -> None:
    """In a fresh process, in which numpy alone is imported. `benchmarks/hops.py` says what counts.

    A layer with a Transpose at its end, whose type the cut writes: the longest of the usual ways.
    """
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tiny_file("image_classifier")), "relu"],
        env={**os.environ, "PYTHONPATH": str(Path(layertap.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.match(r"(\d+) changes of module, (\d+) of them into _model.py", done.stdout)
    assert found is not None
    changes, entries = map(int, found.groups())
    assert 20 < changes <= MOST_CHANGES, done.stdout
    assert 1 <= entries <= MOST_ENTRIES, done.stdout
