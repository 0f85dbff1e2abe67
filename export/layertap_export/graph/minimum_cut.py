"""The minimum cut between two ends of a network, by Dinic's algorithm.

E. A. Dinic, "Algorithm for solution of a problem of maximum flow in networks with power
estimation", Soviet Mathematics Doklady 11, 1970.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from itertools import pairwise
from typing import Generic, TypeVar

N = TypeVar("N", bound=Hashable)


class Network(Generic[N]):
    """A directed network with capacities, which are at least 0."""

    def __init__(self) -> None:
        self._left: dict[N, dict[N, int]] = {}

    def add(self, start: N, end: N, capacity: int, back: int = 0) -> None:
        """Add a connection with a capacity for each direction; equal ones add up."""
        forward, backward = self._left.setdefault(start, {}), self._left.setdefault(end, {})
        forward[end] = forward.get(end, 0) + capacity
        backward[start] = backward.get(start, 0) + back

    def side_of(self, end: N, start: N) -> set[N]:
        """The nodes on the side of `end` of the minimum cut between `start` and `end`.

        Of several minimum cuts, it is the one with the fewest nodes on this side. The network is
        used up.
        """
        while (levels := self._levels(start, end)) and start in levels:
            rest = {node: deque(ends) for node, ends in self._left.items()}
            while self._push(start, end, levels, rest):
                pass
        return set(levels)

    def _levels(self, start: N, end: N) -> dict[N, int]:
        """By node from which `end` can still be reached, the number of steps to it."""
        levels, waiting = {end: 0}, deque([end])
        while waiting:
            node = waiting.popleft()
            for before in self._left.get(node, ()):
                if before not in levels and self._left[before].get(node, 0) > 0:
                    levels[before] = levels[node] + 1
                    waiting.append(before)
        return levels

    def _push(self, start: N, end: N, levels: dict[N, int], rest: dict[N, deque[N]]) -> bool:
        """Push flow along one shortest path; `rest` has the connections that may still carry it."""
        path = [start]
        while path[-1] != end:
            node, ends = path[-1], rest[path[-1]]
            if not ends:
                path.pop()
                if not path:
                    return False
                rest[path[-1]].popleft()
            elif self._left[node][ends[0]] > 0 and levels.get(ends[0], -1) == levels[node] - 1:
                path.append(ends[0])
            else:
                ends.popleft()
        steps = list(pairwise(path))
        flow = min(self._left[a][b] for a, b in steps)
        for a, b in steps:
            self._left[a][b] -= flow
            self._left[b][a] += flow
        return True
