"""The examples of README.md and of the pages in docs/ print what they show.

In README.md they can be pasted: a block of `sh` or `python`, and after it the output as `text`. The
pages show sessions: `console` with `$ command`, and `pycon` with `>>>`. `...` in an output stands
for what differs from run to run or from machine to machine, or is left out for brevity.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import layertap
from pages import DOCS, commands, fenced, page

README = page("../README.md")
SET_UP = ("make", "source", "pip")
"""Commands that prepare the environment, in which the tests run already."""
ELSEWHERE = {"extending.md", "adding-an-operator.md"}
"""Pages with tests of their own: their examples need files that the reader writes first."""
PAGES = [
    path.name
    for path in sorted(DOCS.glob("*.md"))
    if path.name not in ELSEWHERE
    and ("```console\n" in path.read_text("utf-8") or "```pycon\n" in path.read_text("utf-8"))
]


def run(command: str, folder: Path) -> str:
    """What a command prints, to stdout and stderr, when `layertap` is on the path."""
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
    return done.stdout


def agrees(printed: str, shown: str) -> bool:
    """Whether what was printed is what a page shows."""
    expected = ".*".join(re.escape(part) for part in shown.split("..."))
    return re.fullmatch(expected, printed, flags=re.DOTALL) is not None


def test_dots_stand_for_anything_and_all_else_counts() -> None:
    assert agrees("a 0.379651\nb\n", "a 0.379...\nb\n")
    assert not agrees("a 0.389651\nb\n", "a 0.379...\nb\n")
    assert not agrees("a\nb\n", "a\n")


# --- README.md ----------------------------------------------------------------------------------


def test_the_first_screen_has_the_two_commands_and_a_small_picture() -> None:
    first = README[: README.index("## Fetch")]
    for command in ("make demo", "make test", "source .venv/bin/activate"):
        assert re.search(rf"^{command}\b", first, re.MULTILINE)
    pictures = re.findall(r"!\[.+\]\((.+\.png)\)", README[:1500])
    assert [(DOCS.parent / picture).stat().st_size < 100_000 for picture in pictures] == [True]


def test_the_readme_can_be_pasted_from_top_to_bottom(
    demo_copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = demo_copy("readme")
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    blocks = re.findall(r"^```(\w+)\n(.*?)^```\n(?=\n```(text)\n(.*?)^```)?", README, re.M | re.S)
    checked = 0
    for language, code, follows, shown in blocks:
        if language == "sh" and not code.startswith(SET_UP):
            printed = run(code, folder)
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, names)
            printed = out.getvalue()
        else:
            continue
        assert follows, code
        assert agrees(printed, shown), f"{code}\n{printed}"
        checked += 1
    assert checked == 7


# --- The pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_what_its_examples_print(
    name: str, demo_copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From top to bottom: first the commands, then the Python session."""
    folder = demo_copy(Path(name).stem)
    monkeypatch.chdir(folder)
    for command, shown in commands(page(name)):
        assert command.startswith("layertap ")
        printed = run(command, folder)
        assert agrees(printed, shown), f"{command}\n{printed}"
    session = "\n".join(fenced(page(name), "pycon"))
    test = doctest.DocTestParser().get_doctest(session, {}, name, name, 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(test, out=report.append).failed == 0, "".join(report)


def test_the_pages_have_examples() -> None:
    sessions = [block for name in PAGES for block in fenced(page(name), "pycon")]
    assert len([found for name in PAGES for found in commands(page(name))]) >= 15
    assert sum(block.count(">>> ") for block in sessions) >= 20


@pytest.mark.parametrize("recipe", fenced(page("images.md"), "json"))
def test_recipe_example(recipe: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(recipe, encoding="utf-8")
    assert layertap.Preprocessing.load(file).to_dict()["size"] in ([320, 320], [224, 224])
