"""The card: reading and writing its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layertap.errors import CardVersionError, ModelFileError
from layertap.format import card as schema
from layertap.format.card import (
    Card,
    Digest,
    Finished,
    Golden,
    GoldenInput,
    GoldenLayer,
    Gradients,
    LayerCheck,
    MadeFrom,
    Quantized,
    Source,
    TableRows,
    TensorInfo,
    Verification,
)
from layertap.format.layer import Attention, Layer, Tokens

CLASSES = (
    Card, Source, TensorInfo, Layer, Attention, Tokens, Verification, LayerCheck, Golden,
    GoldenInput, GoldenLayer, Gradients, Digest, MadeFrom, TableRows, Finished, Quantized,
)  # fmt: skip

FULL: dict[str, Any] = {
    "format": "1.0",
    "source": {
        "framework": "keras",
        "version": "3.15.1",
        "model": "tiny",
        "type": "Functional",
        "weights_sha256": "ab12",
    },
    "inputs": [{"name": "x", "shape": [None, 4], "dtype": "float32", "axes": "NC"}],
    "outputs": [{"name": "größe/y#1", "shape": [None], "dtype": "int64", "axes": "N"}],
    "layers": [
        {
            "name": "x",
            "type": "InputLayer",
            "index": 0,
            "shape": [None, 4],
            "dtype": "float32",
            "parameters": 0,
            "inbound": [],
            "tensor": "x",
        },
        {
            "name": "hidden",
            "type": "Dense",
            "index": 1,
            "shape": [None, 5, 4],
            "dtype": "float16",
            "parameters": 7,
            "inbound": ["x"],
            "tensor": None,
            "parent": "x",
            "why_not": "it runs inside a loop",
            "per_sample": False,
            "axes": "N?C",
            "tokens": {"grid": [2, 2], "first": 1},
        },
        {
            "name": "hidden/attention_scores",
            "type": "AttentionScores",
            "index": 2,
            "shape": [None, 5, 5],
            "dtype": "float32",
            "parameters": 0,
            "inbound": ["x"],
            "tensor": "hidden/attention_scores",
            "parent": "hidden",
            "why_not": "it runs inside a loop",
            "per_sample": False,
            "axes": "N??",
            "attention": {"of": "hidden", "heads": 0, "grid": [2, 2], "first": 1},
            "tokens": {"grid": [1, 3], "first": 0},
        },
    ],
    "preprocessing": {"size": None, "scaling": {"mode": "tf"}},
    "images": {"pillow": "13.0.0", "libjpeg_turbo": "3.2.0"},
    "labels": ["cat", "dog"],
    "verification": {
        "tolerance": 0.0001,
        "batches": ["1 x 4, seeded"],
        "onnxruntime": "1.32.0",
        "layers": {"x": {"max_abs": 0, "scaled": 1e-07, "reference": 2e-05}},
        "tables": {"embedding": {"read": 5, "rows": 7}},
    },
    "golden": {
        "seed": 0,
        "inputs": [
            {
                "name": "x",
                "shape": [1, 4],
                "low": -1,
                "high": 1.5,
                "choices": ["cat", 7, -0.5],
                "step": 0.5,
            }
        ],
        "layers": {
            "x": {
                "shape": [1, 4],
                "norm": 2.5,
                "scale": 1.5,
                "values": [0.5, -1],
                "sums": [0.25, -7],
            }
        },
    },
    "gradients": {
        "output": "größe/y#1",
        "score": "logits",
        "weights": "score_weights",
        "tensors": {"x": "grad/x"},
        "broadcasts": True,
        "class_input": "required",
        "of": "dense",
        "channel": 1,
    },
    "notes": ["computed in float32"],
    "digest": {"nodes": "0", "graph": "1", "weights": "2", "card": "3"},
    "made_from": {"step": "cut", "graph": "3", "weights": "4", "file": "whole.onnx"},
    "finished": {
        "scores": "y",
        "image": "image",
        "preprocessing": {"size": [4, 4]},
        "target": "target",
        "heat_map": "heat_map",
        "layer": "dense",
        "method": "gradcam",
        "top_scores": "top_scores",
        "top_classes": "top_classes",
    },
    "stripped": False,
    "quantized": {
        "to": "int8",
        "layers": {"dense": "int8"},
        "outputs": {"y": 0.004},
        "samples": 8,
        "golden": {"y": 0.005},
        "onnxruntime": "1.32.0",
        "calibrated": 16,
        "budget": 0.02,
    },
}
"""A card with all keys."""

PATHS: list[tuple[str | int, ...]] = [
    (),
    ("source",),
    ("inputs", 0),
    ("outputs", 0),
    ("layers", 1, "tokens"),
    ("layers", 2),
    ("layers", 2, "attention"),
    ("verification",),
    ("verification", "layers", "x"),
    ("verification", "tables", "embedding"),
    ("golden",),
    ("golden", "inputs", 0),
    ("golden", "layers", "x"),
    ("gradients",),
    ("digest",),
    ("made_from",),
    ("finished",),
    ("quantized",),
]
"""The path to one object of each class in `FULL`."""


def full(change: Callable[[Any], object] = id) -> str:
    """The JSON of `FULL` after `change` has modified it."""
    data = json.loads(json.dumps(FULL))
    change(data)
    return json.dumps(data)


def at(data: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        data = data[step]
    return data


# --- Round trips --------------------------------------------------------------------------------


def test_full_card_is_read() -> None:
    card = Card.from_json(full())
    assert card.source.model == "tiny"
    assert card.inputs == (TensorInfo(name="x", shape=(None, 4), dtype="float32", axes="NC"),)
    assert [layer.tensor for layer in card.layers] == ["x", None, "hidden/attention_scores"]
    assert card.layers[1].tokens == Tokens(grid=(2, 2), first=1)
    assert card.layers[2].attention == Attention(of="hidden", heads=0, grid=(2, 2), first=1)
    assert card.labels == ("cat", "dog")
    assert card.preprocessing == {"size": None, "scaling": {"mode": "tf"}}
    assert card.verification is not None
    assert card.verification.layers["x"].scaled == 1e-07
    assert card.golden is not None
    assert card.golden.layers["x"].values == (0.5, -1)
    assert card.golden.inputs[0].choices == ("cat", 7, -0.5)
    assert card.notes == ("computed in float32",)
    assert card.gradients is not None
    assert card.gradients.tensors == {"x": "grad/x"}
    assert card.extra == {}
    assert json.loads(card.to_json()) == FULL


def test_optional_keys_have_defaults() -> None:
    parts = "preprocessing images labels verification golden gradients notes".split()
    parts += ["digest", "made_from", "finished", "stripped", "quantized"]

    def strip(data: dict[str, Any]) -> None:
        for part in parts:
            del data[part]

    def empty(data: dict[str, Any]) -> None:
        data.update(dict.fromkeys(parts))

    card = Card.from_json(full(strip))
    assert card == Card.from_json(full(empty))
    assert [getattr(card, part) for part in parts] == [None] * len(parts)
    assert set(json.loads(card.to_json())) == {"format", "source", "inputs", "outputs", "layers"}


def test_written_json_is_stable() -> None:
    card = Card(
        source=Source(framework="", version="", model="", type="", weights_sha256=""),
        inputs=(),
        outputs=(),
        layers=(),
    )
    assert card.to_json() == (
        '{"format":"1.4","inputs":[],"layers":[],"outputs":[],"source":{"framework":"",'
        '"model":"","type":"","version":"","weights_sha256":""}}'
    )


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
number = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
count = st.integers(0, 2**40)
sizes = st.lists(count, max_size=5).map(tuple)
shape = st.lists(st.none() | count, max_size=5).map(tuple)
texts = st.lists(text, max_size=3).map(tuple)
json_data = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


def built(cls: Any, **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects of `cls` with random unknown keys in `extra`."""
    known = {item.name for item in fields(cls)} - {"extra"}
    extra = st.dictionaries(text.filter(lambda key: key not in known), json_data, max_size=2)
    return st.builds(cls, **parts, extra=extra)


tensors = st.lists(built(TensorInfo, name=text, shape=shape, dtype=text), max_size=2).map(tuple)
cards = built(
    Card,
    source=built(
        Source, framework=text, version=text, model=text, type=text, weights_sha256=text
    ),
    inputs=tensors,
    outputs=tensors,
    layers=st.lists(
        built(
            Layer,
            name=text,
            type=text,
            index=count,
            shape=shape,
            dtype=text,
            parameters=count,
            inbound=texts,
            tensor=st.none() | text,
        ),
        max_size=2,
    ).map(tuple),
    preprocessing=st.none() | st.dictionaries(text, json_data, max_size=2),
    labels=st.none() | texts,
    verification=st.none()
    | built(
        Verification,
        tolerance=number,
        batches=texts,
        onnxruntime=text,
        layers=st.dictionaries(
            text,
            built(LayerCheck, max_abs=number, scaled=number, reference=st.none() | number),
            max_size=2,
        ),
    ),
    golden=st.none()
    | built(
        Golden,
        seed=count,
        inputs=st.lists(
            built(GoldenInput, name=text, shape=sizes, low=number, high=number), max_size=2
        ).map(tuple),
        layers=st.dictionaries(
            text,
            built(
                GoldenLayer,
                shape=sizes,
                norm=number,
                scale=number,
                values=st.lists(number, max_size=3).map(tuple),
                sums=st.none() | st.lists(number, max_size=3).map(tuple),
            ),
            max_size=2,
        ),
    ),
    gradients=st.none()
    | built(
        Gradients,
        output=text,
        score=text,
        weights=text,
        tensors=st.dictionaries(text, text, max_size=2),
        broadcasts=st.booleans(),
    ),
    digest=st.none() | built(Digest, nodes=text, graph=text, weights=text),
    made_from=st.none() | built(MadeFrom, step=text, graph=text, weights=text),
    finished=st.none() | built(Finished, scores=st.none() | text, image=st.none() | text),
    stripped=st.none() | st.booleans(),
    quantized=st.none()
    | built(
        Quantized,
        to=text,
        layers=st.dictionaries(text, text, max_size=2),
        outputs=st.dictionaries(text, number, max_size=2),
        samples=count,
        golden=st.dictionaries(text, number, max_size=2),
        onnxruntime=text,
    ),
    format=st.sampled_from(["1.0", "1.7", "1", "0.9"]),
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(cards)
def test_cards_survive_a_round_trip(card: Card) -> None:
    """Including unknown keys on every level."""
    written = card.to_json()
    again = Card.from_json(written)
    assert again == card
    assert again.to_json() == written


def test_equal_cards_are_equal_bytes() -> None:
    """The bytes do not depend on the order of the keys that were read."""

    def reverse_keys(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reverse_keys(value[key]) for key in reversed(value)}
        return [reverse_keys(item) for item in value] if isinstance(value, list) else value

    one, other = Card.from_json(full()), Card.from_json(json.dumps(reverse_keys(FULL)))
    assert json.dumps(reverse_keys(FULL)) != json.dumps(FULL)
    assert one == other
    assert one.to_json() == other.to_json()


# --- Newer formats ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_unknown_keys_are_kept_on_every_level(path: tuple[str | int, ...]) -> None:
    news = {"new": {"deep": [1, None, "a"]}, "extra": 3}
    card = Card.from_json(full(lambda data: at(data, path).update(news)))
    written = json.loads(card.to_json())
    assert {key: at(written, path)[key] for key in news} == news
    assert at(written, path) == {**at(FULL, path), **news}
    assert card != Card.from_json(full())


def test_every_class_of_the_schema_is_tested_with_extra_keys() -> None:
    declared = {
        kind
        for kind in vars(schema).values()
        if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")
    }
    assert declared == set(CLASSES)
    levels = {frozenset(at(FULL, path)) for path in PATHS}
    for kind in CLASSES:
        assert frozenset(item.name for item in fields(kind)) - {"extra"} in levels, kind


@pytest.mark.parametrize("format_", ["1.0", "1.4", "1.99", "1", "1.5.2", "0.1"])
def test_newer_minor_format_is_read(format_: str) -> None:
    card = Card.from_json(full(lambda data: data.update(format=format_)))
    assert card.format == format_
    assert json.loads(card.to_json())["format"] == format_


@pytest.mark.parametrize("format_", ["2.0", "2", "10.3", "3.0-beta"])
def test_newer_major_format_is_an_error(format_: str) -> None:
    """The rest of the card is not read."""
    with pytest.raises(CardVersionError) as caught:
        Card.from_json(json.dumps({"format": format_, "layers": 3}), "'m.onnx'")
    assert str(caught.value) == (
        f"'m.onnx' has a layertap card of format {format_}; this layertap reads format 1. Upgrade "
        "layertap."
    )


# --- Damaged cards ------------------------------------------------------------------------------


def damage(text_: str) -> str:
    """The reason in the error for a damaged card."""
    with pytest.raises(ModelFileError) as caught:
        Card.from_json(text_, "'m.onnx'")
    assert not isinstance(caught.value, CardVersionError)
    start, end = "'m.onnx' has a damaged layertap card (", "). Export the model again."
    message = str(caught.value)
    assert message.startswith(start)
    assert message.endswith(end)
    return message[len(start) : -len(end)]


@pytest.mark.parametrize(
    ("json_", "reason"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("null", "null does not state a format version"),
        ("[]", "[] does not state a format version"),
        ("{}", "{} does not state a format version"),
        ('{"format": null}', '{"format": null} does not state a format version'),
        ('{"format": "one"}', '{"format": "one"} does not state a format version'),
        ('{"format": "-2.0"}', '{"format": "-2.0"} does not state a format version'),
        ('{"format": "1.0"}', "Card has no 'source'"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)  # fmt: skip
def test_invalid_json_is_a_damaged_card(json_: str, reason: str) -> None:
    assert damage(json_) == reason


@pytest.mark.parametrize(
    ("path", "key", "value", "reason"),
    [
        ((), "format", 1.0, "Card has 1.0 as 'format', not a string"),
        ((), "source", None, "Source is null, not an object"),
        ((), "inputs", {}, "TensorInfos are {}, not a list"),
        ((), "layers", "none", 'Layers are "none", not a list'),
        ((), "layers", [[]], "Layer is [], not an object"),
        ((), "preprocessing", [], "Card has [] as 'preprocessing', not an object or null"),
        ((), "labels", ["a", 2], "Card has [\"a\", 2] as 'labels', not a list of strings or null"),
        ((), "images", {"pillow": 13}, "Card has {\"pillow\": 13} as 'images', not an object of "
         "strings or null"),
        ((), "images", "13.0.0", "Card has \"13.0.0\" as 'images', not an object of strings or "
         "null"),
        ((), "labels", "cat", "Card has \"cat\" as 'labels', not a list of strings or null"),
        ((), "verification", {}, "Verification has no 'tolerance'"),
        ((), "digest", "ab", "Digest is \"ab\", not an object"),
        (("digest",), "graph", 7, "Digest has 7 as 'graph', not a string"),
        (("made_from",), "file", 7, "MadeFrom has 7 as 'file', not a string or null"),
        ((), "finished", "yes", "Finished is \"yes\", not an object"),
        (("finished",), "image", 7, "Finished has 7 as 'image', not a string or null"),
        (("finished",), "preprocessing", [], "Finished has [] as 'preprocessing', not an object or "
         "null"),
        (("quantized",), "outputs", {"y": "1"}, "Quantized has {\"y\": \"1\"} as 'outputs', not an "
         "object of finite numbers"),
        (("quantized",), "calibrated", -1, "Quantized has -1 as 'calibrated', not an integer of at "
         "least 0, or null"),
        ((), "golden", False, "Golden is false, not an object"),
        (("source",), "model", 3, "Source has 3 as 'model', not a string"),
        (("inputs", 0), "shape", "4", "TensorInfo has \"4\" as 'shape', not a list of sizes"),
        (("layers", 0), "name", None, "Layer has null as 'name', not a string"),
        (("layers", 0), "shape", [9, -1], "Layer has [9, -1] as 'shape', not a list of sizes"),
        (("layers", 0), "shape", [2.0], "Layer has [2.0] as 'shape', not a list of sizes"),
        (("layers", 0), "shape", [True], "Layer has [true] as 'shape', not a list of sizes"),
        (("layers", 0), "shape", [[4]], "Layer has [[4]] as 'shape', not a list of sizes"),
        (("layers", 0), "axes", 4, "Layer has 4 as 'axes', not a letter of NCDHWT? for each axis, "
         "or null"),
        (("layers", 0), "axes", "NX", "Layer has \"NX\" as 'axes', not a letter of NCDHWT? for "
         "each axis, or null"),
        (("layers", 0), "axes", "CC", "Layer has \"CC\" as 'axes', not a letter of NCDHWT? for "
         "each axis, or null"),
        (("layers", 0), "axes", "NHWC", "Layer \"x\" has 2 axes, but \"NHWC\" as 'axes'"),
        (("inputs", 0), "axes", "", "TensorInfo \"x\" has 2 axes, but \"\" as 'axes'"),
        (("layers", 0), "index", "0", "Layer has \"0\" as 'index', not an "
         "integer of at least 0"),
        (("layers", 0), "parameters", 1.5, "Layer has 1.5 as 'parameters', not "
         "an integer of at least 0"),
        (("layers", 0), "inbound", "x", "Layer has \"x\" as 'inbound', not a list of strings"),
        (("layers", 0), "tensor", 0, "Layer has 0 as 'tensor', not a string or null"),
        (("layers", 1), "tokens", [2, 2], "Tokens is [2, 2], not an object"),
        (("layers", 1, "tokens"), "grid", [4], "Tokens has [4] as 'grid', not a list of two sizes"),
        (("layers", 1, "tokens"), "grid", [0, 2], "Tokens has [0, 2] as 'grid', not a list of two "
         "sizes"),
        (("layers", 1, "tokens"), "first", 2, "\"hidden\" has 2 tokens and a grid of 2 x 2 in "
         "[null, 5, 4]"),
        (("layers", 0), "tokens", {"grid": [2, 2], "first": 0}, "\"x\" has tokens in [null, 4]"),
        (("layers", 2), "attention", 3, "Attention is 3, not an object"),
        (("layers", 2, "attention"), "grid", "2", "Attention has \"2\" as 'grid', not a list of "
         "two sizes or null"),
        (("layers", 2, "attention"), "grid", [2, 3], "\"hidden/attention_scores\" has 1 tokens and "
         "a grid of 2 x 3 in [null, 5, 5]"),
        (("layers", 2, "attention"), "heads", 4, "\"hidden/attention_scores\" has 4 heads in "
         "[null, 5, 5]"),
        (("verification",), "tolerance", "1e-4", "Verification has \"1e-4\" as 'tolerance', not a "
         "finite number"),
        (("verification",), "layers", [], "LayerChecks are [], not an object"),
        (("verification", "layers"), "x", 0, "LayerCheck is 0, not an object"),
        (("golden",), "seed", None, "Golden has null as 'seed', not an integer of at least 0"),
        (("golden", "inputs", 0), "shape", [None, 4], "GoldenInput has [null, 4] as 'shape', not a "
         "list of sizes without null"),
        (("golden", "layers", "x"), "values", [0.5, "1"], "GoldenLayer has [0.5, \"1\"] as "
         "'values', not a list of finite numbers"),
        (("gradients",), "tensors", {"x": 1}, "Gradients has {\"x\": 1} as 'tensors', not an "
         "object of strings"),
        (("gradients",), "broadcasts", 1, "Gradients has 1 as 'broadcasts', not true or false"),
        (("golden", "layers", "x"), "norm", True, "GoldenLayer has true as 'norm', not a "
         "finite number"),
        (("golden", "layers", "x"), "scale", {"a": "b" * 99}, "GoldenLayer has {\"a\": \""
         + "b" * 30 + "... as 'scale', not a finite number"),
    ],
)  # fmt: skip
def test_invalid_value_is_a_damaged_card(
    path: tuple[str | int, ...], key: str, value: object, reason: str
) -> None:
    """Invalid values are found when the card is read, not later when they are used."""
    assert damage(full(lambda data: at(data, path).update({key: value}))) == reason


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ([None, 2, 5, 5], '"hidden/attention_scores" has 3 heads in [null, 2, 5, 5]'),
        ([None, 3, 5, 4], '"hidden/attention_scores" has 1 tokens and a grid of 2 x 2 in '
         '[null, 3, 5, 4]'),
        ([None, 3, 2, 3, 5], '"hidden/attention_scores" has a grid in [null, 3, 2, 3, 5]'),
        ([None, 3, None, 5], ""),
    ],
)  # fmt: skip
def test_attention_has_heads_and_tokens_where_the_shape_has_them(
    shape: list[int | None], reason: str
) -> None:
    def change(data: dict[str, Any]) -> None:
        layer = data["layers"][2]
        del layer["tokens"]
        layer["attention"]["heads"] = 3
        layer.update(shape=shape, axes=None)

    if reason:
        assert damage(full(change)) == reason
    else:
        assert Card.from_json(full(change)).layers[2].shape == tuple(shape)


@pytest.mark.parametrize("path", PATHS)
def test_missing_key_is_a_damaged_card(path: tuple[str | int, ...]) -> None:
    optional = {"preprocessing", "labels", "verification", "golden", "gradients", "format"}
    optional |= {"parent", "why_not", "per_sample", "notes", "choices", "axes", "class_input"}
    optional |= {"digest", "made_from", "file", "tables", "step", "card"}
    optional |= {"sums", "reference", "images", "finished", "stripped", "quantized"}
    optional |= {"attention", "tokens", "grid", "first", "channel"}
    optional |= {"calibrated", "budget", *FULL["finished"]}
    optional |= {"of"} if path == ("gradients",) else set()  # required in `attention`
    for key in set(at(FULL, path)) - optional:
        reason = damage(full(lambda data, key=key: at(data, path).pop(key)))
        assert reason.endswith(f" has no {key!r}")


def test_every_plain_field_is_tested_with_an_invalid_value() -> None:
    """A field whose annotation is missing in `_KINDS` would make every card invalid."""
    nested = {"source", "inputs", "outputs", "layers", "verification", "golden", "gradients"}
    nested |= {"tables", "attention", "tokens"}
    nested |= {"extra", "digest", "made_from", "finished", "quantized"}
    plain = {(kind, item.name, str(item.type)) for kind in CLASSES for item in fields(kind)}
    plain = {part for part in plain if part[0] is Quantized or part[1] not in nested}
    kinds = {annotation for kind, name, annotation in plain if name != "extra"}
    assert kinds == set(schema._KINDS)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["", "x", "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_arbitrary_value_is_read_or_a_damaged_card(data: st.DataObject) -> None:
    """If the card is read, it can be used."""
    path = data.draw(st.sampled_from(PATHS))
    key = data.draw(st.sampled_from(sorted(at(FULL, path))))
    value = data.draw(json_like)
    try:
        card = Card.from_json(full(lambda whole: at(whole, path).update({key: value})))
    except ModelFileError:
        return
    assert Card.from_json(card.to_json()).to_json() == card.to_json()
    for layer in card.layers:
        hash(layer)
        layer.nbytes(2)
        assert layer.channel_axis is None or layer.channel_axis < len(layer.shape)
