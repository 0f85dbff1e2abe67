"""The README's examples do what it says: shell blocks are run, Python blocks are doctests."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import layertap

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Each `$ command` of a console block, with the lines that it shall print."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            found.append((command, printed))
    return found


@pytest.fixture(scope="module")
def folder(chest_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's reader stands; the commands build on one another."""
    return Path(shutil.copytree(chest_folder, tmp_path_factory.mktemp("readme") / "here"))


def test_the_first_screen_has_the_three_commands() -> None:
    first = README[: README.index("## Fetch")]
    for command in ("make demo", "make test", 'pip install "layertap[cpu]"'):
        assert command in first


def test_there_are_examples_to_run() -> None:
    assert len(commands()) >= 10
    assert len(blocks("pycon")) >= 2


@pytest.mark.parametrize(("command", "printed"), commands(), ids=[c for c, _ in commands()])
def test_shell_example(command: str, printed: str, folder: Path) -> None:
    assert command.startswith("layertap ")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # "..." stands for what differs from run to run, or is left out for brevity.
    expected = ".*".join(re.escape(part) for part in printed.split("..."))
    assert re.fullmatch(expected, done.stdout, flags=re.DOTALL), done.stdout


def test_python_examples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One session, from top to bottom."""
    monkeypatch.chdir(folder)
    session = "\n".join(blocks("pycon"))
    test = doctest.DocTestParser().get_doctest(session, {}, "README.md", "README.md", 0)
    report: list[str] = []
    results = doctest.DocTestRunner().run(test, out=report.append)
    assert results.attempted > 15
    assert results.failed == 0, "".join(report)


@pytest.mark.parametrize("recipe", blocks("json"))
def test_recipe_example(recipe: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(recipe, encoding="utf-8")
    assert layertap.Preprocessing.load(file).to_dict()["size"] == [320, 320]
