"""Commands that are killed at any time: no damaged file, and after the next command none is left.

`make test` kills a dozen times; the slow sweep kills 200 times, export and gradients included.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import layertap
from generators import tiny

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

KILLS = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}
EARLY = {signal.SIGTERM: -15, signal.SIGINT: -2}
"""Exit codes before Python, or the command, has taken over the handling of signals."""

Check = Callable[[Path], object]


def is_model(path: Path) -> None:
    layertap.open(path)
    onnx.checker.check_model(onnx.load(path))


def is_arrays(path: Path) -> None:
    with np.load(path) as found:
        assert found["last"].shape == (4, 4, 3, 5)


def is_map(path: Path) -> None:
    assert np.load(path).shape == (8, 6)


def is_picture(path: Path) -> None:
    Image.open(path).load()


def is_report(path: Path) -> None:
    assert len(json.loads(path.read_text(encoding="utf-8"))["images"]) == 4


CHECKS: dict[str, Check] = {
    ".onnx": is_model, ".npz": is_arrays, ".npy": is_map, ".png": is_picture, ".json": is_report,
}  # fmt: skip

COMMANDS = {
    "cut": (["cut", "m.onnx", "--to", "last", "-o", "out/part.onnx"], ["part.onnx"]),
    "run": (["run", "m.onnx", "images", "--layers", "last", "-o", "out/x.npz"], ["x.npz"]),
    "cam": (
        ["cam", "m.onnx", "images", "-o", "out"],
        ["cam.json", *(f"{at}.cam.{kind}" for at in range(4) for kind in ("npy", "png"))],
    ),
    "gradients": (
        ["gradients", "m.onnx", "--layers", "last", "--seconds", "0.1", "-o", "out/g.onnx"],
        ["g.onnx"],
    ),
    "export": (["export", "small:build", "-o", "out/e.onnx"], ["e.onnx"]),
}

MODEL = """
import keras

def build():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(300), keras.layers.Dense(2)])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.save(tiny.differentiable(), tmp_path / "m.onnx")
    (tmp_path / "small.py").write_text(MODEL)
    for name in ("images", "out"):
        (tmp_path / name).mkdir()
    for at in range(4):
        pixels = np.random.default_rng(at).integers(0, 256, (16, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{at}.png")
    return tmp_path


def start(name: str, folder: Path) -> subprocess.Popen[bytes]:
    argv, _ = COMMANDS[name]
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-m", "layertap", *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def written(folder: Path) -> list[str]:
    """The names in the output folder; each file must be whole, except temporary ones."""
    names = []
    for path in (folder / "out").iterdir():
        names.append(path.name)
        if not path.name.startswith("."):
            CHECKS[path.suffix](path)
    return names


def kill_often(name: str, folder: Path, kills: int, seed: int) -> None:
    """Run a command, kill it after a random time, and look at what is there."""
    generator = random.Random(seed)
    started = time.perf_counter()
    with start(name, folder) as process:
        assert process.wait() == 0
    duration = time.perf_counter() - started
    assert sorted(written(folder)) == sorted(COMMANDS[name][1])
    for at in range(kills):
        if at % 2:  # also where nothing was written before
            for path in (folder / "out").iterdir():
                path.unlink()
        number = KILLS[at % len(KILLS)]
        with start(name, folder) as process:
            time.sleep(duration * generator.uniform(0.3, 1.0))
            process.send_signal(number)
            code = process.wait()
        assert code in {0, CODES[number], EARLY.get(number), 1}, (number, code)
        written(folder)
    with start(name, folder) as process:
        assert process.wait() == 0
    assert sorted(written(folder)) == sorted(COMMANDS[name][1])


@pytest.mark.parametrize("name", ["cut", "run", "cam"])
def test_a_few_kills(name: str, folder: Path) -> None:
    kill_often(name, folder, 4, seed=0)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", COMMANDS)
def test_two_hundred_kills(name: str, folder: Path) -> None:
    kill_often(name, folder, 40, seed=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_a_file_is_written(number: int, folder: Path) -> None:
    """In the middle of the write: the temporary file is removed, and the target as before."""
    program = f"""
import os, signal, sys
import numpy
from layertap import cli

# The test may run where the signal is ignored, for example under nohup.
usual = signal.default_int_handler if {int(number)} == signal.SIGINT else signal.SIG_DFL
signal.signal({int(number)}, usual)

def slowly(file, value, **_):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), {int(number)})

numpy.lib.format.write_array = slowly
sys.argv = ["layertap", *{COMMANDS["run"][0]!r}]
sys.exit(cli.main())
"""
    (folder / "out" / "x.npz").write_bytes(b"the old")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 128 + number
    word = {1: "ended by SIGHUP", 2: "interrupted", 15: "ended by SIGTERM"}[number]
    assert done.stderr == f"layertap: {word}; no file was left incomplete.\n"
    assert [path.name for path in (folder / "out").iterdir()] == ["x.npz"]
    assert (folder / "out" / "x.npz").read_bytes() == b"the old"


def test_a_signal_that_is_ignored_stays_ignored(folder: Path) -> None:
    """As with `nohup`."""
    argv = [
        sys.executable,
        "-c",
        "import os, signal; from layertap import cli; import sys; "
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); sys.argv = ['layertap', 'info', "
        "'m.onnx']; code = cli.main(); os.kill(os.getpid(), signal.SIGHUP); sys.exit(code)",
    ]
    done = subprocess.run(argv, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0
