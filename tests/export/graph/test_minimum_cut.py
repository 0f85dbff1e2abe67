"""The minimum cut of a network, compared with all cuts."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from layertap_export.graph.minimum_cut import Network

INNER = ("a", "b", "c", "d", "e")

connections = st.lists(
    st.tuples(
        st.sampled_from(("start", *INNER)),
        st.sampled_from((*INNER, "end")),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=14,
)


def cost(given: list[tuple[str, str, int, int]], side: set[str]) -> int:
    """The capacity from the side of the start to the side of the end."""
    forward = sum(size for a, b, size, _ in given if a not in side and b in side)
    return forward + sum(back for a, b, _, back in given if b not in side and a in side)


@settings(max_examples=300)
@given(connections)
def test_no_cut_is_smaller(given: list[tuple[str, str, int, int]]) -> None:
    given = [item for item in given if item[0] != item[1]]
    network: Network[str] = Network()
    for a, b, size, back in given:
        network.add(a, b, size, back)
    found = network.side_of("end", "start")
    sides = [{"end", *chosen} for n in range(6) for chosen in combinations(INNER, n)]
    least = min(cost(given, side) for side in sides)
    assert "start" not in found
    assert cost(given, found) == least
    assert len(found) == min(len(side) for side in sides if cost(given, side) == least)


def test_a_network_in_two_parts() -> None:
    network: Network[str] = Network()
    network.add("start", "a", 1)
    network.add("b", "end", 1)
    assert network.side_of("end", "start") == {"b", "end"}


def test_one_connection_carries_many_paths() -> None:
    network: Network[str] = Network()
    network.add("start", "hub", 5000)
    for index in range(3000):
        network.add("hub", f"path {index}", 1)
        network.add(f"path {index}", "end", 1)
    assert network.side_of("end", "start") == {"end"}
