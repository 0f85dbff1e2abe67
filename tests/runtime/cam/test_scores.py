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
from layertap.cam.scores import by_class, choose_output, find_scores

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


def test_scores_with_places_and_their_classes_elsewhere() -> None:
    """A segmentation with its classes after the batch, and turned at the end."""
    made = tiny.model(
        [
            tiny.node("LogSoftmax", "x", "p", axis=1),
            tiny.node("Transpose", "p", "turned", perm=[1, 0, 2, 3]),
            tiny.node("Cast", "turned", "half", to=onnx.TensorProto.FLOAT16),
            tiny.node("Transpose", "half", "out", perm=[1, 2, 3, 0]),
        ],
        [tiny.value("x", ["n", 5, 2, 3])],
        [tiny.value("out", ["n", 2, 3, 5], onnx.TensorProto.FLOAT16)],
    )
    model = layertap.open(made.SerializeToString())
    x = np.random.default_rng(0).normal(size=(4, 5, 2, 3)).astype(np.float32)
    scores = find_scores(program_of(model), "out")
    assert scores.tensor == "x"
    np.testing.assert_allclose(scores.read({"x": x}), x.mean(axis=(2, 3)), rtol=1e-5)


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
    assert str(caught.value) == ("the model has no output of its own whose classes could be meant.")


def test_scores_without_classes() -> None:
    with pytest.raises(layertap.UsageError) as caught:
        by_class(np.zeros(3))
    assert str(caught.value) == (
        "the scores have the shape (3,), but classes are the last of two axes or more, (n, "
        "classes)."
    )
