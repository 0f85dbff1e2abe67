"""The pages in docs/: the tree of architecture.md, the site's navigation, the command line, the
Markdown itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
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
    """The paths of all modules; a package's `__init__.py` goes by the package's folder.

    Of the runtime for JavaScript also the folders, which hold no module of their name.
    """
    script = ROOT / "runtime/javascript"
    found = {path.relative_to(ROOT).as_posix() for path in (script / "src").rglob("*.ts")}
    found |= {path.relative_to(ROOT).as_posix() for path in (script, script / "src")}
    found.add("runtime/javascript/src/images")
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


SOURCES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda x: x.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path: Path) -> None:
    for target, _ in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_changelog_names_modules_that_exist() -> None:
    moved = rows(section(page("../CHANGELOG.md"), "Changed").replace("    |", "|"))
    assert len(moved) > 10
    for _, now in moved:
        module, _, name = now.strip("`").rpartition(".")
        value = getattr(import_module(module), name, None)
        assert value is not None or find_spec(now.strip("`")), now


# --- The Markdown -------------------------------------------------------------------------------


def misread(text: str) -> list[str]:
    """Lines of a page that the site's Markdown reads in another way than GitHub's.

    A code span that goes on in the next line may begin that line like a list item. After an empty
    line, less than four spaces end a list item.
    """
    found, before, in_code = [], "", False
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        if not in_code and not fence and not line.startswith("    "):
            outside = not before.strip() and re.match(" +", line)
            if outside or line.count("`") % 2:
                found.append(line)
        in_code ^= fence
        before = line
    return found


class Prose(HTMLParser):
    """The texts of the paragraphs, list items and cells of an HTML page, without its code."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = [""]
        self.code = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.code += tag in ("code", "pre", "script", "style")
        if tag in ("p", "li", "td", "th", "dd", "h1", "h2", "h3"):
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.code -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self.code:
            self.texts[-1] += data


def unrendered(html: str) -> list[str]:
    """The texts of a page in which Markdown is left: backticks, `**`, list items, tables."""
    left = re.compile(r"`|(?<!\d)\*\*|\n *[-+*] |\|--")
    return [text for text in Prose(html).texts if left.search(text)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda x: x.relative_to(ROOT).as_posix())
def test_the_markdown_reads_alike_everywhere(path: Path) -> None:
    assert misread(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda x: x.relative_to(ROOT).as_posix())
def test_no_markdown_is_left_in_the_html(path: Path) -> None:
    markdown = pytest.importorskip("markdown", reason="needs the docs extra")
    extensions = ["admonition", "attr_list", "tables", "fenced_code"]
    text = re.sub(r"^::: .*\n(    .*\n)*", "", path.read_text(encoding="utf-8"), flags=re.M)
    html = markdown.markdown(text, extensions=extensions)
    assert unrendered(html) == []


def test_damaged_markdown_is_found() -> None:
    assert misread("a `min(h, w\n* 2)` b\n") == ["a `min(h, w", "* 2)` b"]
    assert misread("- a\n\n  | b | c |\n") == ["  | b | c |"]
    assert misread("- a\n  b `c`\n\n    d\n\n```sh\n`\n\n  e\n```\n") == []
    assert unrendered("<p>a `b</p><p>c\n- d</p><p><b>e</b>\n**f</p>") == [
        "a `b",
        "c\n- d",
        "e\n**f",
    ]
    assert unrendered("<p>a <code>`b`</code> c - d</p><ul><li>e</li></ul>") == []


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
    texts = {path.name: unrendered(path.read_text("utf-8")) for path in tmp_path.rglob("*.html")}
    assert {name: found for name, found in texts.items() if found} == {}
