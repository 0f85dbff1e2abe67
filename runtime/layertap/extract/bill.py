"""The bill: what an extraction will write, and how long it will take, before it begins."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from layertap._escaping import printable
from layertap._public import public
from layertap._record import Record
from layertap.errors import OutputError
from layertap.format.text import number_of, shape_text

from .columns import Column
from .progress import duration

JOURNAL_BYTES = 100
"""Bytes of the journal and the lists for one row, about."""

SHOWN = 4
"""Number of columns that the line names."""

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@public
class Bill(Record):
    """What an extraction will write, and how long it will take."""

    rows: int
    """Number of items, of all shards."""
    left: int
    """Number of rows that this run has to compute."""
    columns: tuple[Column, ...]
    """What is computed for each item."""
    free: int
    """Bytes that are free on the disk."""
    tried: int = 0
    """Number of items that were tried, for the time."""
    seconds: float | None = None
    """The estimated time, in seconds; `None` if no item was tried."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(map(bytes_of, self.columns))

    @property
    def bytes(self) -> int:
        """Bytes that this run writes."""
        return self.left * (self.row_bytes + JOURNAL_BYTES)

    def __str__(self) -> str:
        shown = [_column_text(column, self.rows) for column in self.columns[:SHOWN]]
        if len(self.columns) > SHOWN:
            rest = sum(bytes_of(column) for column in self.columns[SHOWN:])
            more = number_of(len(self.columns) - SHOWN, "more column")
            shown.append(f"{more}: {bytes_text(rest * self.rows)}")
        noun = "image" if self.rows == 1 else "images"
        parts = [f"{self.rows:,} {noun} -> {', '.join(shown)}"]
        if self.left < self.rows:
            parts.append(f"{self.left:,} rows to compute: {bytes_text(self.bytes)}")
        elif len(self.columns) > 1:
            parts.append(f"together {bytes_text(self.bytes)}")
        parts.append(f"free {bytes_text(self.free)}")
        if self.seconds is not None:
            parts.append(f"about {duration(self.seconds)} ({number_of(self.tried, 'image')} tried)")
        return "; ".join(parts)

    def to_dict(self) -> Mapping[str, object]:
        """The bill as JSON has it."""
        return {
            "rows": self.rows,
            "left": self.left,
            "columns": {
                column.key: {
                    "dtype": column.dtype,
                    "shape": list(column.shape),
                    "bytes": bytes_of(column) * self.rows,
                }
                for column in self.columns
            },
            "bytes": self.bytes,
            "free": self.free,
            "tried": self.tried,
            "seconds": self.seconds,
        }

    def check(self, folder: str | os.PathLike[str]) -> None:
        """Check that the disk can hold it.

        Raises:
            OutputError: it cannot.
        """
        if self.bytes > self.free:
            raise OutputError(
                f"{os.fsdecode(folder)!r}: {bytes_text(self.bytes)} would be written, and "
                f"{bytes_text(self.free)} are free on this disk. Ask for fewer layers, for "
                'reductions (as in "bn=mean"), for float16, or write to another disk.'
            )


def bytes_of(column: Column) -> int:
    """Bytes of one row of a column."""
    import numpy as np

    return math.prod(column.shape) * np.dtype(column.dtype).itemsize


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes that are free where a folder is, or will be."""
    place = Path(os.path.abspath(folder))
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def bytes_text(count: float) -> str:
    """`230 MB`, `4.5 GB`; powers of 1000."""
    unit = 0
    while count >= 999.5 and unit < len(UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.2g} {UNITS[unit]}" if 0 < count < 10 and unit else f"{count:.0f} {UNITS[unit]}"


def _column_text(column: Column, rows: int) -> str:
    shape = shape_text(column.shape) if column.shape else "number"
    size = bytes_text(bytes_of(column) * rows)
    how = column.asked.get("reduction")
    name = column.key if how is None or "=" in column.key else f"{column.key}={how}"
    return f"{printable(name)} {shape} {column.dtype}: {size}"
