"""Running on from given layers, and changing them on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import layertap
import reference
from generators import tiny
from generators.random_graphs import chains
from generators.tiny import images
from layertap._engine import engine, session
from layertap._engine.program import program_of

TinyFile = Callable[[str], Path]


@pytest.fixture
def classifier(tiny_file: TinyFile) -> layertap.Model:
    return layertap.open(tiny_file("image_classifier"), reproducible=True)


@pytest.fixture
def inputs(tiny_file: TinyFile) -> layertap.Model:
    return layertap.open(tiny_file("two_inputs"), reproducible=True)


@pytest.fixture
def plain(tiny_file: TinyFile) -> layertap.Model:
    """Without a card: x -> a -> b -> c; d = a + c; y = d + b."""
    return layertap.open(tiny_file("residual"), reproducible=True)


def ones(n: int = 1) -> np.ndarray:
    return np.ones((n, 3), np.float32)


def opened(*nodes: Any, **inputs: tiny.Shape) -> layertap.Model:
    """A model without a card, of these nodes; it knows no more of its tensors than it must."""
    made = tiny.model(
        nodes,
        [tiny.value(name, shape) for name, shape in inputs.items()],
        [tiny.value(nodes[-1].output[0], None)],
    )
    return layertap.open(made.SerializeToString(), reproducible=True)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    """Each cut that a session was made of, as it happens."""
    cuts: list[onnx.ModelProto] = []
    plain_start = engine.Engine.start

    def start(self: Any, model: bytes, *others: Any, **options: Any) -> Any:
        cuts.append(onnx.ModelProto.FromString(model))
        return plain_start(self, model, *others, **options)

    monkeypatch.setattr(engine.Engine, "start", start)
    return cuts


# --- Resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["image", "conv", "relu", "drop", "pool", "probs"])
def test_head_then_tail_is_the_whole(classifier: layertap.Model, layer: str) -> None:
    x = images()
    for key in (layer, classifier.layer(layer), classifier.layer(layer).index):
        tail = classifier.resume({key: classifier.activations(x, layer)})
        np.testing.assert_array_equal(tail, classifier.predict(x), strict=True)


def test_a_layer_and_the_input_that_it_hands_on() -> None:
    model = layertap.open(tiny.leaves().SerializeToString())
    values = model.activations(x := tiny.feeds(tiny.leaves())["x"])
    with pytest.raises(layertap.UsageError) as caught:
        model.resume({"tx": values["tx"], "x": x}, "r")
    assert str(caught.value) == (
        "'x' and 'tx' are the same tensor in this file: one passes the values of the other on. "
        "Give only one of them."
    )


def test_all_that_is_missing_is_named() -> None:
    model = opened(
        tiny.node("Neg", "x", "p"),
        tiny.node("Exp", "x", "q"),
        tiny.node("Add", "p q", "r"),
        tiny.node("Add", "r v", "y"),
        x=["n"],
        v=["n"],
    )
    with pytest.raises(layertap.InputError) as caught:
        model.resume({"p": np.ones(1, np.float32)})
    assert str(caught.value) == (
        "the requested layers cannot be computed from 'p' alone: 'q', input 'v' are missing. "
        "Give them as well."
    )


def test_what_is_asked_for_is_named_as_for_activations(classifier: layertap.Model) -> None:
    x = images()
    conv = classifier.activations(x, "conv")
    wanted = classifier.activations(x, ["pool", "relu"])
    found = classifier.resume({"conv": conv}, ["pool", "relu"])
    assert list(found) == ["pool", "relu"]
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name], strict=True)
    np.testing.assert_array_equal(classifier.resume({"conv": conv}, "pool"), wanted["pool"])
    np.testing.assert_array_equal(
        classifier.resume({"conv": conv}, {"relu": "mean"})["relu"],
        classifier.activations(x, {"relu": "mean"})["relu"],
    )


def test_only_what_comes_after_is_computed(
    classifier: layertap.Model, started: list[onnx.ModelProto]
) -> None:
    relu = np.ones((1, 8, 6, 4), np.float32)
    classifier.resume({"relu": relu})
    classifier.resume({"drop": 2 * relu})  # the same tensor
    (cut,) = started
    assert [node.op_type for node in cut.graph.node] == [
        "GlobalAveragePool", "Flatten", "MatMul", "Softmax",
    ]  # fmt: skip
    assert [item.name for item in cut.graph.initializer] == ["dense"]
    assert list(cut.graph.input) == [tiny.value("relu_nchw", ["batch", 4, 8, 6])]


def test_a_view_goes_back_in_without_a_copy(
    classifier: layertap.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[Any] = []
    run = session.Session.run

    def spy(self: Any, outputs: Any, feeds: Any, *more: Any) -> Any:
        fed.append(feeds)
        return run(self, outputs, feeds, *more)

    relu = classifier.activations(images(), "relu")
    assert not relu.flags.c_contiguous
    monkeypatch.setattr(session.Session, "run", spy)
    classifier.resume({"relu": relu})
    assert np.shares_memory(fed[0]["relu_nchw"], relu)
    # What is asked for as it was given is that very memory.
    assert np.shares_memory(classifier.resume({"relu": relu}, "drop"), relu)
    classifier.predict(x := images())
    assert np.shares_memory(fed[-1]["image"], x)


def test_a_contiguous_array_may_be_given_too(classifier: layertap.Model) -> None:
    relu = classifier.activations(images(), "relu")
    wanted = classifier.resume({"relu": relu})
    for other in (np.ascontiguousarray(relu), relu.astype(np.float64), relu.tolist()):
        np.testing.assert_array_equal(classifier.resume({"relu": other}), wanted)


def test_several_layers_and_inputs(inputs: layertap.Model) -> None:
    feeds = tiny.feeds(tiny.two_inputs())
    seen = inputs.activations(feeds, "seen")
    wanted = inputs.predict(feeds)
    found = inputs.resume({"seen": seen, "vector": feeds["vector"]})
    assert list(found) == ["sum", "product"]
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])
    # An image among the inputs goes through the card's preprocessing.
    pixels = np.zeros((4, 4, 3), np.uint8)
    image = inputs.resume({"image": pixels, "vector": feeds["vector"][:1]}, "sum")
    np.testing.assert_array_equal(image, feeds["vector"][:1])


def test_a_file_from_elsewhere(plain: layertap.Model) -> None:
    """Nothing is stated of its inner tensors: the arrays tell their type."""
    x = ones(2)
    a = plain.activations(x, "a")
    np.testing.assert_array_equal(plain.resume({"a": a}), plain.predict(x))
    np.testing.assert_array_equal(
        plain.resume({"c": a, "b": a, "a": a}, "d"), plain.resume({"c": a, "a": a}, "d")
    )


def test_types_that_nothing_states() -> None:
    model = opened(
        tiny.node("Cast", "x", "whole", to=onnx.TensorProto.INT64),
        tiny.node("Neg", "whole", "negative"),
        tiny.node("Cast", "negative", "y", to=onnx.TensorProto.FLOAT),
        x=["n"],
    )
    for dtype in (np.int64, np.float32):
        found = model.resume({"whole": np.array([1, 2], dtype)}, "negative")
        np.testing.assert_array_equal(found, np.array([-1, -2], dtype), strict=True)


def test_what_is_given_stands_for_the_weight_of_that_name() -> None:
    model = layertap.open(tiny.leaves().SerializeToString(), reproducible=True)
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(model.resume({"tw": weight}, "tw"), weight)


def test_a_node_that_stays_for_its_other_output() -> None:
    model = opened(
        tiny.node("Split", "x", "left right", num_outputs=2, axis=1),
        tiny.node("Add", "left right", "y"),
        x=["n", 4],
    )
    x = np.array([[1, 2, 3, 4]], np.float32)
    left = np.array([[10, 20]], np.float32)
    np.testing.assert_array_equal(model.resume({"left": left, "x": x}), [[13, 24]])
    np.testing.assert_array_equal(model.edit(x, {"left": lambda a: 10 * a}), [[13, 24]])


@pytest.mark.parametrize(
    ("name", "given_", "asked", "message"),
    [
        (
            "residual",
            {"c": ones()},
            "d",
            "the requested layers cannot be computed from 'c' alone: 'a' is missing. Give it as "
            "well.",
        ),
        (
            "two_inputs",
            {"seen": np.ones((1, 5))},
            "sum",
            "the requested layers cannot be computed from 'seen' alone: input 'vector' is "
            "missing. Give it as well.",
        ),
        (
            "residual",
            {"d": ones()},
            "a",
            "the requested layers do not depend on 'd', but on input 'x'. Give that, or layers "
            "in between.",
        ),
        (
            "image_classifier",
            {"relu": np.ones((1, 4, 8, 6))},
            None,
            "layer 'relu' has shape (1, 4, 8, 6), expected (n, 8, 6, 4). Its channels come "
            "first; use x.transpose(0, 2, 3, 1).",
        ),
        (
            "image_classifier",
            {"relu": "chest.png"},
            None,
            "layer 'relu' has shape (), expected (n, 8, 6, 4): it must have 4 axes, got 0.",
        ),
        (
            "image_classifier",
            {},
            None,
            'the given layers must be a dict, {"layer": value}, got an empty dict.',
        ),
        (
            "image_classifier",
            np.ones((1, 8, 6, 4)),
            None,
            'the given layers must be a dict, {"layer": value}, got a ndarray.',
        ),
        (
            "two_inputs",
            {"seen": np.ones((2, 5)), "vector": np.ones((1, 5))},
            None,
            "the given values have different batch sizes: 'vector' has 1, 'seen' has 2.",
        ),
    ],
)
def test_what_cannot_be_resumed(
    tiny_file: TinyFile, name: str, given_: Any, asked: Any, message: str
) -> None:
    with pytest.raises(layertap.LayertapError) as caught:
        layertap.open(tiny_file(name)).resume(given_, asked)
    assert str(caught.value) == message


def test_a_first_axis_that_is_no_batch_need_not_agree_with_it(tiny_file: TinyFile) -> None:
    model = layertap.open(tiny_file("frames"))
    given_ = {"td/relu": np.ones((6, 4), np.float32), "bias": np.full((2, 4), 5, np.float32)}
    np.testing.assert_array_equal(model.resume(given_), np.full((2, 4), 8))


# --- Edits --------------------------------------------------------------------------------------


def test_an_edit_is_what_the_numbers_say(classifier: layertap.Model) -> None:
    x = images()
    calls: list[tuple[int, ...]] = []

    def without_channel_2(activation: np.ndarray) -> np.ndarray:
        calls.append(activation.shape)
        activation[..., 2] = 0
        return activation

    found = classifier.edit(x, {"conv": without_channel_2})
    conv = np.array(classifier.activations(x, "conv"))
    conv[..., 2] = 0
    np.testing.assert_array_equal(found, classifier.resume({"conv": conv}))
    assert calls == [(2, 8, 6, 4)]
    assert not np.array_equal(found, classifier.predict(x))
    both = classifier.edit(x, {"conv": without_channel_2}, ["conv", "probs"])
    np.testing.assert_array_equal(both["conv"], conv)
    np.testing.assert_array_equal(both["probs"], found)


def test_nothing_is_computed_twice(plain: layertap.Model, started: list[onnx.ModelProto]) -> None:
    """c comes after a and b, which are needed beside it; they are carried over, not repeated."""
    plain.edit(ones(), {"c": lambda v: -v})
    assert [[node.name for node in cut.graph.node] for cut in started] == [
        ["a", "b", "c"],
        ["d", "y"],
    ]


def test_the_callers_input_is_not_changed(classifier: layertap.Model) -> None:
    x = images()
    kept = x.copy()

    def clear(image: np.ndarray) -> np.ndarray:
        image[:] = 0
        return image

    found = classifier.edit(x, {"image": clear}, "conv")
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(found, classifier.activations(np.zeros_like(x), "conv"))


@pytest.mark.parametrize(
    ("changes", "asked", "message"),
    [
        (
            {"conv": lambda a: None},
            None,
            "the function for 'conv' returned None; it must return the activation.",
        ),
        (
            {"conv": lambda a: a[..., :2]},
            None,
            "the result of the function for 'conv' has shape (2, 8, 6, 2), expected (2, 8, 6, "
            "4): axis 3 (channels) must be 4, got 2.",
        ),
        (
            {"conv": np.zeros((2, 8, 6, 4))},
            None,
            "the change of 'conv' must be a function, got a ndarray. To give an activation, use "
            "`resume`.",
        ),
        (
            {"probs": lambda a: a},
            "conv",
            "'probs' does not affect any requested layer.",
        ),
        (
            {"relu": lambda a: a, "drop": lambda a: a},
            None,
            "'relu' and 'drop' are the same tensor in this file: one passes the values of the "
            "other on. Give only one of them.",
        ),
    ],
)
def test_what_cannot_be_edited(
    classifier: layertap.Model, changes: Any, asked: Any, message: str
) -> None:
    with pytest.raises(layertap.LayertapError) as caught:
        classifier.edit(images(), changes, asked)
    assert str(caught.value) == message


# --- Random graphs ------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(chains(), st.data())
def test_any_edit_of_any_graph(
    case: tuple[onnx.ModelProto, list[str]], data: st.DataObject
) -> None:
    """Against the same graph with the change written into it."""
    made, changed = case
    asked = [name for node in made.graph.node for name in node.output]
    x = tiny.feeds(made)["x"]
    model = layertap.open(made.SerializeToString(), reproducible=True)
    plan = program_of(model).plan(changed)
    if len({leaf.source for leaf in plan.leaves.values()} | {"x"}) <= len(changed):
        return  # one tensor under two names
    sources = {leaf.source for leaf in plan.leaves.values()}
    written = onnx.ModelProto()
    written.CopyFrom(made)
    for node in written.graph.node:
        node.input[:] = [f"{name}!" if name in sources else name for name in node.input]
    for name in sources:
        written.graph.node.append(tiny.node("Add", f"{name} one", f"{name}!"))
    written.graph.initializer.append(tiny.constant("one", 1, np.float32))
    wanted = reference.run(written, [f"{n}!" if n in sources else n for n in asked], {"x": x})
    found = model.edit(x, dict.fromkeys(changed, lambda a: a + 1), asked)
    for name, value in zip(asked, wanted, strict=True):
        reference.same(found[name], value)
