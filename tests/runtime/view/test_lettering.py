"""Text in pictures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layertap.view.lettering import Lettering, length


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ASCII 0.5_%", "plain ASCII 0.5_%"),
        ("Œdème é", "OEdeme e"),
        ("Größe Ångström", "Grosse Angstrom"),
        ("3 \u00d7 4 ≥ 5 \u2013 6", "3 x 4 >= 5 - 6"),
        ("5 °C ± 1…", "5 °C ± 1…"),  # which the font has
        ("¾ cup", "3\u20444 cup"),
        ("two\nlines\tand  tabs", "two lines and tabs"),
        ("心", "?"),
        ("a\u0301", "a"),
        ("", ""),
    ],
)
def test_characters_that_the_font_lacks_are_replaced(text: str, expected: str) -> None:
    assert Lettering().line(text) == expected


@given(st.text(max_size=40), st.integers(20, 300))
def test_text_fits_its_width(text: str, width: int) -> None:
    letters = Lettering()
    line, font = letters.fitted(text, 20, width)
    assert length(line, font) <= width
    for part in letters.wrapped(text, 14, width):
        assert length(part, letters.font(14)) <= width


def test_words_are_wrapped() -> None:
    letters = Lettering()
    lines = letters.wrapped("one two three four five six seven", 14, 90)
    assert len(lines) > 2
    assert " ".join(lines) == "one two three four five six seven"
