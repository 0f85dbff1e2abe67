"""docs/conformance.md is what `make conformance` writes, about every family, and within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

import pages
from conformance.__main__ import SECTIONS
from conformance.families import APPLICATIONS, Family

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


def row(title: str, family: Family) -> list[str]:
    (found,) = [x for x in pages.rows(pages.section(PAGE, title)) if x[0] == family.name]
    return found


@pytest.mark.parametrize("title", SECTIONS)
def test_every_family_is_there_with_every_member(title: str) -> None:
    found = [(x[0], int(x[1])) for x in pages.rows(pages.section(PAGE, title))]
    assert found == [(family.name, len(family.members)) for family in SECTIONS[title]]


@pytest.mark.parametrize("family", APPLICATIONS, ids=lambda family: family.name)
def test_a_family_of_keras_applications(family: Family) -> None:
    _, _, _, worst, _, truth, transposes, _ = row("keras.applications", family)
    assert float(worst) < 1e-5
    assert int(transposes) <= family.transposes[1]
    ours, theirs = map(float, truth.split(" / "))
    assert ours < 1e-5
    assert theirs < 1e-5
