"""The parts of a page without scripts: text, numbers, tables, and lists of reasons."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from layertap._escaping import printable

from .html_page import static_page

SHOWN = 20
"""Reasons that a list shows."""


def text(value: str) -> str:
    """Text from outside, as HTML."""
    return html.escape(printable(value))


def row_head(name: str, type_name: str) -> str:
    """The cell with a layer's name and class."""
    return (
        f"<th scope=row><span class=name>{text(name)}</span> "
        f"<span class=soft>{text(type_name)}</span></th>"
    )


def numbers(*cells: str) -> list[str]:
    """Cells with numbers."""
    return [f"<td class=number>{text(cell)}</td>" for cell in cells]


def reasons(title: str, found: Mapping[str, str]) -> str:
    """A list that can be opened: names with a reason each; empty if there are none."""
    if not found:
        return ""
    shown = [f"{name}: {reason}" for name, reason in list(found.items())[:SHOWN]]
    shown += [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    items = "".join(f"<li>{text(line)}</li>" for line in shown)
    return f"<details><summary>{title} ({len(found)})</summary><ul>{items}</ul>\n</details>"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table.

    Args:
        columns: the titles, as text.
        rows: the cells of each row, as HTML.
    """
    heads = "".join(f"<th scope=col>{text(name)}</th>" for name in columns)
    lines = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def report_page(title: str, parts: Sequence[str]) -> bytes:
    """The page.

    Args:
        title: also its first line, as text.
        parts: what follows, as HTML; empty ones are left out.
    """
    head = f"<h1>{text(title)}</h1>"
    return static_page(title, "\n".join([head, *filter(None, parts)]))
