"""Names of layers that a model file lacks are refused before TensorFlow is imported."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest


def layer(name: str, kind: str = "Dense", **more: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, **more}, "name": name}


def keras_file(folder: Path, config: dict[str, Any], name: str = "m.keras") -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.12.0"}))
    return path


INNER = layer("backbone", "Functional", layers=[layer("conv"), layer("bn")])
FUNCTIONAL = {
    "class_name": "Functional",
    "config": {"layers": [layer("image", "InputLayer"), INNER, layer("conv2d_last"), layer("out")]},
}
SEQUENTIAL = {
    "class_name": "Sequential",
    "config": {"layers": [layer("conv2d_last"), layer("out")]},
}
SUBCLASSED = {"class_name": "Own", "config": {"units": 4}}

PROGRAM = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "keras"):
            sys.exit("imported")
sys.meta_path.insert(0, Finder())
from layertap.cli import main
sys.exit(main(sys.argv[1:]))
"""


def err_of(file: Path, *options: str) -> str:
    argv = ["export", str(file), "-o", str(file.with_suffix(".onnx")), *options]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize(
    ("config", "options", "near"),
    [
        (FUNCTIONAL, ("--gradients", "conv2d_lst"), "Did you mean 'conv2d_last'?"),
        (FUNCTIONAL, ("--gradients", "out", "lastconv"), "Did you mean 'last-conv'?"),
        (FUNCTIONAL, ("--layers", "conv2d_lst"), "Did you mean 'conv2d_last'?"),
        (FUNCTIONAL, ("--layers", "bckbone/conv"), "Did you mean 'backbone'?"),
        (SEQUENTIAL, ("--gradients", "conv2d_lst"), "Did you mean 'conv2d_last'?"),
    ],
)
def test_a_mistyped_name(
    config: dict[str, Any], options: tuple[str, ...], near: str, tmp_path: Path
) -> None:
    err = err_of(keras_file(tmp_path, config), *options)
    assert err.startswith("layertap: no layer is called ")
    assert near in err
    assert "load_model(" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (FUNCTIONAL, ("--layers", "backbone/conv", "out", "conv*", "re:o.t", "-1", "1:3", "all")),
        (FUNCTIONAL, ("--gradients", "last-conv", "input", "backbone/deeper/still", "out#1")),
        (SUBCLASSED, ("--layers", "anything")),
        ({"class_name": "Sequential", "config": [layer("out")]}, ("--layers", "out")),
    ],
)
def test_what_may_be_a_name_is_left_to_the_export(
    config: dict[str, Any], options: tuple[str, ...], tmp_path: Path
) -> None:
    assert err_of(keras_file(tmp_path, config), *options) == "imported\n"
