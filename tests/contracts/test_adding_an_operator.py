"""docs/adding-an-operator.md shows the code as it is."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-an-operator.md").read_text(encoding="utf-8")

PATHS = [
    path
    for path in sorted(set(re.findall(r"`((?:export|tests|docs)/[\w/]+(?:\.\w+)?/?)`", PAGE)))
    if "THEME" not in path
]
"""The files and folders that the page names."""


def blocks() -> list[str]:
    """The indented blocks of the page."""
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", PAGE, re.MULTILINE)
    return [textwrap.dedent(block).strip("\n") for block in found if block.strip()]


CODE = [block for block in blocks() if re.match(r'"|def |class ', block)]


def test_the_paths_exist() -> None:
    assert len(PATHS) >= 5
    assert [path for path in PATHS if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("code", CODE, ids=lambda code: code.split("\n")[0])
def test_the_code_is_in_a_file_that_the_page_names(code: str) -> None:
    texts = [(ROOT / path).read_text("utf-8") for path in PATHS if path.endswith(".py")]
    shown = [textwrap.indent(code, " " * indent) for indent in (0, 4)]
    assert any(form in text for form in shown for text in texts)


def test_the_page_shows_code_of_each_step() -> None:
    assert len(CODE) == 5


def test_the_tests_that_the_page_names_exist() -> None:
    names = set(re.findall(r"(test_\w+)\.py::(test_\w+)", PAGE))
    assert len(names) == 5
    for module, name in names:
        (path,) = (ROOT / "tests" / "export").rglob(f"{module}.py")
        assert f"def {name}(" in path.read_text("utf-8")
