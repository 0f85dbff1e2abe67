"""What a file says about itself."""

from __future__ import annotations

import json
from collections.abc import Callable

import onnx
import pytest
from onnx import helper

from generators import tiny
from layertap.errors import ModelFileError
from layertap.format.card import KEY
from layertap.format.index import Index, read_card, read_index
from layertap.format.source import BytesSource


def read(model: onnx.ModelProto) -> Index:
    return read_index(BytesSource(model.SerializeToString()))


def test_a_file_with_a_card_is_what_the_card_says() -> None:
    index = read(tiny.image_classifier())
    assert index.card is not None
    assert index.layers == index.card.layers
    assert [layer.name for layer in index.layers][:3] == ["image", "conv", "relu"]
    assert (index.inputs, index.outputs) == (index.card.inputs, index.card.outputs)
    assert index.metadata == {"author": "tests"}


def test_without_a_card_tensors_are_layers() -> None:
    model = tiny.residual()
    model.graph.value_info.append(tiny.value("c", ["n", 3]))
    index = read(model)
    assert index.card is None
    rows = [(r.name, r.type, r.shape, r.dtype, r.parameters, r.inbound) for r in index.layers]
    assert rows == [
        ("a", "MatMul", (), "", 9, ("x",)),
        ("b", "Relu", (), "", 0, ("a",)),
        ("c", "MatMul", (None, 3), "float32", 9, ("b",)),
        ("d", "Add", (), "", 0, ("a", "c")),
        ("y", "Add", (None, 3), "float32", 0, ("d", "b")),
    ]
    assert [row.index for row in index.layers] == list(range(5))
    assert all(row.tensor == row.name for row in index.layers)
    assert [(i.name, i.shape, i.dtype) for i in index.inputs] == [("x", (None, 3), "float32")]
    assert [(o.name, o.shape, o.dtype) for o in index.outputs] == [("y", (None, 3), "float32")]


def test_every_tensor_of_a_node_is_a_layer_and_its_weights_count_once() -> None:
    made = tiny.model(
        [tiny.node("BatchNormalization", "x s b m v", "y mean var", training_mode=1)],
        [tiny.value("x", ["n", 3])],
        [tiny.value("y", ["n", 3])],
        [tiny.weights(name, 3) for name in "sbmv"],
    )
    assert [(row.name, row.parameters) for row in read(made).layers] == [
        ("y", 12),
        ("mean", 0),
        ("var", 0),
    ]


def test_tensors_of_subgraphs_are_not_offered() -> None:
    layers = {row.name: row for row in read(tiny.branching()).layers}
    assert list(layers) == ["a", "b", "unused", "flag", "flag2", "y", "z"]
    assert layers["y"].inbound == ("flag", "b", "a", "flag2", "x")
    assert layers["y"].parameters == 3


def test_shapes_and_the_like_are_no_parameters() -> None:
    layers = {row.name: row.parameters for row in read(tiny.odd_types()).layers}
    assert layers == {"picked": 8, "twice": 0, "positive": 1, "pair": 0, "length": 0}


def test_a_layer_of_unknown_type_has_no_size() -> None:
    assert [row.nbytes() for row in read(tiny.residual()).layers] == [None] * 4 + [12]


Change = Callable[[dict[str, object]], object]


def with_card(change: Change) -> onnx.ModelProto:
    model = tiny.linear_chain()
    for item in model.metadata_props:
        if item.key == KEY:
            data = json.loads(item.value)
            change(data)
            item.value = json.dumps(data)
    return model


def test_a_newer_minor_card_is_read() -> None:
    index = read(with_card(lambda data: data.update(format="1.9", novelty=[1])))
    assert index.card is not None
    assert index.card.extra == {"novelty": [1]}


# --- The card, without the graph ----------------------------------------------------------------


def source(model: onnx.ModelProto) -> BytesSource:
    return BytesSource(model.SerializeToString())


@pytest.mark.parametrize("make", [tiny.linear_chain, tiny.image_classifier, tiny.two_inputs])
def test_read_card_returns_the_card_of_the_index(make: Callable[[], onnx.ModelProto]) -> None:
    assert read_card(source(make())) == read_index(source(make())).card


def test_read_card_states_the_dtypes_of_the_graph() -> None:
    """A converter to float16 changes those of the graph."""
    made = tiny.image_classifier()
    for value in (*made.graph.input, *made.graph.output, *made.graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    card = read_card(source(made))
    assert card is not None
    assert card == read_index(source(made)).card
    assert {layer.dtype for layer in card.layers if layer.exposed} == {"float16"}


def test_read_card_returns_none_for_a_file_without_a_card() -> None:
    made = tiny.residual()
    assert read_card(source(made)) is None
    helper.set_model_props(made, {"other": "{}"})
    assert read_card(source(made)) is None


def test_read_card_does_not_read_the_graph() -> None:
    made = tiny.linear_chain()
    made.graph.node[0].ClearField("output")
    data = bytearray(made.SerializeToString())
    name = data.index(b"a/product")
    data[name : name + 9] = b"\xff" * 9  # invalid UTF-8
    with pytest.raises(ModelFileError, match="is not UTF-8"):
        read_index(BytesSource(bytes(data)))
    assert read_card(BytesSource(bytes(data))) == read_card(source(tiny.linear_chain()))
