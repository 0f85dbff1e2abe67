"""The frozen list of what is extracted, and its data."""

from __future__ import annotations

from typing import NamedTuple


class Item(NamedTuple):
    """One row of a collection."""

    id: str
    """Unique in the list: a relative path with `/`, the key in an archive, or a number. It may hold
    surrogates, for file names that are not UTF-8."""
    size: int
    """Bytes of the data; -1 where it is not known."""
    mtime_ns: int
    """0 where it is not known."""
