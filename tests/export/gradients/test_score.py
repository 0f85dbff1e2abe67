"""The output that is differentiated, and its logits."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from generators.tiny import constant, model, node, value, weights
from layertap import UsageError
from layertap_export.gradients.builder import Builder
from layertap_export.gradients.score import Score, asked_output, find_score
from layertap_export.graph.shapes.shapes import Shapes

TWO = ("age", "sex")


@pytest.mark.parametrize(
    ("asked", "outputs", "expected"),
    [
        (None, ("y",), ("y", False)),
        ("y", ("y",), ("y", False)),
        ("probability", ("y",), ("y", True)),
        ("y:probability", ("y",), ("y", True)),
        ("sex", TWO, ("sex", False)),
        ("sex:probability", TWO, ("sex", True)),
        ("lstm:1", ("lstm", "lstm:1"), ("lstm:1", False)),
        ("lstm:1:probability", ("lstm", "lstm:1"), ("lstm:1", True)),
        ("probability", ("probability", "y"), ("probability", False)),
    ],
)
def test_score_names_an_output_or_its_probabilities(
    asked: str | None, outputs: tuple[str, ...], expected: tuple[str, bool]
) -> None:
    assert asked_output(asked, outputs) == expected


NO_OUTPUTS = "the card in the file names no outputs, so it has no score. Export it again."


@pytest.mark.parametrize(
    ("asked", "outputs", "message"),
    [
        (
            None,
            TWO,
            "the model has 2 outputs, 'age', 'sex'. Name the one to "
            "differentiate, as in score='age'.",
        ),
        (
            "probability",
            TWO,
            "the model has 2 outputs, 'age', 'sex'. Name the one to "
            "differentiate, as in score='age:probability'.",
        ),
        (
            "agee",
            TWO,
            "no output is called 'agee'; the model has 'age', 'sex'. Did you mean 'age'?",
        ),
        (
            "agee:probability",
            TWO,
            "no output is called 'agee'; the model has 'age', 'sex'. Did you mean 'age'?",
        ),
        *((asked, (), NO_OUTPUTS) for asked in (None, "age", "probability")),
        ("age:logits", TWO, "no output is called 'age:logits'; the model has 'age', 'sex'."),
        (
            None,
            tuple("abcdefghij"),
            "the model has 10 outputs, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 2 more. Name "
            "the one to differentiate, as in score='a'.",
        ),
    ],
)
def test_an_unknown_or_ambiguous_output_is_refused(
    asked: str | None, outputs: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        asked_output(asked, outputs)
    assert str(caught.value) == message


ENDS: dict[str, tuple[list[Any], str, bool]] = {
    "sigmoid": ([node("Sigmoid", "z", "y")], "z", True),
    "softmax": ([node("Softmax", "z", "y")], "z", True),
    "log softmax": ([node("LogSoftmax", "z", "y")], "z", True),
    "linear": ([node("Identity", "z", "y")], "y", False),
    "tanh": ([node("Tanh", "z", "y")], "y", False),
    "softmax, transposed": (
        [node("Softmax", "z", "p"), node("Transpose", "p", "y", perm=[0, 2, 1])],
        "grad/scores/Transpose",
        True,
    ),
    "sigmoid, moved in two steps": (
        [
            node("Sigmoid", "z", "p"),
            node("Transpose", "p", "t", perm=[0, 2, 1]),
            node("Reshape", "t shape", "y"),
        ],
        "grad/scores/Reshape",
        True,
    ),
    "sigmoid in the middle": ([node("Sigmoid", "z", "p"), node("Mul", "p p", "y")], "y", False),
    "own sigmoid": ([node("Sigmoid", "z", "y", domain="own")], "y", False),
}


def ending(nodes: list[Any]) -> onnx.ModelProto:
    return model(
        [node("MatMul", "x w", "z"), *nodes],
        [value("x", ["n", 2, 4])],
        [value("y", None)],
        [weights("w", 4, 3), constant("shape", [0, -1])],
        domains={"own": 1},
    )


@pytest.mark.parametrize("name", ENDS)
def test_logits_are_found_behind_movers(name: str) -> None:
    nodes, tensor, logits = ENDS[name]
    made = ending(nodes)
    build = Builder(made, Shapes(made))
    found = find_score(build, list(made.graph.node), "y", probability=False)
    assert found == Score("y", logits, tensor)
    assert tensor in {name for item in made.graph.node for name in item.output}
    if logits:
        assert build.shapes.dims(tensor) == build.shapes.dims("y")
    assert find_score(build, list(made.graph.node), "y", probability=True) == Score("y", False, "y")
