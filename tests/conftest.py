"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests that use onnxruntime themselves, as a reference, leave nothing in the home folder either.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(scope="session")
def shared_xrays() -> Path:
    """A folder of real chest radiographs, beside the repository; not everybody has it."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "chest_xray"
    if not folder.is_dir():
        pytest.skip("needs the folder of real X-rays, shared/data/chest_xray")
    return folder


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the file of a model in `tiny` by its function's name; each is made once.

    Tests must not write to it.
    """
    import tiny

    folder = tmp_path_factory.mktemp("tiny")

    def file(name: str) -> Path:
        path = folder / f"{name}.onnx"
        return path if path.exists() else tiny.save(getattr(tiny, name)(), path)

    return file
