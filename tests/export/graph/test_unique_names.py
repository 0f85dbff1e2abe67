"""Each name is given once."""

from __future__ import annotations

from layertap_export.graph.unique_names import UniqueNames


def test_names_are_counted_where_they_are_taken() -> None:
    names = UniqueNames(["b"], "_", 1)
    given = [names.free(wanted) for wanted in ["a", "a", "b", "a", "a_1", "b", "c"]]
    assert given == ["a", "a_1", "b_1", "a_2", "a_1_1", "b_2", "c"]


def test_a_counted_name_that_is_taken_is_passed_over() -> None:
    names = UniqueNames(["a", "a~2", "a~3"], "~", 2)
    assert [names.free("a"), names.free("a"), names.free("a~2")] == ["a~4", "a~5", "a~2~2"]
