"""Names that are each given once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class UniqueNames:
    """Gives the name that is wanted or, if that is taken, the name with a mark and a number.

    With the mark `_`, counted from 1: `a`, `a_1`, `a_2`.
    """

    def __init__(self, taken: Iterable[str], mark: str, first: int) -> None:
        """
        Args:
            taken: names that must not be given.
            mark: the text between a name and its number.
            first: the first number.
        """
        self._taken = set(taken)
        self._mark, self._first = mark, first
        self._count: Counter[str] = Counter()

    def free(self, wanted: str) -> str:
        """A name that was not given before and is not taken."""
        name = wanted
        while name in self._taken:
            number = self._count[wanted] + self._first
            self._count[wanted] += 1
            name = f"{wanted}{self._mark}{number}"
        self._taken.add(name)
        return name
