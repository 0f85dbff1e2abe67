"""What docs/edge.md says about container images and frozen programs, without Docker."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from generators import tiny
from pages import page

ROOT = Path(__file__).parents[2]
EDGE = ROOT / "examples" / "edge"


def test_the_image_is_made_of_all_that_a_wheel_needs_and_nothing_else() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    lines = (EDGE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    read = {line.removeprefix("!") for line in lines if line.startswith("!")}
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, build = data["project"], data["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], *build["packages"]}
    docker = (EDGE / "Dockerfile").read_text(encoding="utf-8")
    needed |= {name for name in re.findall(r"^COPY (\S+) ", docker, re.M) if "/" in name}
    assert read == needed - {"--from=build"}
    assert all((ROOT / name).exists() for name in read)


def test_layertap_comes_from_the_wheel_and_no_index() -> None:
    """A package of the same name in an index could have a higher version."""
    installs = re.findall(r"pip install (.*)", (EDGE / "Dockerfile").read_text(encoding="utf-8"))
    assert len(installs) == 1
    assert "layertap" not in installs[0]
    assert "/wheels/*.whl" in installs[0]


def test_the_commands_ask_for_a_layer_that_the_demo_has_gradients_for() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    exported = re.search(r"^\t.* export .* -o \$@ .*--gradients (\S+)", makefile, re.M)
    assert exported
    runs = [line for line in page("edge.md").splitlines() if "demo/images/" in line]
    assert len(runs) == 2
    assert {shlex.split(line)[-1] for line in runs} == {exported[1]}


def test_the_program_prints_scores_and_shapes(tmp_path: Path) -> None:
    from PIL import Image

    recipe = {"size": [8, 6], "scaling": {"mode": "tf"}}
    made = tiny.differentiable()
    (prop,) = (item for item in made.metadata_props if item.key == "layertap")
    prop.value = json.dumps({**json.loads(prop.value), "preprocessing": recipe})
    file = tiny.save(made, tmp_path / "a.onnx")
    Image.new("RGB", (9, 9), (200, 10, 30)).save(tmp_path / "a.png")
    given = [EDGE / "app.py", file, tmp_path / "a.png", "relu"]
    done = subprocess.run(
        [sys.executable, *map(str, given)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(found["scores"]) == ["bird", "cat", "dog"]
    assert (found["layer"], found["heat map"]) == ([1, 8, 6, 4], [8, 6])
