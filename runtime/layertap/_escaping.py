"""Text from files, made safe to print: names in a file may contain any characters."""

from __future__ import annotations

LONGEST = 8000
"""Most characters of one line; a file may name a tensor with millions of them."""


def printable(text: str) -> str:
    """The text in one line, without characters that a terminal acts on.

    Escaped, as in `repr`, are control characters, line breaks, invisible characters such as those
    that change the direction of writing, and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def shortened(text: str, most: int = LONGEST) -> str:
    """The text; of a longer one its beginning and its end."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[len(text) - half :]}"


def one_line(text: str) -> str:
    """The text for a message: `printable`, and `shortened`."""
    return printable(shortened(text))
