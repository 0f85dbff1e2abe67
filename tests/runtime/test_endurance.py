"""What must hold for long: damaged files by the thousand, and memory that stays flat."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fuzzing
import layertap
from generators import tiny

TESTS = Path(__file__).parents[1]


def run(program: list[str], folder: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(Path(layertap.__file__).parents[1])]),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def fuzz(way: str, seed: int, count: int, folder: Path) -> None:
    program = [str(TESTS / "fuzzing.py"), way, str(seed), str(count)]
    done = run(program, folder, 60 + count // 4)
    assert done.returncode == 0, f"{folder / 'damaged.onnx'}: {done.stderr[-3000:]}"
    refused, failed, ran = map(int, done.stdout.split())
    assert refused + failed + ran == count
    assert min(refused, failed, ran) >= count // 100  # each end is reached often enough


every_way = pytest.mark.parametrize("way", fuzzing.WAYS)


@every_way
def test_damaged_files(way: str, tmp_path: Path) -> None:
    """Used in every way: a LayertapError, or a value. No crash, no hang, nothing else."""
    fuzz(way, seed=1, count=500, folder=tmp_path)


@pytest.mark.slow
@every_way
def test_many_damaged_files(way: str, tmp_path: Path) -> None:
    fuzz(way, seed=2, count=20_000, folder=tmp_path)


LEAK = """
import gc, sys
import numpy, psutil
import layertap
path, count, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
x = numpy.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype(numpy.float32)
model = layertap.open(path, threads=2)
layers = ["conv", "relu", "pool", "probs", ["conv", "probs"], ["relu", "pool"]]
def call(index):
    global model
    if how == "opened":
        model = layertap.open(path, threads=2)
    model.activations(x, layers[index % len(layers)])
def memory():
    gc.collect()
    return psutil.Process().memory_info().rss
for index in range(count // 4):
    call(index)
before = memory()
for index in range(count):
    call(index)
print((memory() - before) / 1e6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["called", "opened"])
def test_memory_stays_flat(how: str, tmp_path: Path) -> None:
    """2,000 calls that take turns among more sets of layers than sessions are kept for."""
    pytest.importorskip("psutil")
    path = tiny.save(tiny.image_classifier(None, None), tmp_path / "m.onnx")
    done = run(["-c", LEAK, str(path), "2000", how], tmp_path, 300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 8  # MB, as it goes up and down; 2,000 results would be 520 MB
