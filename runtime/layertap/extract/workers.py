"""Chunks of items, and their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray


class Chunk(NamedTuple):
    """Rows `first` .. `first + count - 1` of the whole list."""

    number: int
    first: int
    count: int  # type: ignore[assignment]  # a tuple has a method of this name


class Finished(NamedTuple):
    """What was computed for a chunk."""

    chunk: Chunk
    blocks: Mapping[str, NDArray[Any]]
    """By the keys of the columns, `(count, *shape)`."""
    sha256: tuple[str, ...]
    """One for each row, "" where nothing was read."""
    failed: Mapping[int, str]
    """Reasons in one line, by rows of the whole list."""
    nonfinite: Mapping[str, int]
    """By key, how many values of the good rows are not finite."""
