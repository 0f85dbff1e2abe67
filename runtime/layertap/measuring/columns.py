"""Columns of a table of layers: what a cell shows, and by which number `sorted` orders the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from layertap.errors import UsageError, suggest
from layertap.format.text import aligned


class Column(NamedTuple):
    """One column."""

    title: str
    text: Callable[[Any], str]
    """The cell of a row."""
    number: Callable[[Any], float | None]
    """What the rows are sorted by, the largest first."""
    rare: bool = False
    """Whether the column is left out if all its cells are empty."""


def table(rows: Sequence[Any], columns: Sequence[Column]) -> str:
    """The rows as text, each with its index, name and class."""
    cells = [[column.text(row) for row in rows] for column in columns]
    shown = [
        (column.title, *texts)
        for column, texts in zip(columns, cells, strict=True)
        if any(texts) or not column.rare
    ]
    fixed = [
        ("index", *(str(row.index) for row in rows)),
        ("name", *(row.name for row in rows)),
        ("class", *(row.type for row in rows)),
    ]
    lines = list(zip(*fixed, *shown, strict=True))
    return aligned(lines, {0, *range(3, 3 + len(shown))})


def check_title(by: object, titles: Sequence[str]) -> None:
    """Check that a table can be sorted by a column.

    Raises:
        UsageError: none of the titles is `by`.
    """
    if by not in titles:
        near = suggest(by, titles) if isinstance(by, str) else ""
        raise UsageError(
            f"the table has no column {by!r} to sort by. It has {', '.join(titles)}.{near}"
        )


def in_order(rows: Iterable[Any], columns: Sequence[Column], by: str) -> list[Any]:
    """The rows by a column, the largest number first; rows without a number come last.

    Raises:
        UsageError: no column has this title.
    """
    titles = [column.title for column in columns]
    check_title(by, titles)
    number = columns[titles.index(by)].number

    def key(row: Any) -> tuple[bool, float]:
        value = number(row)
        return value is None, -(value or 0.0)

    return sorted(rows, key=key)
