"""docs/extending.md: every entry-point group has its section, and the page's example works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pages import commands, fenced, page

ROOT = Path(__file__).parents[2]
PAGE = page("extending.md")


def test_each_entry_point_group_of_layertap_has_a_section() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    groups = re.findall(r'^\[project\.entry-points\."?([\w.]+)"?\]$', pyproject, re.MULTILINE)
    assert groups
    assert set(groups) == set(re.findall(r"^## `(layertap\.\w+)`$", PAGE, re.MULTILINE))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's distribution, built and unpacked into a folder to import from."""
    source = tmp_path_factory.mktemp("source")
    (source / "pyproject.toml").write_text(fenced(PAGE, "toml")[0], encoding="utf-8")
    (source / "layertap_largest.py").write_text(fenced(PAGE, "python")[0], encoding="utf-8")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(next(source.glob("dist/*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def layertap(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "layertap", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.tensorflow
def test_the_example_prints_what_the_page_shows(installed: Path, demo: Path) -> None:
    for command, printed in commands(PAGE):
        name, *arguments = command.split()
        assert name == "layertap"
        done = layertap(installed, demo, *arguments)
        assert done.stdout + done.stderr == printed


def test_the_example_is_listed_beside_the_other_commands(installed: Path, tmp_path: Path) -> None:
    done = layertap(installed, tmp_path, "--help")
    assert done.returncode == 0
    assert re.search(r"^ +largest +list the layers with the largest", done.stdout, re.MULTILINE)
    assert re.search(r"^ +run +", done.stdout, re.MULTILINE)
