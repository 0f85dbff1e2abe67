"""Fixtures for the tests of README and docs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def demo_copy(
    chest_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Makes a folder that looks like a checkout after `make demo`: demo/ and examples/.

    The model is a hard link; commands must not write into it.
    """

    def copy(name: str) -> Path:
        here = tmp_path_factory.mktemp(name)
        (here / "demo").mkdir()
        for file in "labels.txt", "preprocess.json", "images":
            source = chest_folder / file
            (shutil.copytree if source.is_dir() else shutil.copy)(source, here / "demo" / file)
        os.link(chest_folder / "chest.onnx", here / "demo" / "chest.onnx")
        (here / "examples").mkdir()
        shutil.copy(EXAMPLES / "fetch.py", here / "examples")
        return here

    return copy


@pytest.fixture(scope="session")
def demo(demo_copy: Callable[[str], Path]) -> Path:
    """Such a folder. Tests must not write here."""
    return demo_copy("demo")
