"""Which layers get a gradient."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

import layertap
from generators.tiny import layer, model, node, value, weights
from layertap import Layer, LayerNotFoundError, UsageError
from layertap_export.gradients.select import asks_for, last_feature_maps, listed, named_layers
from layertap_export.graph.shapes.shapes import Shapes

TABLE = [layer(i, name, "Conv2D", (None, 4)) for i, name in enumerate(["a", "b1", "b2", "c"])]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (["a"], ["a"]),
        (["b*", "a"], ["b1", "b2", "a"]),
        (["re:b.", "b1"], ["b1", "b2"]),
        (["-1", 0], ["c", "a"]),
        (["1:3"], ["b1", "b2"]),
        ([slice(0, 2)], ["a", "b1"]),
        ([TABLE[2]], ["b2"]),
        (["all", "input", "last-conv"], []),
        ([], []),
    ],
)
def test_names_patterns_and_indices(asked: list[Any], names: list[str]) -> None:
    assert [x.name for x in named_layers(asked, TABLE)] == names


def test_a_selector_that_matches_no_layer_is_refused() -> None:
    with pytest.raises(LayerNotFoundError, match="no layer is called 'd'"):
        named_layers(["d"], TABLE)


def test_patterns_pass_over_what_holds_no_floating_point_numbers() -> None:
    def suits(one: Layer) -> bool:
        return one.name != "b1"

    assert [x.name for x in named_layers(["b*"], TABLE, suits)] == ["b2"]
    with pytest.raises(UsageError) as caught:
        named_layers(["b1"], TABLE, suits)
    assert str(caught.value) == (
        "the layer 'b1' holds float32; only floating-point numbers have gradients."
    )


def test_a_layer_goes_before_a_word() -> None:
    assert asks_for("all", ["all"], TABLE)
    assert not asks_for("all", ["a"], TABLE)
    own = [*TABLE, layer(4, "all", "Dense", (None, 2))]
    assert not asks_for("all", ["all"], own)
    assert [x.name for x in named_layers(["all"], own)] == ["all"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("a", ["a"]),
        (3, [3]),
        (["a", 3], ["a", 3]),
        (("a",), ["a"]),
        ((), []),
        (TABLE[0], [TABLE[0]]),
    ],
)
def test_one_or_several(asked: Any, expected: list[Any]) -> None:
    assert listed(asked) == expected


# --- last-conv ----------------------------------------------------------------------------------


def network(*middle: Any, size: Any = 8, score: str = "y") -> str:
    """The layer that is found in a network over `x`: middle, pooling `p`, and scores `y`."""
    made = model(
        [*middle, node("GlobalAveragePool", "last", "p"), node("Flatten", "p", "y")],
        [value("x", ["n", 3, size, size])],
        [value("y", None)],
        [
            weights("w1", 4, 3, 3, 3),
            weights("w2", 4, 4, 3, 3),
            weights("w3", 4, 4, 1, 1),
            weights("m", 4, 4),
        ],
    )
    layers = layertap.open(made.SerializeToString()).layers
    nodes: list[onnx.NodeProto] = list(made.graph.node)
    return last_feature_maps(nodes, layers, Shapes(made), score, channels_last=False).name


PADS: dict[str, Any] = {"pads": [1, 1, 1, 1]}
FIRST = node("Conv", "x w1", "c1", **PADS)


@pytest.mark.parametrize("size", [8, "size"])
@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        ([FIRST, node("Relu", "c1", "last")], "last"),
        (
            [
                FIRST,
                node("Relu", "c1", "r1"),
                node("MaxPool", "r1", "last", kernel_shape=[2, 2], strides=[2, 2]),
            ],
            "r1",
        ),
        (
            [
                FIRST,
                node("Relu", "c1", "r1"),
                node("Conv", "r1 w2", "c2", **PADS),
                node("Add", "r1 c2", "sum"),
                node("Relu", "sum", "last"),
            ],
            "last",
        ),
        (
            [
                FIRST,
                node("Relu", "c1", "r1"),
                node("GlobalAveragePool", "r1", "squeezed"),
                node("Conv", "squeezed w3", "excited"),
                node("Mul", "r1 excited", "last"),
            ],
            "last",
        ),
        ([FIRST, node("Conv", "c1 w2", "last", **PADS), node("Relu", "last", "aside")], "last"),
    ],
    ids=["relu", "pooled", "residual", "squeeze and excite", "aside"],
)
def test_last_conv(middle: list[Any], expected: str, size: Any) -> None:
    assert network(*middle, size=size) == expected


def test_last_conv_of_a_network_that_ends_in_one() -> None:
    """The convolution that gives the scores themselves, as in a segmentation, is not looked at."""
    middle = [FIRST, node("Relu", "c1", "r1"), node("Conv", "r1 w3", "last")]
    assert network(*middle, score="last") == "r1"


def test_no_convolution_no_last_conv() -> None:
    with pytest.raises(UsageError) as caught:
        network(node("Relu", "x", "last"))
    assert str(caught.value) == (
        "last-conv: no convolution with feature maps leads to the score. Name the layers instead."
    )
