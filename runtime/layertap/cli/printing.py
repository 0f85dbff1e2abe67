"""Printing. All that a command prints goes through here, and is escaped."""

from __future__ import annotations

import sys

from layertap._escaping import printable


def show(text: str) -> None:
    """Print a result to stdout, line by line."""
    print("\n".join(map(printable, text.split("\n"))))


def tell(text: str, *, several_lines: bool = False) -> None:
    """Print a message to stderr, in one line unless `several_lines`."""
    lines = text.split("\n") if several_lines else [text]
    print("\n".join(map(printable, lines)), file=sys.stderr)
