"""Handing out names, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class UniqueNames:
    """Hands out names: the one that is wanted, or, where that is taken, with a mark and a number.

    With the mark `_`, counted from 1: `a`, `a_1`, `a_2`.
    """

    def __init__(self, taken: Iterable[str], mark: str, first: int) -> None:
        """Give none of the names that are `taken`, and count with `mark` from `first` on."""
        self._taken = set(taken)
        self._mark, self._first = mark, first
        self._count: Counter[str] = Counter()

    def free(self, wanted: str) -> str:
        name = wanted
        while name in self._taken:
            number = self._count[wanted] + self._first
            self._count[wanted] += 1
            name = f"{wanted}{self._mark}{number}"
        self._taken.add(name)
        return name
