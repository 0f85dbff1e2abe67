"""Fixtures for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from hypothesis import settings

# `make test` draws the same examples on every machine; `make test-all` looks for new ones.
settings.register_profile("steady", derandomize=True)

# Tests that use onnxruntime themselves, as a reference, leave nothing in the home folder either.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# As in the exporter: some tests import TensorFlow before it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:  # the workers share the cores, so one thread each is faster than several
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.hookimpl(optionalhook=True)  # the hook exists only with pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """The number of workers for `-n auto`: one per core and 2 GiB of memory, at most 8."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, psutil.virtual_memory().total >> 31, 8))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the file of the longest tests, which otherwise runs alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_endurance.py")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Return a folder by its name. A function fills it once per run, also with several workers.

    Tests must not write to it.
    """
    own = tmp_path_factory.getbasetemp()
    common = own.parent if WORKER else own

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        path, unfinished = common / name, common / f"{name}.unfinished"
        with FileLock(common / f"{name}.lock"):
            if not path.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(path)
        return path

    return folder


@pytest.fixture(scope="session")
def shared_xrays() -> Path:
    """A folder of real chest radiographs next to the repository; tests are skipped without it."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "chest_xray"
    if not folder.is_dir():
        pytest.skip("needs the folder of real X-rays, shared/data/chest_xray")
    return folder


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the file of a model in `tiny` by its function's name; each is made once.

    Tests must not write to it.
    """
    from generators import tiny

    folder = tmp_path_factory.mktemp("tiny")

    def file(name: str) -> Path:
        path = folder / f"{name}.onnx"
        return path if path.exists() else tiny.save(getattr(tiny, name)(), path)

    return file


@pytest.fixture(scope="session")
def chest_folder(made_once: MadeOnce) -> Path:
    """`chest.onnx`, exported as the README says, with `chest.png` and a folder `images`.

    TensorFlow runs in a process of its own. Tests must not write here.
    """
    if find_spec("tf2onnx") is None:
        pytest.skip("needs the export extra")
    layertap = [sys.executable, "-m", "layertap"]
    make = [*layertap, "models", "chest_xray", "--write", ".", "--samples", "3"]
    export = [*layertap, "export", "layertap_models.chest_xray:build", "-o", "chest.onnx"]
    options = ["--labels", "labels.txt", "--preprocess", "preprocess.json"]
    options += ["--gradients", "conv5_block16_concat"]

    def fill(folder: Path) -> None:
        for command in (make, [*export, *options]):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        shutil.copy(folder / "images" / "phantom_000.png", folder / "chest.png")

    return made_once("chest", fill)


@pytest.fixture(scope="session")
def chest_file(chest_folder: Path) -> Path:
    """The chest X-ray DenseNet121 with all its layers, and the gradient at one of them."""
    return chest_folder / "chest.onnx"
