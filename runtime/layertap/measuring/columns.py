"""Columns of a table of layers: what a cell shows, and by which number `sorted` orders the rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from layertap.errors import UsageError, suggest
from layertap.format.text import aligned


class Column(NamedTuple):
    """One column."""

    title: str
    number: Callable[[Any], float | None]
    """The number of a row; its cell is empty for `None`."""
    text: Callable[[Any], str]
    """What a cell shows of the number."""
    size: Callable[[float], float] = float
    """What the rows are sorted by, the largest first."""
    rare: bool = False
    """Whether the column is left out if all its cells are empty."""

    def cell(self, row: Any) -> str:
        """The cell of a row."""
        number = self.number(row)
        return "" if number is None else self.text(number)

    def key(self, row: Any) -> tuple[bool, float]:
        """Sorts rows by size; those without a number come last."""
        number = self.number(row)
        return number is None, 0.0 if number is None else -self.size(number)


def number_text(value: float) -> str:
    """A number of four digits."""
    return f"{value + 0.0:.4g}"  # 0 has no sign


def count_text(count: int) -> str:
    """A count with commas; empty for 0."""
    return f"{count:,}" if count else ""


def table(rows: Sequence[Any], columns: Sequence[Column]) -> str:
    """The rows as text, each with its index, name and class."""
    cells = [[column.cell(row) for row in rows] for column in columns]
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


class HasRows(Protocol):
    """A result with a table."""

    rows: tuple[Any, ...]


T = TypeVar("T", bound=HasRows)


def in_order(found: T, columns: Sequence[Column], by: str) -> T:
    """The same result with the rows by a column, the largest number first; rows without a number
    come last.

    Raises:
        UsageError: no column has this title.
    """
    titles = [column.title for column in columns]
    check_title(by, titles)
    ordered = copy.copy(found)
    ordered.rows = tuple(sorted(found.rows, key=columns[titles.index(by)].key))
    return ordered
