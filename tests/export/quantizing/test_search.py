"""The search for the layers that have to stay more exact."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layertap_export.quantizing.levels import Level, Levels
from layertap_export.quantizing.search import Measured, search

SIZES = {Level.NARROW: 10, Level.STORED: 11, Level.FLOAT: 40}


def additive(narrow: Mapping[str, float], stored: Mapping[str, float]):  # type: ignore[no-untyped-def]
    """A model whose error is the sum of those of its layers."""
    by_level = {Level.NARROW: narrow, Level.STORED: stored}

    def measure(levels: Levels) -> Measured:
        errors = [by_level[x][name] for name, x in levels.items() if x is not Level.FLOAT]
        return Measured(sum(errors), sum(SIZES[level] for level in levels.values()))

    return measure


NARROW = {"a": 1.0, "b": 8.0, "c": 2.0, "d": 4.0}
STORED = {"a": 0.2, "b": 0.1, "c": 0.3, "d": 0.4}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (15, "NNNN"),
        (14.9, "NSNN"),  # b does most damage
        (3.5, "NSNS"),
        (1.0, "SSSS"),
        (0.9, "SSSF"),  # of the stored ones, d does most
        (0.1, "FSFF"),
    ],
)
def test_the_worst_layers_are_raised(budget: float, expected: str) -> None:
    found = search(list(NARROW), {}, budget, additive(NARROW, STORED))
    assert "".join(level.name[0] for level in found.levels.values()) == expected
    assert found.holds


def test_a_budget_that_nothing_keeps() -> None:
    """The best that was found has something quantised."""
    found = search(list(NARROW), {}, 0.05, additive(NARROW, STORED))
    assert not found.holds
    assert [level.name for level in found.levels.values()].count("FLOAT") == 3
    assert found.levels["b"] is Level.STORED  # 0.1


def test_the_order_may_be_measured_roughly() -> None:
    """A wrong order raises more layers; the budget is kept by what is measured exactly."""
    exact, alone = list[Levels](), list[Levels]()
    measure = additive(NARROW, STORED)

    def exactly(levels: Levels) -> Measured:
        exact.append(levels)
        return measure(levels)

    def roughly(levels: Levels) -> Measured:
        alone.append(levels)
        return Measured(1 / measure(levels).error, 0)  # the worst order

    found = search(list(NARROW), {}, 3.5, exactly, roughly=roughly)
    assert found.holds
    assert measure(found.levels).error <= 3.5
    assert "".join(level.name[0] for level in found.levels.values()) == "SSSS"
    assert len(alone) == len(NARROW)
    assert found.trials == len(alone) + len(exact)
    assert not search(list(NARROW), {}, 0.05, exactly, roughly=roughly).holds


def test_layers_that_start_higher_are_never_lowered() -> None:
    start = {"b": Level.FLOAT, "a": Level.STORED}
    found = search(list(NARROW), start, 6.2, additive(NARROW, STORED))
    assert "".join(level.name[0] for level in found.levels.values()) == "SFNN"
    found = search(list(NARROW), start, 0.1, additive(NARROW, STORED))
    assert not found.holds
    assert found.levels["b"] is Level.FLOAT


def test_narrow_and_float_if_that_is_smaller() -> None:
    """With one bad layer that storing does not save, the others stay narrow."""
    narrow = {"a": 0.1, "b": 9.0, "c": 0.1, "d": 0.1}
    found = search(list(narrow), {}, 0.5, additive(narrow, {**narrow, "b": 8.0}))
    assert "".join(level.name[0] for level in found.levels.values()) == "NFNN"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(0, 1)), min_size=1, max_size=7),
    st.floats(0, 20),
    st.data(),
)
def test_what_is_found_holds(
    errors: list[tuple[float, float]], budget: float, data: st.DataObject
) -> None:
    """Whatever is said to hold was measured to hold, and no model is measured twice."""
    names = [f"layer{at}" for at in range(len(errors))]
    narrow = dict(zip(names, (one for one, _ in errors), strict=True))
    stored = dict(zip(names, (other for _, other in errors), strict=True))
    start = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from(Level)))
    measure, seen = additive(narrow, stored), []

    def counted(levels: Levels) -> Measured:
        seen.append(tuple(levels.values()))
        return measure(levels)

    found = search(names, start, budget, counted)
    assert found.trials == len(seen) == len(set(seen))
    assert list(found.levels) == names
    assert all(level >= start.get(name, Level.NARROW) for name, level in found.levels.items())
    if found.holds:
        assert measure(found.levels).error <= budget
    else:
        assert all(
            measure(dict(zip(names, one, strict=True))).error > budget
            for one in seen
            if set(one) != {Level.FLOAT}
        )
