"""Modules of files from PyTorch, made by hand: names, calls, outputs, and damaged metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators import tiny
from layertap.errors import LayerNotFoundError
from layertap.format.index import read_index
from layertap.format.layer import Layer
from layertap.format.scopes import MOST_SCOPES
from layertap.format.select import only, parse_selector, select
from layertap.format.source import BytesSource

SCOPES, CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"


def layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    return read_index(BytesSource(model.SerializeToString())).layers


def chain(
    names: Sequence[str] = (),
    scopes: Sequence[Sequence[str] | str] = (),
    classes: Sequence[Sequence[str]] = (),
    ops: Sequence[str] = (),
) -> onnx.ModelProto:
    """A chain of operators, from x to a, b, c and so on, with names of nodes or with metadata."""
    count = max(len(names), len(scopes))
    tensors = ["x", *"abcdefgh"[:count]]
    nodes = [
        tiny.node(
            ops[at] if ops else "Relu", tensors[at], tensors[at + 1], names[at] if names else None
        )
        for at in range(count)
    ]
    for node, scope in zip(nodes, scopes, strict=False):
        text = scope if isinstance(scope, str) else repr([*scope])
        node.metadata_props.add(key=SCOPES, value=text)
    for node, scope in zip(nodes, classes, strict=False):
        node.metadata_props.add(key=CLASSES, value=repr([*scope]))
    end = tensors[-1]
    return tiny.model(nodes, [tiny.value("x", ["n", 3])], [tiny.value(end, ["n", 3])], [])


def named(model: onnx.ModelProto) -> dict[str, str | None]:
    """The tensors of the layers, by name."""
    return {layer.name: layer.tensor for layer in layers(model)}


def test_the_output_of_a_module_is_the_tensor_that_leaves_it_last() -> None:
    model = chain(scopes=[["", "m", "m.a", "r"], ["", "m", "r"], ["", "r"]])
    assert named(model) == {"m.a": "a", "m": "b", "c": "c"}
    rows = {row.name: row for row in layers(model)}
    assert (rows["m.a"].parent, rows["m"].parent) == ("m", None)
    assert (rows["m"].inbound, rows["c"].inbound) == (("x",), ("m",))
    # A tensor inside that is an output of the graph, too, is not the module's.
    model.graph.output.append(tiny.value("a", ["n", 3]))
    assert named(model) == {"m.a": "a", "m": "b", "c": "c"}


def test_classes_are_those_of_the_metadata() -> None:
    scopes = [["", "m", "m.a", "r"], ["", "m", "m.b", "r"]]
    classes = [["Net", "own.Block", "torch.nn.modules.activation.ReLU", "aten"], ["Net"]]
    rows = layers(chain(scopes=scopes, classes=classes))
    assert [(row.name, row.type) for row in rows] == [
        ("m.a", "ReLU"),
        ("m.b", "Relu"),  # a list of another length says nothing
        ("m", "Block"),
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # A Sequential puts its name in front of its children's.
        (["/m/m.0/Relu", "/m/m.1/m.1.0/Relu"], ["m.0", "m.1.0", "m.1", "m"]),
        (["/m/a/Relu", "/m/a/b/Relu"], ["a", "m.a.b", "m.a", "m"]),
        (["/a/Relu", "/b/Relu", "/a_1/Relu"], ["a", "b", "a#1"]),
        (["/a/Relu", "/a_1/Relu", "/a_2/Relu"], ["a", "a#1", "a#2"]),
        (["/a_1/Relu", "/a_2/Relu"], ["a_1", "a_2"]),
        # A tensor and a module of the same name.
        (["/a/Relu", "/Relu", "/b/Relu"], ["a", "tensor:b", "b"]),
    ],
)
def test_names_of_nodes(names: Sequence[str], expected: Sequence[str]) -> None:
    assert [row.name for row in layers(chain(names))] == expected


def test_one_name_for_two_things_is_said() -> None:
    rows = layers(chain(["/a/Relu", "/b/Relu", "/a_1/Relu", "/b_1/Relu", "/a_1/Relu_1"]))
    row = next(row for row in rows if row.name == "a_1")
    assert row.tensor is None
    with pytest.raises(LayerNotFoundError, match="a later call of 'a' and a module of this name"):
        only(rows, "a_1")


def test_names_with_slashes_of_other_tools_are_not_modules() -> None:
    for names in (["m/a/Relu", "m/b/Relu"], ["/m/a", "/m/b"], ["/m/relu", "/m/relu_1"]):
        assert named(chain(names)) == {"a": "a", "b": "b"}
    # A single node does not make a file one of PyTorch's.
    assert named(chain(["/m/Relu", "x1", "x2"])) == {"a": "a", "b": "b", "c": "c"}


def test_calls_that_follow_each_other_are_told_apart_where_the_class_says_so() -> None:
    scopes = [["", "m", "r"], ["", "m", "r1"]]
    of_torch = [["N", "torch.nn.modules.activation.ReLU", "aten"]] * 2
    assert named(chain(scopes=scopes, classes=of_torch)) == {"m": "a", "m#1": "b"}
    own = [["N", "own.Twice", "aten"]] * 2
    assert named(chain(scopes=scopes, classes=own)) == {"a": "a", "m": "b"}


def test_layers_are_also_found_by_the_names_of_their_tensors() -> None:
    rows = layers(chain(["/m/m.0/Relu", "/m/m.1/Relu"]))
    assert only(rows, "b").name == "m.1"
    model = chain(scopes=[["", "m", "r"], ["", "n", "r"]])
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "0"
    assert parse_selector("0", layers(model)) == "0"
    assert only(layers(model), "0").name == "m"
    assert [row.name for row in select(layers(model), "[mn]")] == ["m", "n"]


@pytest.mark.parametrize("of_names", [False, True])
def test_nodes_that_another_tool_added_do_not_divide_a_call(of_names: bool) -> None:
    """Such as the pairs of QuantizeLinear and DequantizeLinear that a quantiser inserts."""
    scopes = [["", "m", "m.a", "r"], ["", "m", "m.b", "r"], ["", "r"]]
    names = ["/m/a/Relu", "/m/b/Relu", "/Relu"]
    model = chain(names) if of_names else chain(scopes=scopes)
    added = tiny.node("Abs", "a", "quantised", "quantise_a")
    model.graph.node[1].input[0] = "quantised"
    model.graph.node.insert(1, added)
    assert named(model) == {
        "m.a": "a",
        "quantised": "quantised",
        "m.b": "b",
        "m": "b",
        "c": "c",
    }


def test_weights_name_the_modules_that_have_no_node() -> None:
    node = tiny.node("Conv", "x conv.weight conv.bias", "a")
    node.metadata_props.add(key=SCOPES, value="['', 'bn', 'batch_norm']")
    node.metadata_props.add(key="pkg.onnxscript.rewriter.rule_name", value="Fuse")
    model = tiny.model(
        [node],
        [tiny.value("x", ["n", 1, 4, 4])],
        [tiny.value("a", None)],
        [tiny.weights("conv.weight", 1, 1, 1, 1), tiny.weights("conv.bias", 1)],
    )
    rows = layers(model)
    assert [(row.name, row.tensor) for row in rows] == [("conv", None), ("bn", "a")]
    with pytest.raises(LayerNotFoundError, match="no operator of its own for it, 'bn' reads"):
        only(rows, "conv")


@given(
    st.lists(
        st.one_of(
            st.text(max_size=12),
            st.lists(st.sampled_from(["", "m", "m.a", "m.a.b", "n", "m#1", "a'b"]), max_size=5).map(
                repr
            ),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_metadata_give_layers_with_different_names(scopes: Sequence[str]) -> None:
    rows = layers(chain(scopes=scopes))
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert {row.tensor for row in rows} >= set("abcdefgh"[: len(scopes)])
    known = {*names, "x"}
    assert all(known.issuperset(row.inbound) for row in rows)
    assert all(row.parent is None or row.parent in known for row in rows)


@given(
    st.lists(
        st.lists(st.sampled_from(["m", "m.a", "m_1", "m_1.a", "n", "m.a_1"]), max_size=4),
        min_size=1,
        max_size=8,
    )
)
def test_any_names_of_nodes_give_layers_with_different_names(parts: Sequence[list[str]]) -> None:
    rows = layers(chain(["/".join(["", *one, "Relu"]) for one in parts]))
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert all({*names, "x"}.issuperset(row.inbound) for row in rows)


def test_too_many_scopes_are_not_read() -> None:
    deep = ["", *(".".join(["m"] * depth) for depth in range(1, MOST_SCOPES + 2)), "r"]
    assert named(chain(scopes=[deep])) == {"a": "a"}
    names: Mapping[str, str | None] = named(chain(scopes=[deep[:8] + deep[-1:]]))
    assert set(names) == set(deep[1:8])
