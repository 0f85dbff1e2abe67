"""The pages in docs/: the tree of architecture.md, the site's navigation, the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from contracts.test_floors import FLOORS
from layertap.cli import OWN
from pages import DOCS, fenced, page, quoted, rows, section

ROOT = DOCS.parent
PACKAGES = ("runtime/layertap", "export/layertap_export", "models/layertap_models")


def modules() -> set[str]:
    """The paths of all modules; a package's `__init__.py` goes by the package's folder."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            named = path.parent if path.name == "__init__.py" else path
            found.add(named.relative_to(ROOT).as_posix())
    return found


def listed(tree: str) -> list[str]:
    """The paths in the tree of architecture.md, which indents by four spaces.

    Raises:
        ValueError: a line without a description.
    """
    paths: list[str] = []
    above: list[str] = []
    for line in filter(None, tree.splitlines()):
        found = re.fullmatch(r"( *)(\S+?)/? {2,}\S.*", line)
        if not found:
            raise ValueError(f"neither a path nor a description: {line!r}")
        above[len(found[1]) // 4 :] = [found[2]]
        paths.append("/".join(above))
    return paths


def test_architecture_has_one_line_for_each_module() -> None:
    paths = listed(fenced(page("architecture.md"), "text")[0])
    assert sorted(paths) == sorted(modules())


def test_the_tree_is_read_as_it_is_indented() -> None:
    tree = "a/    one\n    b.py    two\n    c/   three\n        d.py   four\ne/   five\n"
    assert listed(tree) == ["a", "a/b.py", "a/c", "a/c/d.py", "e"]
    with pytest.raises(ValueError, match=r"b\.py"):
        listed("a/   one\n    b.py\n")


@pytest.mark.parametrize("package", FLOORS)
def test_architecture_lists_the_floors_of_the_import_rule(package: str) -> None:
    text = page("architecture.md")
    after = text[text.index(f"`{package}`:\n") :]
    items = re.match(r".*\n\n((?:\d+\. .*\n)+)", after)
    assert items
    assert [" ".join(quoted(line)) for line in items[1].splitlines()] == FLOORS[package]


def test_the_site_has_every_page_in_its_navigation() -> None:
    nav = re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(nav) == sorted(pages)


def test_the_index_says_what_each_page_is_for() -> None:
    lines = re.findall(r"^[-|] ?\[.*?\]\(([\w./-]+)\).+", page("index.md"), re.MULTILINE)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(lines) == sorted(pages - {"index.md"})


def test_the_command_line_page_has_a_section_for_each_command() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    group = re.search(
        r'^\[project\.entry-points\."layertap\.commands"\]\n(.*?)^\[', pyproject, re.M | re.S
    )
    assert group
    added = re.findall(r"^(\w+) = ", group[1], re.MULTILINE)
    text = page("command-line.md")
    assert sorted(re.findall(r"^## layertap (\w+)$", text, re.M)) == sorted([*OWN, *added])
    assert re.findall(r"^<!-- layertap (\w+) --help -->$", text, re.M) == re.findall(
        r"^## layertap (\w+)$", text, re.M
    )


LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(#[^)]*)?\)")


@pytest.mark.parametrize("path", [*DOCS.rglob("*.md"), *ROOT.glob("*.md")], ids=lambda x: x.name)
def test_links_lead_to_files(path: Path) -> None:
    for target, _ in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_changelog_names_modules_that_exist() -> None:
    moved = rows(section(page("../CHANGELOG.md"), "Changed").replace("  |", "|"))
    assert len(moved) > 10
    for _, now in moved:
        module, _, name = now.strip("`").rpartition(".")
        value = getattr(import_module(module), name, None)
        assert value is not None or find_spec(now.strip("`")), now


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="needs the docs extra")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        build, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage: layertap run" in (tmp_path / "command-line.html").read_text(encoding="utf-8")
    assert (tmp_path / "api" / "layertap.html").stat().st_size > 100_000
