"""The output or layer that is differentiated, its logits, and its channels."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from generators.tiny import constant, model, node, value, weights
from layertap import UsageError
from layertap.format.card import TensorInfo
from layertap.format.layer import Layer
from layertap_export.gradients.builder import Builder
from layertap_export.gradients.score import Asked, Score, asked_score, find_score
from layertap_export.graph.shapes.shapes import Shapes

TWO = ("age", "sex")


def outputs(*names: str) -> list[TensorInfo]:
    return [TensorInfo(name=name, shape=(None, 2), dtype="float32") for name in names]


def layer(name: str, tensor: str | None, **more: Any) -> Layer:
    given = {
        "type": "Conv2D",
        "index": 0,
        "shape": (None, 4, 4, 3),
        "dtype": "float32",
        "parameters": 0,
        "inbound": (),
    }
    return Layer(name=name, tensor=tensor, **{**given, **more})


LAYERS = (
    layer("conv", "conv:tensor", axes="NHWC"),
    layer("head", "sex"),
    layer("block:2", "block:2"),
    layer("hidden", None),
    layer("loop", None, why_not="it runs in a loop"),
)


@pytest.mark.parametrize(
    ("asked", "names", "expected"),
    [
        (None, ("y",), Asked("y")),
        ("y", ("y",), Asked("y")),
        ("probability", ("y",), Asked("y", True)),
        ("y:probability", ("y",), Asked("y", True)),
        ("sex", TWO, Asked("sex")),
        ("sex:probability", TWO, Asked("sex", True)),
        ("sex:1", TWO, Asked("sex", channel=1)),
        ("head", TWO, Asked("sex")),
        ("head:probability", TWO, Asked("sex", True)),
        ("head:-1", TWO, Asked("sex", channel=-1)),
        ("conv", TWO, Asked("conv:tensor", layer="conv", axes="NHWC")),
        ("conv:2", TWO, Asked("conv:tensor", layer="conv", channel=2, axes="NHWC")),
        ("block:2", TWO, Asked("block:2", layer="block:2")),
        ("block:2:1", TWO, Asked("block:2", layer="block:2", channel=1)),
        ("lstm:1", ("lstm", "lstm:1"), Asked("lstm:1")),
        ("lstm:1:probability", ("lstm", "lstm:1"), Asked("lstm:1", True)),
        ("probability", ("probability", "y"), Asked("probability")),
    ],
)
def test_score_names_an_output_or_a_layer_and_a_part_of_it(
    asked: str | None, names: tuple[str, ...], expected: Asked
) -> None:
    assert asked_score(asked, outputs(*names), LAYERS) == expected


NO_OUTPUTS = "the card in the file names no outputs, so it has no score. Export it again."


@pytest.mark.parametrize(
    ("asked", "names", "message"),
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
        *(
            (
                f"agee{part}",
                TWO,
                "no output or layer is called 'agee'; the outputs are 'age', 'sex'. Did you mean "
                "'age'?",
            )
            for part in ("", ":probability", ":3")
        ),
        (
            "con",
            ("y",),
            "no output or layer is called 'con'; the outputs are 'y'. Did you mean 'conv'?",
        ),
        *((asked, (), NO_OUTPUTS) for asked in (None, "age", "probability")),
        (
            "age:logits",
            TWO,
            "'logits' is not a channel of 'age'. Give the number of a channel, as in 'age:0', or "
            "'age' for all of them.",
        ),
        (
            "conv:probability",
            TWO,
            "'conv' is a layer and no output of the model: its values themselves are the scores. "
            "Give score='conv'.",
        ),
        (
            "hidden:1",
            TWO,
            "the layer 'hidden' cannot be the score: the file does not expose it. Export it again "
            "with this layer.",
        ),
        ("loop", TWO, "the layer 'loop' cannot be the score: it runs in a loop."),
        (7, TWO, "score must be the name of an output or a layer, got 7."),
        (
            ["age", "sex"],
            TWO,
            "a file has the gradients of one score, got ['age', 'sex']. Write a file for each: "
            "`layertap gradients FILE --layers LAYER --score SCORE -o NEW.onnx`.",
        ),
        (
            None,
            tuple("abcdefghij"),
            "the model has 10 outputs, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 2 more. Name "
            "the one to differentiate, as in score='a'.",
        ),
    ],
)
def test_an_unknown_or_ambiguous_score_is_refused(
    asked: Any, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        asked_score(asked, outputs(*names), LAYERS)
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
    found = find_score(build, made.graph, Asked("y"))
    assert found == Score("y", logits, tensor)
    assert tensor in {name for item in made.graph.node for name in item.output}
    if logits:
        assert build.shapes.dims(tensor) == build.shapes.dims("y")
    assert find_score(build, made.graph, Asked("y", True)) == Score("y", False, "y")


SHAPES: dict[str, tuple[Asked, list[Any], tuple[Any, ...]]] = {
    "of a layer": (Asked("x", layer="l", channel=1), [None, 2, 4], (2, 1, 1)),
    "the last": (Asked("x", layer="l", channel=-1), [None, 2, 4], (2, 3, 1)),
    "second axis": (Asked("x", layer="l", channel=1, axes="NCT"), [None, 2, 4], (1, 1, 1)),
    "of an output": (Asked("x", channel=0, axes="NCT"), [None, 2, 4], (2, 0, 1)),
    "free": (Asked("x", layer="l", channel=5), [None, "c"], (1, 5, 1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_channel_is_a_part_of_the_tensor_with_its_axis(name: str) -> None:
    asked, dims, (axis, index, size) = SHAPES[name]
    made = model([node("Relu", "v", "x")], [value("v", dims)], [value("x", dims)])
    build = Builder(made, Shapes(made))
    found = find_score(build, made.graph, asked)
    expected = f"score/{asked.name}:{index}"
    assert found == Score(expected, False, expected, index)
    assert made.graph.output[-1].name == expected
    found_dims = build.shapes.dims(expected)
    assert found_dims is not None
    assert found_dims[axis] == size
    bounds = [numpy_helper.to_array(item).tolist() for item in made.graph.initializer]
    assert bounds == [[index], [index + 1], [axis]]


def test_a_channel_of_an_output_is_that_of_its_logits() -> None:
    made = ending([node("Softmax", "z", "y")])
    build = Builder(made, Shapes(made))
    found = find_score(build, made.graph, Asked("y", channel=2))
    assert found == Score("score/y:2", True, "score/y:2/logits", 2)
    read = {item.output[0]: item.input[0] for item in made.graph.node if item.op_type == "Slice"}
    assert read == {"score/y:2": "y", "score/y:2/logits": "z"}


@pytest.mark.parametrize(
    ("dims", "channel", "message"),
    [
        ([None, 2, 4], 4, "channel 4 is out of range: 'l' has 4, 0 to 3."),
        ([None, 2, 4], -5, "channel -5 is out of range: 'l' has 4, 0 to 3."),
        ([None, "c"], -1, "channel -1 is out of range: 'l' has a free number of them, from 0."),
        ([None], 0, "'l' has no channels: it has one value for each sample."),
    ],
)
def test_a_channel_that_is_not_there_is_refused(
    dims: list[Any], channel: int, message: str
) -> None:
    made = model([node("Relu", "v", "x")], [value("v", dims)], [value("x", dims)])
    build = Builder(made, Shapes(made))
    with pytest.raises(UsageError) as caught:
        find_score(build, made.graph, Asked("x", layer="l", channel=channel))
    assert str(caught.value) == message
