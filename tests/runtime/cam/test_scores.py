"""Which tensor the scores of the classes are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
from generators import tiny
from layertap._engine.program import program_of
from layertap.cam.scores import choose_output, find_scores
from layertap.cam.targets import by_class

TinyFile = Callable[[str], Path]


def test_the_scores_of_a_file_with_gradients_are_what_they_are_of(differentiable: Any) -> None:
    assert find_scores(program_of(differentiable()), "probs").tensor == "logits"
    assert find_scores(program_of(differentiable(score="output")), "probs").tensor == "probs"


def test_a_final_softmax_is_looked_through(tiny_file: TinyFile) -> None:
    assert (
        find_scores(program_of(layertap.open(tiny_file("image_classifier"))), "probs").tensor
        == "logits"
    )
    assert find_scores(program_of(layertap.open(tiny_file("linear_chain"))), "c").tensor == "c"


X = np.random.default_rng(0).normal(size=(4, 5, 1, 6)).astype(np.float32)

HALF = onnx.TensorProto.FLOAT16

LAYOUTS: dict[str, tuple[list[Any], Callable[[Any], Any]]] = {
    "nothing": ([], lambda x: x),
    "Identity": ([("Identity", {})], lambda x: x),
    "Transpose": ([("Transpose", {"perm": [0, 2, 3, 1]})], lambda x: x.transpose(0, 2, 3, 1)),
    "Flatten": ([("Flatten", {})], lambda x: x.reshape(4, 30)),
    "Reshape": ([("Reshape shape", {})], lambda x: x.reshape(4, 3, 10)),
    "Squeeze": ([("Squeeze axis", {})], lambda x: x[:, :, 0]),
    "Unsqueeze": ([("Unsqueeze axis", {})], lambda x: x[:, :, None]),
    "Cast": ([("Cast", {"to": HALF})], lambda x: x.astype(np.float16)),
    "Reshape to a computed shape": ([("Reshape size", {})], lambda x: x.reshape(4, 3, 10)),
    "all": (
        [
            ("Transpose", {"perm": [0, 2, 3, 1]}),
            ("Squeeze first", {}),
            ("Cast", {"to": HALF}),
            ("Reshape shape", {}),
            ("Identity", {}),
            ("Unsqueeze axis", {}),
            ("Flatten", {"axis": 1}),
        ],
        lambda x: x.transpose(0, 2, 3, 1).astype(np.float16).reshape(4, 30),
    ),
}
"""What may come after a final activation, and the same in numpy."""


def laid_out(activation: str, layout: str) -> onnx.ModelProto:
    """Logits `z` of shape (n, 5, 1, 6), an activation over their classes, and a layout."""
    attributes: dict[str, Any] = {} if activation == "Sigmoid" else {"axis": 1}
    nodes = [
        tiny.node("Neg", "x", "features"),
        tiny.node("Neg", "features", "z"),
        tiny.node("Shape", "x", "sizes"),
        tiny.node("Gather", "sizes none", "n"),
        tiny.node("Concat", "n rest", "size", axis=0),
        tiny.node(activation, "z", "0", **attributes),
    ]
    steps, _ = LAYOUTS[layout]
    for at, (step, attributes) in enumerate(steps):
        op_type, *constants = step.split()
        reads = " ".join([str(at), *constants])
        nodes.append(tiny.node(op_type, reads, str(at + 1), **attributes))
    kind = HALF if "Cast" in str(steps) else onnx.TensorProto.FLOAT
    return tiny.model(
        nodes,
        [tiny.value("x", ["n", 5, 1, 6])],
        [tiny.value(str(len(steps)), None, kind)],
        [
            tiny.constant("shape", [0, 3, 10]),
            tiny.constant("rest", [3, 10]),
            tiny.constant("none", [0]),
            tiny.constant("axis", [2]),
            tiny.constant("first", [1]),
        ],
    )


@pytest.mark.parametrize("activation", ["Sigmoid", "Softmax", "LogSoftmax"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_laid_out_as_the_output_is(activation: str, layout: str) -> None:
    """Flattened, reshaped, turned or cast after the activation, as the probabilities are."""
    made = laid_out(activation, layout)
    program = program_of(layertap.open(made.SerializeToString()))
    scores = find_scores(program, made.graph.output[0].name)
    values = program.fetch(scores.tensors, appended=scores.appended)({"x": X})
    expected = LAYOUTS[layout][1](X)
    np.testing.assert_array_equal(values[scores.tensor], expected)
    assert values[scores.tensor].dtype == expected.dtype
    np.testing.assert_array_equal(by_class(scores.read(values)), by_class(expected))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ablation_explains_the_logits_whatever_comes_after_the_softmax(layout: str) -> None:
    """`faults.md` A5: for Softmax -> Flatten it explained probabilities."""
    made = laid_out("Softmax", layout)
    model = layertap.open(made.SerializeToString())
    output = made.graph.output[0].name
    found = model.cam(
        X, "features", 3, method="ablationcam", normalize=False, resize=False, output=output
    )
    lay_out = LAYOUTS[layout][1]
    whole = by_class(lay_out(X)).astype(np.float64)[:, 3]
    expected = np.zeros((4, 1, 6))
    for channel in range(5):  # of a file from elsewhere: the axis after the batch
        without = X.copy()
        without[:, channel] = 0
        drop = whole - by_class(lay_out(without)).astype(np.float64)[:, 3]
        expected -= X[:, channel] * (drop / abs(whole))[:, None, None]
    tolerance = 1e-2 if "Cast" in str(LAYOUTS[layout][0]) else 1e-5
    np.testing.assert_allclose(found[:, 0], expected, rtol=tolerance, atol=tolerance)


def test_a_function_that_is_called_like_a_sigmoid() -> None:
    from onnx import helper

    own = helper.make_function(
        "", "Sigmoid", ["v"], ["o"], [tiny.node("Neg", "v", "o")], [helper.make_opsetid("", 18)]
    )
    made = tiny.model(
        [tiny.node("Sigmoid", "x", "y")],
        [tiny.value("x", ["n", 2])],
        [tiny.value("y", ["n", 2])],
        functions=[own],
    )
    assert find_scores(program_of(layertap.open(made.SerializeToString())), "y").tensor == "y"


def test_which_output(differentiable: Any, tiny_file: TinyFile) -> None:
    assert choose_output(program_of(differentiable()), None) == "probs"
    two = layertap.open(tiny_file("two_inputs"))
    assert choose_output(program_of(two), None) == "sum"
    assert choose_output(program_of(two), "product") == "product"
    with pytest.raises(layertap.UsageError) as caught:
        choose_output(program_of(two), "prodcut")
    assert str(caught.value) == (
        "the model has no output 'prodcut'; it has 'sum', 'product'. Did you mean 'product'?"
    )


def test_a_file_without_an_output() -> None:
    made = tiny.model([tiny.node("Neg", "x", "y")], [tiny.value("x", ["n", 2])], [])
    model = layertap.open(made.SerializeToString())
    with pytest.raises(layertap.UsageError) as caught:
        choose_output(program_of(model), None)
    assert str(caught.value) == ("the model has no outputs, and so no scores of classes.")


def test_scores_without_classes() -> None:
    with pytest.raises(layertap.UsageError) as caught:
        by_class(np.zeros(3))
    assert str(caught.value) == (
        "the scores must have at least two axes, classes last, (n, classes), got shape (3,)."
    )
