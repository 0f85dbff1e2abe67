"""Which layer of one file is which of another: by name, by order where only counters differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from layertap.comparing.matching import Matches, Tensor, inside_first, match
from layertap.format.layer import Layer

Spec = tuple[str, int]
"""A base name, and the number of channels."""


def table(specs: Sequence[Spec], counters: dict[str, int]) -> list[Tensor]:
    """Layers with the names that Keras gives them, in a process that counted so far before."""
    used = Counter(counters)
    found = []
    for place, (base, channels) in enumerate(specs):
        number = used[base]
        used[base] += 1
        name = f"{base}_{number}" if number else base
        found.append(Tensor(name, base, (None, channels), "float32", name, place))
    return found


def names(found: Matches) -> list[tuple[str, str]]:
    return [(pair.a.name, pair.b.name) for pair in found.pairs]


SPECS = st.lists(
    st.tuples(st.sampled_from(["dense", "conv", "relu"]), st.integers(1, 3)), min_size=1
)
COUNTERS = st.dictionaries(st.sampled_from(["dense", "conv", "relu"]), st.integers(0, 12))


@given(SPECS, COUNTERS, COUNTERS)
def test_one_model_from_two_processes_is_matched_in_full(
    specs: list[Spec], ours: dict[str, int], theirs: dict[str, int]
) -> None:
    a, b = table(specs, ours), table(specs, theirs)
    found = match(a, b, {}, {})
    assert names(found) == [(x.name, y.name) for x, y in zip(a, b, strict=True)]
    assert found.only_a == found.only_b == {}


def test_a_layer_of_the_same_name_may_be_another_one() -> None:
    a = table([("dense", 4), ("dense", 4), ("dense", 4)], {})
    b = table([("dense", 4), ("dense", 4), ("dense", 4)], {"dense": 1})
    assert names(match(a, b, {}, {})) == [
        ("dense", "dense_1"),
        ("dense_1", "dense_2"),
        ("dense_2", "dense_3"),
    ]


def test_layers_without_a_partner_are_listed() -> None:
    a = [
        *table([("conv", 4), ("dense", 2)], {}),
        Tensor("head", "Dense", (None, 2), "f", "head", 2),
    ]
    b = [*table([("conv", 4)], {}), Tensor("tail", "Dense", (None, 2), "f", "tail", 2)]
    found = match(a, b, {"hidden": "it runs inside a loop"}, {})
    assert names(found) == [("conv", "conv")]
    reason = "no layer of this name"
    assert found.only_a == {
        "dense": reason,
        "head": reason,
        "hidden": "it runs inside a loop",
    }
    assert found.only_b == {"tail": reason}


def test_a_renumbered_model_with_a_layer_more() -> None:
    a = table([("dense", 8), ("dense", 4), ("dense", 2)], {})
    b = table([("dense", 8), ("dense", 2)], {"dense": 5})
    found = match(a, b, {}, {})
    assert names(found) == [("dense", "dense_5"), ("dense_2", "dense_6")]
    assert list(found.only_a) == ["dense_1"]


def test_other_shapes_are_no_match() -> None:
    a = [Tensor("x", "Conv2D", (None, 8, 8, 3), "float32", "x", 0)]
    b = [Tensor("x", "Conv2D", (None, 4, 4, 3), "float32", "x", 0)]
    found = match(a, b, {}, {})
    assert found.pairs == ()
    assert found.only_a == found.only_b
    assert found.only_a["x"] == "other shapes: (None, 8, 8, 3) and (None, 4, 4, 3)"
    free = [Tensor("x", "Conv2D", (None, None, None, 3), "float32", "x", 0)]
    assert len(match(a, free, {}, {}).pairs) == 1


def test_a_file_without_a_card_has_tensors() -> None:
    """An optimiser has dropped the card: the layer is found by its tensor."""
    a = [Tensor("block/conv", "Conv2D", (None, 3), "float32", "block/conv:0", 0)]
    b = [Tensor("block/conv:0", "Conv", (None, 3), "float32", "block/conv:0", 0)]
    assert names(match(a, b, {}, {})) == [("block/conv", "block/conv:0")]
    assert names(match(b, a, {}, {})) == [("block/conv:0", "block/conv")]


def test_a_layer_comes_after_those_in_it() -> None:
    parents = {"in": None, "encoder": None, "encoder/a": "encoder", "encoder/b": "encoder"}
    parents |= {"encoder/b/c": "encoder/b", "head": None, "loop": "loop"}
    layers = [
        Layer(name, "Layer", at, (None, 2), "float32", 0, (), name, parent)
        for at, (name, parent) in enumerate(parents.items())
    ]
    assert [layer.name for layer in inside_first(layers)] == [
        "in", "encoder/a", "encoder/b/c", "encoder/b", "encoder", "head", "loop",
    ]  # fmt: skip
