"""Selecting layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators.tiny import layer
from layertap.errors import LayerNotFoundError, UsageError
from layertap.format.layer import Attention, Layer
from layertap.format.select import is_single, only, parse_selector, select

LAYERS = [
    layer(0, "image", "InputLayer", (None, 8, 8, 3)),
    layer(1, "conv1/conv", "Conv2D", (None, 8, 8, 4), "image", 112),
    layer(2, "conv1/relu", "ReLU", (None, 8, 8, 4), "conv1/conv"),
    layer(3, "conv2/conv", "Conv2D", (None, 8, 8, 4), "conv1/relu", 148),
    layer(4, "secret", "Dropout", (None, 8, 8, 4), "conv2/conv", exposed=False),
    layer(5, "encoder#1", "Dense", (None, 8), "secret", 20),
    layer(6, "what[1]?*", "Dense", (None, 8), "encoder#1", 72),
    layer(7, "re:named", "Lambda", (None, 8), "what[1]?*"),
    layer(8, "12", "Dense", (None, 2), "re:named", 18),
]
OTHER_MODEL = layer(99, "conv1/relu", "ReLU", (None, 1))
NAMES = [item.name for item in LAYERS]
EXPOSED = [name for name in NAMES if name != "secret"]


def names(layers: list[Layer]) -> list[str]:
    return [item.name for item in layers]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        # Names.
        ("conv1/relu", ["conv1/relu"]),
        ("encoder#1", ["encoder#1"]),
        ("12", ["12"]),
        ("what[1]?*", ["what[1]?*"]),
        ("re:named", ["re:named"]),
        # Globs.
        ("*", EXPOSED),
        ("conv?/conv", ["conv1/conv", "conv2/conv"]),
        ("conv[2-9]/*", ["conv2/conv"]),
        ("*conv*", ["conv1/conv", "conv1/relu", "conv2/conv"]),
        ("conv1*", ["conv1/conv", "conv1/relu"]),
        ("what*", ["what[1]?*"]),
        ("*named", ["re:named"]),
        ("[!cie]*", ["what[1]?*", "re:named", "12"]),
        # Regular expressions, which must match the whole name.
        ("re:conv1/.*", ["conv1/conv", "conv1/relu"]),
        (r"re:.*\d", ["encoder#1", "12"]),
        ("re:relu|.*/relu", ["conv1/relu"]),
        ("re:(?i)RE:NAMED", ["re:named"]),
        # Indices.
        (0, ["image"]),
        (5, ["encoder#1"]),
        (-1, ["12"]),
        (-9, ["image"]),
        (np.int64(2), ["conv1/relu"]),
        # Slices, which skip layers that the file does not expose.
        (slice(None), EXPOSED),
        (slice(1, 3), ["conv1/conv", "conv1/relu"]),
        (slice(3, 6), ["conv2/conv", "encoder#1"]),
        (slice(-2, None), ["re:named", "12"]),
        (slice(None, None, 4), ["image", "12"]),
        (slice(2, 0, -1), ["conv1/relu", "conv1/conv"]),
        (slice(7, 999), ["re:named", "12"]),
        # Layers, by their name.
        (LAYERS[3], ["conv2/conv"]),
        (OTHER_MODEL, ["conv1/relu"]),
        # Several selectors: in their order, each layer once; within a pattern in the model's order.
        (["12", "image"], ["12", "image"]),
        (("conv2/*", "conv1/*"), ["conv2/conv", "conv1/conv", "conv1/relu"]),
        (["conv1/relu", "*conv*", 0], ["conv1/relu", "conv1/conv", "conv2/conv", "image"]),
        (["image", 0, "im*", LAYERS[0], slice(1)], ["image"]),
        (np.array([2, 1]), ["conv1/relu", "conv1/conv"]),
        ((name for name in ("12", "image")), ["12", "image"]),
        ([], []),
        (None, EXPOSED),
    ],
)  # fmt: skip
def test_selectors_match_layers_in_order(selector: Any, expected: list[str]) -> None:
    assert names(select(LAYERS, selector)) == expected


@pytest.mark.parametrize(
    ("selector", "type_", "expected"),
    [
        (None, "Conv2D", ["conv1/conv", "conv2/conv"]),
        (None, ["Dense", "Conv2D"], ["conv1/conv", "conv2/conv", "encoder#1", "what[1]?*", "12"]),
        (None, ("ReLU",), ["conv1/relu"]),
        ("conv1/*", "ReLU", ["conv1/relu"]),
        (["12", "conv1/*"], ["Dense", "Conv2D"], ["12", "conv1/conv"]),
        (slice(0, 4), "Conv2D", ["conv1/conv", "conv2/conv"]),
    ],
)
def test_classes_filter_the_selection(selector: Any, type_: Any, expected: list[str]) -> None:
    assert names(select(LAYERS, selector, type_)) == expected


NONE = "; the file exposes 8 layers."
LISTS = " `layertap layers FILE` lists them."
CLASSES = "The classes are Conv2D, Dense, InputLayer, Lambda, ReLU."
UNEXPOSED = (
    "the layer 'secret' is in the model, but this file does not expose it. Export the model again "
    "with this layer in --layers, or with all layers."
)
CANNOT = "cannot select a layer by "
GIVE = ": give a name, a pattern, an index or a slice."


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (
            "conv1/rellu",
            f"no layer is called 'conv1/rellu'{NONE} Did you mean 'conv1/relu', 'conv1/conv'?"
            f"{LISTS}",
        ),
        ("xyz", f"no layer is called 'xyz'{NONE}{LISTS}"),
        ("", f"no layer is called ''{NONE}{LISTS}"),
        ("secre", f"no layer is called 'secre'{NONE}{LISTS}"),
        ("Image", f"no layer is called 'Image'{NONE} Did you mean 'image'?{LISTS}"),
        ("secret", UNEXPOSED),
        (4, UNEXPOSED),
        (-5, UNEXPOSED),
        (LAYERS[4], UNEXPOSED),
        (["image", "secret"], UNEXPOSED),
        (9, "layer index 9 is out of range: the model has 9 layers, 0 to 8 or -9 to -1."),
        (-10, "layer index -10 is out of range: the model has 9 layers, 0 to 8 or -9 to -1."),
        ("x*", "the pattern 'x*' matches no layer; the file exposes 8 layers."),
        (
            "conv1/rel?u*",
            "the pattern 'conv1/rel?u*' matches no layer; the file exposes 8 layers. Did you mean "
            "'conv1/relu', 'conv1/conv'?",
        ),
        ("Conv1/*", "the pattern 'Conv1/*' matches no layer; the file exposes 8 layers. Did "
         "you mean 'conv1/relu', 'conv1/conv', 'conv2/conv'?"),
        ("secre*",
         "the pattern 'secre*' only matches layers that this file does not expose. "
         f"T{UNEXPOSED[1:]}"),
        ("re:conv1", "the pattern 're:conv1' matches no layer; the file exposes 8 layers. Did "
         "you mean 'conv1/relu', 'conv1/conv', 'conv2/conv'?"),
        ("re:imag", "the pattern 're:imag' matches no layer; the file exposes 8 layers. Did "
         "you mean 'image'?"),
        ("re:(", "the pattern 're:(' is not a regular expression: missing ), unterminated "
         "subpattern at position 0."),
        (slice(9, None), "the slice '9:' selects no layer; the model has 9 layers."),
        (slice(3, 3, 2), "the slice '3:3:2' selects no layer; the model has 9 layers."),
        (slice(4, 5), "this file exposes no layer in the slice '4:5'."),
    ],
)  # fmt: skip
def test_selector_without_a_match_is_an_error(selector: Any, message: str) -> None:
    with pytest.raises(LayerNotFoundError) as caught:
        select(LAYERS, selector)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("selector", "type_", "message"),
    [
        (None, "Conv2d", "no exposed layer has the class 'Conv2d'. Did you mean 'Conv2D'? "
         + CLASSES),
        (None, ["ReLU", "LSTM"], "no exposed layer has the class 'LSTM'. " + CLASSES),
        (None, "Dropout", "no exposed layer has the class 'Dropout'. " + CLASSES),
        ("conv1/*", "Dense", "no selected layer has the class Dense."),
        (["12", 0], ["ReLU", "Conv2D"], "no selected layer has the class ReLU or Conv2D."),
    ],
)  # fmt: skip
def test_class_without_a_match_is_an_error(selector: Any, type_: Any, message: str) -> None:
    with pytest.raises(LayerNotFoundError) as caught:
        select(LAYERS, selector, type_)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("selector", "type_", "message"),
    [
        (1.0, None, f"{CANNOT}1.0{GIVE}"),
        ([None], None, f"{CANNOT}None{GIVE}"),
        (["image", b"image"], None, f"{CANNOT}b'image'{GIVE}"),
        (b"image", None, f"{CANNOT}b'image'{GIVE}"),
        ([["image"]], None, f"{CANNOT}['image']{GIVE}"),
        (slice("image", "12"), None, "the slice 'image:12' is invalid: slice indices must be "
         "integers or None or have an __index__ method."),
        (slice(0, 5, 0), None, "the slice '0:5:0' is invalid: slice step cannot be zero."),
        (None, int, "type must be a class name such as 'Conv2D', got <class 'int'>."),
        (None, ["Dense", 3], "type must be a class name such as 'Conv2D', got 3."),
    ],
)  # fmt: skip
def test_invalid_selector_is_a_usage_error(selector: Any, type_: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        select(LAYERS, selector, type_)
    assert str(caught.value) == message


LOOP = "it runs in the loop of 'gru', once for every step"
TREE = [
    layer(0, "gru", "GRU", (None, 4)),
    replace(layer(1, "gru/cell", "GRUCell", (None, 4), exposed=False), parent="gru", why_not=LOOP),
    replace(
        layer(2, "gru/cell/dense", "Dense", (None, 4), exposed=False),
        parent="gru/cell",
        why_not=LOOP,
    ),
    replace(layer(3, "nothing", "Log", (), exposed=False), why_not="it returns nothing"),
]
NO_CELL = f"he layer 'gru/cell' is not available: {LOOP}. Request 'gru', which contains it."


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("gru/cell", "t" + NO_CELL),
        (1, "t" + NO_CELL),
        (["gru", TREE[1]], "t" + NO_CELL),
        (
            "gru/*",
            "the pattern 'gru/*' only matches layers that this file does not expose. T" + NO_CELL,
        ),
        (
            "re:gru/.*",
            "the pattern 're:gru/.*' only matches layers that this file does not expose. T"
            + NO_CELL,
        ),
        ("gru/cell/dense", "t" + NO_CELL.replace("'gru/cell'", "'gru/cell/dense'")),
        ("nothing", "the layer 'nothing' is not available: it returns nothing."),
    ],
)
def test_unavailable_layer_is_an_error_with_the_reason(selector: Any, message: str) -> None:
    with pytest.raises(LayerNotFoundError) as caught:
        select(TREE, selector)
    assert str(caught.value) == message
    assert names(select(TREE, "*")) == names(select(TREE)) == ["gru"]


def test_index_in_a_model_without_layers_is_an_error() -> None:
    assert select([]) == []
    with pytest.raises(LayerNotFoundError) as caught:
        select([], 0)
    assert str(caught.value) == "layer index 0 is out of range: the model has no layers."


def test_layer_not_found_is_also_a_key_error() -> None:
    """Code that catches the KeyError of a mapping also works with layers."""
    with pytest.raises(KeyError):
        select(LAYERS, "nope")


def test_only_returns_one_layer() -> None:
    assert only(LAYERS, "what[1]?*") is LAYERS[6]
    assert only(LAYERS, -1) is LAYERS[8]
    assert only(LAYERS, np.int32(1)) is LAYERS[1]
    assert only(LAYERS, OTHER_MODEL) is LAYERS[2]
    with pytest.raises(LayerNotFoundError) as caught:
        only(LAYERS, "conv*")  # `only` does not accept patterns
    assert str(caught.value).startswith("no layer is called 'conv*'; ")


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("image", True),
        ("what[1]?*", True),
        ("re:named", True),
        ("nope", True),
        (-1, True),
        (np.int64(1), True),
        (LAYERS[0], True),
        ("conv*", False),
        ("re:image", False),
        ("[ab]", False),
        (slice(0, 1), False),
        (["image"], False),
        (None, False),
    ],
)
def test_is_single_is_true_for_names_and_indices(selector: Any, expected: bool) -> None:
    assert is_single(LAYERS, selector) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv1/conv", "conv1/conv"),
        ("conv*", "conv*"),
        ("re:1:2", "re:1:2"),
        ("0", 0),
        ("424", 424),
        ("-1", -1),
        ("007", 7),
        ("12", "12"),  # there is a layer with this name
        ("10:20", slice(10, 20)),
        (":", slice(None, None)),
        ("5:", slice(5, None)),
        (":-1", slice(None, -1)),
        ("-3:", slice(-3, None)),
        ("::2", slice(None, None, 2)),
        ("1:9:3", slice(1, 9, 3)),
        ("9:1:-2", slice(9, 1, -2)),
        ("1:2:", slice(1, 2, None)),
        ("1:2:3:4", "1:2:3:4"),
        ("lstm:1", "lstm:1"),
        ("--1", "--1"),
        ("1.5", "1.5"),
        ("+1", "+1"),
        ("", ""),
    ],
)
def test_shell_text_is_parsed_as_a_selector(text: str, expected: Any) -> None:
    assert parse_selector(text, LAYERS) == expected


@given(st.lists(st.text("ab12:-*?[]!re/", min_size=1), unique=True, min_size=1))
def test_every_layer_is_selected_by_its_own_name(given_names: list[str]) -> None:
    """Even if the name has the syntax of a pattern, an index or a slice."""
    layers = [layer(i, name, "Dense", (None, 1)) for i, name in enumerate(given_names)]
    for one in layers:
        assert parse_selector(one.name, layers) == one.name
        assert select(layers, one.name) == [one] == [only(layers, one.name)]
        assert is_single(layers, one.name)
    assert select(layers, [*reversed(given_names), "*"]) == layers[::-1]


def test_slice_with_step_0_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        parse_selector("1:9:0", LAYERS)
    assert str(caught.value) == "the step of the slice '1:9:0' must not be 0."


def test_counts_of_one() -> None:
    (first, *_) = LAYERS
    for selector, message in (
        ("x", "no layer is called 'x'; the file exposes 1 layer."),
        ("x*", "the pattern 'x*' matches no layer; the file exposes 1 layer."),
        (3, "layer index 3 is out of range: the model has 1 layer, 0 to 0 or -1 to -1."),
        (slice(3, 4), "the slice '3:4' selects no layer; the model has 1 layer."),
    ):
        with pytest.raises(LayerNotFoundError) as caught:
            select([first], selector)
        assert str(caught.value).startswith(message)


def test_an_output_that_is_no_layer_says_how_to_get_it() -> None:
    ways = {"heat": "Ask elsewhere.", "image": "No."}
    with pytest.raises(LayerNotFoundError) as caught:
        select(LAYERS, ["image", "heat"], outputs=lambda: ways)
    assert str(caught.value) == "'heat' is an output of the file, not a layer. Ask elsewhere."


# --- Scores of attention ------------------------------------------------------------------------


def scores(index: int, of: str, exposed: bool = True) -> Layer:
    row = layer(
        index, f"{of}/attention_scores", "AttentionScores", (None, 2, 4, 4), exposed=exposed
    )
    return replace(row, parent=of, attention=Attention(of=of, heads=2))


TRANSFORMER = [
    layer(0, "tokens", "InputLayer", (None, 4, 8)),
    layer(1, "a", "MultiHeadAttention", (None, 4, 8), "tokens"),
    layer(2, "b", "MultiHeadAttention", (None, 4, 8), "a"),
    layer(3, "probs", "Dense", (None, 2), "b"),
    scores(4, "a"),
    scores(5, "b"),
]
ORDINARY = ["tokens", "a", "b", "probs"]
SCORES = ["a/attention_scores", "b/attention_scores"]


@pytest.mark.parametrize("selector", [None, "all", "*", "re:.*", slice(None), slice(0, 99)])
def test_only_what_names_scores_selects_them(selector: Any) -> None:
    assert names(select(TRANSFORMER, selector)) == ORDINARY


@pytest.mark.parametrize(
    ("selector", "type_", "expected"),
    [
        ("attention", None, SCORES),
        (["attention", "probs"], None, [*SCORES, "probs"]),
        ("a/attention_scores", None, SCORES[:1]),
        ("*attention_scores", None, SCORES),
        ("re:b/attention_scores", None, SCORES[1:]),
        (4, None, SCORES[:1]),
        (None, "AttentionScores", SCORES),
        ("all", "AttentionScores", SCORES),
        ("b*", "AttentionScores", SCORES[1:]),
        ("attention", "AttentionScores", SCORES),
        (None, ["Dense", "AttentionScores"], ["probs", *SCORES]),
    ],
)
def test_what_selects_scores(selector: Any, type_: Any, expected: list[str]) -> None:
    assert names(select(TRANSFORMER, selector, type_)) == expected


def test_negative_indices_are_those_of_keras() -> None:
    assert only(TRANSFORMER, -1).name == "probs"
    assert names(select(TRANSFORMER, slice(-2, None))) == ["b", "probs"]
    with pytest.raises(LayerNotFoundError) as caught:
        only(TRANSFORMER, -5)
    assert str(caught.value) == (
        "layer index -5 is out of range: the model has 6 layers, 0 to 5 or -4 to -1."
    )


def test_the_name_of_a_layer_is_no_word() -> None:
    named = [layer(0, "attention", "Attention", (None, 4, 8)), scores(1, "attention")]
    assert names(select(named, "attention")) == ["attention"]
    assert is_single(named, "attention")
    assert not is_single(TRANSFORMER, "attention")


def test_a_pattern_that_matches_only_scores_says_so() -> None:
    with pytest.raises(LayerNotFoundError) as caught:
        select(TRANSFORMER, "a/*")
    assert str(caught.value) == (
        "the pattern 'a/*' only matches scores of attention, which patterns skip because they are "
        "large. Select them by the word 'attention' or by their names, such as "
        "'a/attention_scores'."
    )


AGAIN = (
    "Export the model again: files in format 1.3 and older have no scores. Layers that compute "
    "attention without a softmax have none, either."
)


@pytest.mark.parametrize(
    ("layers", "selector", "message"),
    [
        (
            LAYERS,
            "attention",
            "no layer of this file computes attention scores that layertap knows: it has no "
            "MultiHeadAttention, GroupQueryAttention, Attention or AdditiveAttention.",
        ),
        (
            TRANSFORMER[:4],
            "attention",
            "this file does not contain the scores of its 2 attention layers, such as 'a'. "
            f"{AGAIN}",
        ),
        (
            [*TRANSFORMER[:4], replace(scores(4, "a", exposed=False), why_not="it runs in a loop")],
            "attention",
            "the file exposes none of the 1 layer of attention scores: 'a/attention_scores' is not "
            "available, because it runs in a loop.",
        ),
        (
            TRANSFORMER,
            "probs/attention_scores",
            "no layer is called 'probs/attention_scores': 'probs' is of the class Dense and "
            "computes no attention scores. Those that do are selected by 'attention'.",
        ),
        (
            TRANSFORMER[:4],
            "a/attention_scores",
            "no layer is called 'a/attention_scores': this file does not contain the scores of "
            f"'a'. {AGAIN}",
        ),
    ],
)
def test_attention_of_what_has_none(layers: list[Layer], selector: str, message: str) -> None:
    with pytest.raises(LayerNotFoundError) as caught:
        select(layers, selector)
    assert str(caught.value) == message
