"""Names of files, made from any texts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from layertap.format.file_names import clash_key, distinct_names


def test_layers_have_different_names() -> None:
    layers = ["a/b", "a_b", "A/b", "c", 'd:"<>|?*\\']
    names = distinct_names(layers)
    assert names == dict(zip(layers, ["a_b", "a_b_2", "A_b_3", "c", "d________"], strict=True))
    assert distinct_names([*layers, "more"]) == {**names, "more": "more"}


@given(st.lists(st.sampled_from(["journal", "Journal", "a", "A", "a/b", "a_b", ".", "..", ""])))
def test_no_two_texts_have_one_file_and_none_has_a_reserved_one(texts: list[str]) -> None:
    names = distinct_names(texts, ["journal", "ok.npy"])
    keys = [clash_key(name) for name in names.values()]
    assert list(names) == list(dict.fromkeys(texts))
    assert len({*keys, "journal"}) == len(keys) + 1
