"""The language of the project: words that CONTRIBUTING.md rules out stand nowhere."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("runtime", "export", "models", "tests", "benchmarks", "docs", "examples")
KINDS = (".py", ".ts", ".md", ".ipynb", ".toml", ".yml")

RULED_OUT = re.compile(
    r"\bhangs? (?:up)?on\b|\bto be had\b|\bmakes? no sense\b|\b(?:came|comes) of\b|\banew\b"
    r"|\bwhoever\b|, be it\b",
    re.IGNORECASE,
)


def sources() -> list[Path]:
    found = [path for path in ROOT.iterdir() if path.suffix in KINDS or path.name == "Makefile"]
    for folder in FOLDERS:
        for path, folders, names in os.walk(ROOT / folder):
            folders[:] = [name for name in folders if name not in ("node_modules", "dist")]
            found += [Path(path) / name for name in names if name.endswith(KINDS)]
    # These two name the words.
    return [path for path in found if path.name not in ("CONTRIBUTING.md", "test_language.py")]


def phrases(text: str) -> list[str]:
    """The phrases that are ruled out, also where a line ends within them."""
    joined = " ".join(text.split()).replace('" "', "")
    return [found[0] for found in RULED_OUT.finditer(joined)]


def test_no_source_contains_a_phrase_that_is_ruled_out() -> None:
    found = {
        str(path.relative_to(ROOT)): words
        for path in sources()
        if (words := phrases(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "it hangs on the batch",
        "does not hang\n    on it",
        "the device is not to be had",
        '"batch_size 0 makes "\n        "no sense"',
        "what came of a check",
        "opens it anew",
        "Whoever reads it",
        "a list, be it of one",
    ],
)
def test_the_phrases_are_found(text: str) -> None:
    assert phrases(text)
    assert not phrases("the values depend on the batch; the result of a check is new")
