"""Model files of many versions of Keras."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

OLD = Path(__file__).parent / "old"
VERSIONS = [path.stem.removeprefix("keras-") for path in sorted(OLD.glob("keras-*.zip"))]


class OldFile(NamedTuple):
    """The files that old/make.py wrote for one model."""

    path: Path
    """The whole model."""
    weights: Path
    x: np.ndarray
    y: np.ndarray
    """The prediction of that Keras for `x`."""


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], OldFile]:
    """A function that returns the files of a model, by Keras version and model name."""
    folders: dict[str, Path] = {}

    def files(version: str, name: str) -> OldFile:
        if version not in folders:
            folders[version] = tmp_path_factory.mktemp(f"keras-{version}")
            zipfile.ZipFile(OLD / f"keras-{version}.zip").extractall(folders[version])
        folder = folders[version]
        with np.load(folder / f"{name}.npz") as saved:
            x, y = saved["x"], saved["y"]
        return OldFile(folder / f"{name}.h5", folder / f"{name}_weights.h5", x, y)

    return files


def edit_archive(path: Path, edit: Callable[[dict[str, bytes]], object]) -> None:
    """Change the members of a zip archive, given as a dict by name."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    edit(contents)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def edit_config(path: Path, edit: Callable[[Any], object]) -> None:
    """Change the configuration of the layers in a `.keras` file of a Sequential model."""

    def change(contents: dict[str, bytes]) -> None:
        config = json.loads(contents["config.json"])
        edit(config["config"]["layers"])
        contents["config.json"] = json.dumps(config).encode()

    edit_archive(path, change)


@pytest.fixture(scope="session")
def tf_keras(keras: Any) -> Any:
    """Keras 2; skips the test if it is not installed."""
    if find_spec("tf_keras") is None:
        pytest.skip("needs tf_keras")
    import tf_keras

    return tf_keras


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A function that writes a module in the current folder, and returns its unique name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        name = "module_" + re.sub(r"\W", "_", tmp_path.name)
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write
