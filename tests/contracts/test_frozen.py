"""A program with the runtime, frozen by PyInstaller, runs on its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

import layertap

ROOT = Path(__file__).parents[2]
NEEDED = {"layertap", "numpy", "onnxruntime", "PIL"}

PROGRAM = """
import json, sys
import layertap
model = layertap.open(sys.argv[1])
print(json.dumps(model.activations(json.loads(sys.argv[2]), sys.argv[3]).tolist()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("PyInstaller"), reason="needs PyInstaller")
def test_a_frozen_program_fetches_an_activation(
    tiny_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """All other packages are left out, as in an environment that has only the runtime."""
    (tmp_path / "app.py").write_text(PROGRAM, encoding="utf-8")
    others = {name for name in packages_distributions() if name.isidentifier()} - NEEDED
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=ERROR"]
    command += [f"--paths={ROOT / 'runtime'}", *(f"--exclude-module={name}" for name in others)]
    subprocess.run([*command, "app.py"], cwd=tmp_path, check=True, capture_output=True)
    file, x = tiny_file("linear_chain"), [[0.5, -1.0, 2.0, 0.25]]
    given = [str(tmp_path / "dist/app/app"), str(file), json.dumps(x), "b"]
    done = subprocess.run(given, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(done.stdout) == layertap.open(file).activations(x, "b").tolist()
    size = sum(path.stat().st_size for path in (tmp_path / "dist").rglob("*"))
    assert size < 300e6
