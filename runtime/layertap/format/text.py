"""Human-readable text: aligned columns, shapes, and names that are safe to print."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import chain

from layertap._escaping import printable as printable
from layertap._escaping import shortened as shortened

from .layer import Shape

WIDEST = 200
"""Most characters of a cell."""


class Readable:
    """An object whose `str` is for people: a notebook shows that, and `repr` its first line."""

    __slots__ = ()

    def __repr__(self) -> str:
        line = printable(shortened(str(self).partition("\n")[0], 160))
        return f"<{type(self).__module__}.{type(self).__qualname__}: {line}>"

    def _repr_html_(self) -> str:
        """The whole text, for notebooks."""
        return as_html(str(self))


class Text(str):
    """A text of several lines, which a notebook or a prompt shows as such."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def as_html(text: str) -> str:
    """A text as HTML that keeps its lines and columns, with nothing in it read as HTML."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f'<pre style="white-space: pre; overflow-x: auto">{escaped}</pre>'


def number_of(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: `1 layer`, `0 layers`, `2 classes`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def finite(number: float) -> float | str | None:
    """A number as JSON can hold it: NaN is `None`, infinite numbers are `inf` and `-inf`."""
    if math.isfinite(number):
        return number
    return None if math.isnan(number) else str(number)


def counted(layers: int, gradients: int, noun: str = "layer") -> str:
    """Counts such as `428 layers and 1 gradient`; a count of 0 is omitted."""
    parts = [number_of(layers, noun)] if layers or not gradients else []
    if gradients:
        parts.append(number_of(gradients, "gradient"))
    return " and ".join(parts)


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows as aligned columns, with a line below the first row.

    Columns whose indices are in `right` are right-aligned. Long cells are shortened.
    """
    columns = [list(column) for column in zip(*rows, strict=True)]
    if max(map(len, chain.from_iterable(rows))) > WIDEST:
        columns = [[shortened(cell, WIDEST) for cell in column] for column in columns]
    if not "".join(map("".join, columns)).isprintable():
        columns = [[printable(cell) for cell in column] for column in columns]
    widths = [max(map(len, column)) for column in columns]
    padded = [
        [cell.rjust(width) if index in right else cell.ljust(width) for cell in column]
        for index, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    lines = ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def shape_text(shape: Shape) -> str:
    """`(None, 10, 10, 1024)`, as Keras prints it."""
    return str(tuple(shape))


def type_text(shape: Shape, dtype: str) -> str:
    """The shape; `?` if the file states no dtype; the type of a value that is not a tensor."""
    if dtype in ("sequence", "map", "optional"):
        return dtype
    return shape_text(shape) if dtype else "?"


def class_text(value: object) -> str:
    """The class of a value with its article: `an int`, `a list`."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def megabytes(nbytes: int) -> str:
    """A size in MB (10^6 bytes), with the digits that matter."""
    value = nbytes / 1e6
    digits = 1 if value >= 10 else 2 if value >= 0.1 else 4 if value >= 0.001 else 6
    return f"{value:.{digits}f}"
