"""Gradients as part of a model: inputs, outputs, names, and what cannot be differentiated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import layertap
from generators import tiny
from generators.tiny import constant, model, node, value, weights
from layertap import LayertapError, LayertapWarning, UsageError
from layertap._cut.plan import plan_cut
from layertap._cut.write import write_cut
from layertap._engine.session import plain_session
from layertap.format.card import Gradients
from layertap_export import GradientError
from layertap_export.gradients.extend import extend, warn_independent


def extended(
    made: onnx.ModelProto, *asked: str, score: str | None = None
) -> tuple[onnx.ModelProto, Gradients, tuple[str, ...]]:
    opened = layertap.open(made.SerializeToString())
    card = opened.card
    gradients, independent, _ = extend(
        made,
        opened.layers,
        opened.inputs,
        opened.outputs,
        asked,
        score,
        channels_last=card is not None and card.channels_last,
    )
    onnx.checker.check_model(made, full_check=True)
    return made, gradients, independent


def run(made: onnx.ModelProto, name: str, **feeds: Any) -> np.ndarray:
    (found,) = plain_session(made.SerializeToString()).run([name], feeds)
    return np.asarray(found)


X = np.array([[1.0, -2.0, 3.0], [0.5, 0.25, -1.0]], np.float32)


# --- What there is ------------------------------------------------------------------------------


def test_an_optional_input_and_an_output_per_layer() -> None:
    made, gradients, independent = extended(tiny.image_classifier(), "relu", "input")
    assert gradients == Gradients(
        output="probs",
        score="logits",
        weights="score_weights",
        tensors={"relu": "grad/relu", "image": "grad/image"},
        broadcasts=False,
        class_input="optional",
    )
    assert independent == ()
    entry = next(x for x in made.graph.input if x.name == "score_weights")
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim] == [0, 2]
    default = next(x for x in made.graph.initializer if x.name == "score_weights")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(default), [[1, 1]])
    shapes = {
        x.name: [d.dim_value or d.dim_param for d in x.type.tensor_type.shape.dim]
        for x in made.graph.output
    }
    assert shapes["grad/relu"] == ["", 8, 6, 4]
    assert shapes["grad/image"] == ["", 8, 6, 3]
    ready = plain_session(made.SerializeToString())
    assert [x.name for x in ready.get_inputs()] == ["image"]
    assert [x.name for x in ready.get_overridable_initializers()] == ["score_weights"]


def test_the_values_of_a_chain() -> None:
    """x -> a -> b -> c, products with weights: the gradient is the product of these."""
    made, gradients, _ = extended(tiny.linear_chain(), "a", "b", "c", "input")
    held = {x.name: onnx.numpy_helper.to_array(x) for x in made.graph.initializer}
    mix = np.array([[2.0, -1.0]], np.float32)
    expected: Mapping[str, Any] = {
        "c": mix,
        "b": mix @ held["c/w"].T,
        "a": mix @ held["c/w"].T @ held["b/w"].T,
        "x": mix @ held["c/w"].T @ held["b/w"].T @ held["a/w"].T,
    }
    x = np.ones((3, 4), np.float32)
    for name, gradient in expected.items():
        found = run(made, gradients.tensors[name], x=x, score_weights=mix)
        np.testing.assert_allclose(found, np.repeat(gradient, 3, 0), rtol=1e-5)


def test_every_way_to_the_score_counts() -> None:
    made, gradients, _ = extended(tiny.residual(), "b", "a", "input", score="y")
    w = onnx.numpy_helper.to_array(made.graph.initializer[0])
    one = np.ones((2, 3), np.float32)
    a = X @ w
    b = one @ w.T + one
    np.testing.assert_allclose(run(made, gradients.tensors["b"], x=X), b, rtol=1e-5)
    by_a = np.where(a > 0, b, 0) + one
    np.testing.assert_allclose(run(made, gradients.tensors["a"], x=X), by_a, rtol=1e-5)
    np.testing.assert_allclose(run(made, gradients.tensors["x"], x=X), by_a @ w.T, rtol=1e-5)


def test_logits_or_probabilities() -> None:
    nodes = [node("MatMul", "x w", "z"), node("Softmax", "z", "y")]
    kinds = {}
    for score in ("y", "probability"):
        made = model(nodes, [value("x", ["n", 3])], [value("y", ["n", 2])], [weights("w", 3, 2)])
        made, gradients, _ = extended(made, "input", score=score)
        kinds[score] = gradients.score
        w = onnx.numpy_helper.to_array(made.graph.initializer[0])
        z = X @ w
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        mix = np.array([[1.0, 0.0]], np.float32)
        by_z = mix.repeat(2, 0) if score == "y" else p * (mix - (mix * p).sum(1, keepdims=True))
        found = run(made, gradients.tensors["x"], x=X, score_weights=mix)
        np.testing.assert_allclose(found, by_z @ w.T, rtol=1e-4, atol=1e-6)
    assert kinds == {"y": "logits", "probability": "output"}


def test_names_that_are_taken() -> None:
    made = model(
        [node("Relu", "score_weights", "grad/a"), node("Neg", "grad/a", "a", name="grad/y/Expand")],
        [value("score_weights", ["n", 3])],
        [value("a", ["n", 3])],
    )
    made, gradients, _ = extended(made, "a", "grad/a")
    assert gradients.weights == "score_weights_1"
    assert gradients.tensors == {"a": "grad/a_1", "grad/a": "grad/grad/a"}
    found = run(made, "grad/grad/a", score_weights=X)
    np.testing.assert_array_equal(found, -np.ones_like(X))


def test_scores_of_one_axis() -> None:
    made = model(
        [node("ReduceSum", "x axes", "y", keepdims=0)],
        [value("x", ["n", 3])],
        [value("y", ["n"])],
        [constant("axes", [1])],
    )
    made, gradients, _ = extended(made, "input")
    mix = np.array([2.0, 3.0], np.float32)
    found = run(made, gradients.tensors["x"], x=X, score_weights=mix)
    np.testing.assert_array_equal(found, mix[:, None].repeat(3, 1))
    assert run(made, gradients.tensors["x"], x=X[:1], score_weights=mix).shape == (2, 3)


# --- Layers that are shown by a copy, and layers that do not count --------------------------------


def test_a_layer_that_is_shown_by_leaves() -> None:
    """`relu` is a Transpose that nothing else reads, and `drop` a copy of that."""
    made, gradients, independent = extended(tiny.image_classifier(), "relu", "drop", "conv")
    assert independent == ()
    image = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32)
    relu, drop = (run(made, gradients.tensors[name], image=image) for name in ("relu", "drop"))
    dense = next(onnx.numpy_helper.to_array(x) for x in made.graph.initializer if x.name == "dense")
    expected = np.broadcast_to(dense.sum(1) / 48, (2, 8, 6, 4))
    np.testing.assert_allclose(relu, expected, rtol=1e-5)
    np.testing.assert_array_equal(drop, relu)


def test_a_layer_that_the_scores_do_not_depend_on() -> None:
    made = model(
        [
            node("Neg", "x", "a"),
            node("Transpose", "x", "aside"),
            node("Exp", "aside", "other"),
            node("Floor", "x", "steps"),
            node("Add", "a steps", "y"),
        ],
        [value("x", ["n", 3])],
        [value("y", ["n", 3]), value("other", [3, "n"])],
    )
    names = ("aside", "other", "steps", "a")
    made, gradients, independent = extended(made, *names, score="y")
    assert independent == ("aside", "other")
    np.testing.assert_array_equal(run(made, gradients.tensors["aside"], x=X), np.zeros((3, 2)))
    np.testing.assert_array_equal(run(made, gradients.tensors["steps"], x=X), np.ones_like(X))


def test_zeros_have_as_many_rows_as_there_are_weights() -> None:
    made = model(
        [node("Relu", "x", "y"), node("Exp", "y", "behind")],
        [value("x", ["n", 3])],
        [value("y", ["n", 3])],
    )
    made, gradients, independent = extended(made, "behind")
    assert independent == ("behind",)
    rows = np.ones((5, 3), np.float32)
    assert run(made, gradients.tensors["behind"], x=X[:1], score_weights=rows).shape == (5, 3)
    assert run(made, gradients.tensors["behind"], x=X).shape == (2, 3)


def test_all_are_those_that_count() -> None:
    made = model(
        [
            node("Relu", "x", "a"),
            node("Cast", "a", "whole", to=TensorProto.INT64),
            node("Exp", "x", "aside"),
            node("MatMul", "a w", "z"),
            node("Sigmoid", "z", "y"),
        ],
        [value("x", ["n", 3])],
        [value("y", ["n", 2])],
        [weights("w", 3, 2)],
    )
    _, gradients, independent = extended(made, "all")
    assert list(gradients.tensors) == ["a", "z"]
    assert independent == ()


def test_steps_end_a_way() -> None:
    """No gradient flows through Floor, comparisons and integers, and that is not an error."""
    made = model(
        [
            node("Floor", "x", "steps"),
            node("Greater", "x zero", "above"),
            node("Cast", "above", "mask", to=TensorProto.FLOAT),
            node("Mul", "x mask", "kept"),
            node("Add", "kept steps", "y"),
        ],
        [value("x", ["n", 3])],
        [value("y", ["n", 3])],
        [constant("zero", 0, np.float32)],
    )
    made, gradients, _ = extended(made, "input")
    np.testing.assert_array_equal(run(made, gradients.tensors["x"], x=X), X > 0)


def test_the_warning() -> None:
    with pytest.warns(LayertapWarning) as caught:
        warn_independent(("a", "b", "c", "d", "e"), "y")
    assert [str(x.message) for x in caught] == [
        "no gradient flows from the scores of 'y' to 'a', 'b', 'c' and 2 more: it is 0 there."
    ]


# --- What cannot be differentiated ---------------------------------------------------------------


def over(*nodes: Any, **domains: int) -> onnx.ModelProto:
    return model(
        list(nodes),
        [value("x", ["n", 3, 4])],
        [value("y", None)],
        [
            weights("w", 1, 8, 4),
            weights("r", 1, 8, 2),
            weights("k", 3, 4, 1),
            weights("b", 1, 16),
            weights("h", 1, 3, 2),
            weights("c", 1, 3, 2),
            weights("p", 1, 6),
            constant("l", [4, 4, 4], np.int32),
        ],
        domains=domains or {},
    )


def a_loop() -> onnx.ModelProto:
    made = tiny.looping()
    del made.graph.output[1:]
    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            over(node("LSTM", "x w r b l h c p", "all y", name="lstm/LSTM", hidden_size=2)),
            "'x' has no gradient: layertap has no rule for LSTM with peepholes, in the layer 'y' "
            "between it and the score. Choose 'y' or a layer after it.",
        ),
        (
            over(node("Swish", "x", "y", domain="own"), own=1),
            "'x' has no gradient: layertap has no rule for the operator own.Swish, in the layer "
            "'y' between it and the score. Choose 'y' or a layer after it.",
        ),
        (
            tiny.branching(),
            "'x' has no gradient: layertap has no rule for the operator If, in the layer 'y' "
            "between it and the score. Choose 'y' or a layer after it.",
        ),
        (
            a_loop(),
            "'x' has no gradient: layertap has no rule for the operator Scan, in the layer 'total' "
            "between it and the score. Choose 'total' or a layer after it.",
        ),
        (
            tiny.quantised(),
            "'x' has no gradient: layertap has no rule for the operator QuantizeLinear (use the "
            "file that this one was quantised from), in the layer 'q' between it and the score. "
            "Choose 'q' or a layer after it.",
        ),
        (
            over(
                node("Relu", "x", "a"),
                node("Conv", "x a", "y"),
            ),
            "'x' has no gradient: layertap has no rule for Conv with input 'W' that depends on "
            "the layer, in the layer 'y' between it and the score. Choose 'y' or a layer after "
            "it.",
        ),
        (
            over(node("Einsum", "x", "y", equation="nij->n")),
            "'x' has no gradient: layertap has no rule for Einsum of the form 'nij->n', in the "
            "layer 'y' between it and the score. Choose 'y' or a layer after it.",
        ),
    ],
    ids=["lstm", "domain", "if", "scan", "quantised", "kernel", "einsum"],
)
def test_operators_without_a_rule(made: onnx.ModelProto, message: str) -> None:
    with pytest.raises(GradientError) as caught:
        extend_only(made)
    assert str(caught.value) == message


def extend_only(made: onnx.ModelProto) -> None:
    opened = layertap.open(made.SerializeToString())
    outputs = opened.outputs[:1]
    extend(made, opened.layers, opened.inputs, outputs, ["input"], None, channels_last=False)


def test_the_layer_is_named_by_its_nodes() -> None:
    """In files that layertap exports nodes are named after layers."""
    made = tiny.image_classifier()
    relu = next(x for x in made.graph.node if x.op_type == "Relu")
    relu.op_type, relu.name = "Scan", "relu/Scan"
    with pytest.raises(GradientError) as caught:
        extend_only(made)
    assert str(caught.value) == (
        "'image' has no gradient: layertap has no rule for the operator Scan, in the layer 'relu' "
        "between it and the score. Choose 'relu' or a layer after it."
    )


@pytest.mark.parametrize(
    ("made", "asked", "score", "message"),
    [
        (
            model(
                [node("ArgMax", "x", "y", axis=1)],
                [value("x", ["n", 3])],
                [value("y", ["n", 1], TensorProto.INT64)],
            ),
            ["input"],
            None,
            "the output 'y' holds int64; only floating-point numbers have gradients.",
        ),
        (
            model(
                [node("Gather", "t x", "y")],
                [value("x", ["n"], TensorProto.INT64)],
                [value("y", ["n", 3])],
                [weights("t", 5, 3)],
            ),
            ["input"],
            None,
            "no input of the model has a gradient: only floating-point numbers have gradients, its "
            "inputs are 'x' (int64).",
        ),
        (
            tiny.residual(),
            [],
            None,
            "no layers were given for the gradients. Give at least one, for example 'last-conv'.",
        ),
        (tiny.residual(), ["e"], None, None),
        (
            tiny.two_inputs(),
            ["seen"],
            None,
            "the model has 2 outputs, 'sum', 'product'. Name the one to "
            "differentiate, as in score='sum'.",
        ),
    ],
    ids=["whole output", "whole input", "nothing", "unknown", "two outputs"],
)
def test_selections_that_have_no_gradient_are_refused(
    made: onnx.ModelProto, asked: list[str], score: str | None, message: str | None
) -> None:
    with pytest.raises(LayertapError) as caught:
        extended(made, *asked, score=score)
    if message is None:
        assert str(caught.value).startswith("no layer is called 'e'; the file exposes 5 layers.")
    else:
        assert isinstance(caught.value, UsageError)
        assert str(caught.value) == message


def test_old_opsets_cannot_add_up() -> None:
    made = model(
        [node("Gather", "x i", "y", axis=1)],
        [value("x", ["n", 3])],
        [value("y", ["n", 2])],
        [constant("i", [0, 0])],
        opset=15,
    )
    with pytest.raises(GradientError) as caught:
        extended(made, "input")
    assert str(caught.value) == (
        "'x' has no gradient: adding several values to one element needs opset 16 or newer, and "
        "this file has opset 15, in the layer 'y' between it and the score. Choose 'y' or a layer "
        "after it."
    )


# --- What it costs ------------------------------------------------------------------------------


def test_a_cut_without_gradients_holds_nothing_of_them() -> None:
    """It is, byte for byte, the cut of the file that has none."""
    plain = tiny.image_classifier()
    made, gradients, _ = extended(tiny.image_classifier(), "relu", "conv", "input")
    for names in (["relu"], ["conv", "probs"], ["pool"]):
        cuts = [cut(x, names) for x in (plain, made)]
        assert cuts[0] == cuts[1]
    with_it = cut(made, [gradients.tensors["relu"]])
    assert b"score_weights" in with_it
    assert b"grad/conv" not in with_it


def cut(made: onnx.ModelProto, names: list[str]) -> bytes:
    from layertap.format.graph import read_graph

    data = made.SerializeToString()
    graph = read_graph(data)
    return write_cut(data, graph, plan_cut(graph, names))


def test_the_same_bytes_every_time() -> None:
    first, second = (extended(tiny.image_classifier(), "all", "input")[0] for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
