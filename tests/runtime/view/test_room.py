"""How much of each layer fits into a page."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from layertap.view.room import blocks, fitted, need, shared

SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=2)


@given(st.lists(st.integers(0, 10**7), max_size=30), st.integers(0, 10**8))
def test_shares_are_fair_and_fit(needs: list[int], total: int) -> None:
    rooms = shared(needs, total)
    assert sum(rooms) <= total
    assert all(room <= wanted for room, wanted in zip(rooms, needs, strict=True))
    # No one who wants more has less than another.
    short = [room for room, wanted in zip(rooms, needs, strict=True) if room < wanted]
    assert not short or min(short) >= max(rooms) - len(needs)
    if sum(needs) <= total:
        assert rooms == needs


@given(SIZES, st.integers(1, 2000), st.integers(0, 10**6), st.booleans())
def test_what_fits_is_at_most_the_room(
    space: list[int], channels: int, room: int, fixed: bool
) -> None:
    count, side = fitted(space, channels, room, fixed=fixed)
    assert 1 <= count <= channels
    assert 1 <= side <= max(space)
    if fixed:
        assert count == channels
    small = need((1,), count)  # the least that so many channels take
    assert need(blocks(space, side), count) <= max(room, small)


def test_resolution_is_given_up_before_channels_are_few() -> None:
    assert fitted((100, 100), 64, 10**7, fixed=False) == (64, 1)
    assert fitted((100, 100), 64, 70_000, fixed=False) == (6, 1)
    count, side = fitted((100, 100), 64, 20_000, fixed=False)
    assert (count, side) == (7, 2)
    assert fitted((100, 100), 64, 20_000, fixed=True) == (64, 7)
    assert math.prod(blocks((100, 100), 7)) == 15**2
