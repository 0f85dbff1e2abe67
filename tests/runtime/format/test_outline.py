"""The layers of a card, without the graph."""

from __future__ import annotations

import json
from collections.abc import Callable

import onnx
import pytest
from onnx import helper

from generators import tiny
from layertap.errors import CardVersionError, LayertapError, ModelFileError
from layertap.format.card import KEY
from layertap.format.index import read_index, read_outline
from layertap.format.source import BytesSource


def source(model: onnx.ModelProto) -> BytesSource:
    return BytesSource(model.SerializeToString())


@pytest.mark.parametrize("make", [tiny.linear_chain, tiny.image_classifier, tiny.two_inputs])
def test_the_layers_are_those_of_the_index(make: Callable[[], onnx.ModelProto]) -> None:
    assert read_outline(source(make())) == read_index(source(make())).layers


def test_a_file_without_a_card_has_no_outline() -> None:
    made = tiny.residual()
    assert read_outline(source(made)) is None
    helper.set_model_props(made, {"other": "{}"})
    assert read_outline(source(made)) is None


def test_the_graph_is_not_looked_at() -> None:
    made = tiny.linear_chain()
    made.graph.node[0].ClearField("output")
    data = bytearray(made.SerializeToString())
    name = data.index(b"a/product")
    data[name : name + 9] = b"\xff" * 9  # no name in UTF-8
    with pytest.raises(ModelFileError, match="is not UTF-8"):
        read_index(BytesSource(bytes(data)))
    assert read_outline(BytesSource(bytes(data))) == read_index(source(tiny.linear_chain())).layers


def change(model: onnx.ModelProto, card: str) -> BytesSource:
    (prop,) = (item for item in model.metadata_props if item.key == KEY)
    prop.value = card
    return source(model)


def no_layers(card: dict[str, object]) -> str:
    del card["layers"]
    return json.dumps(card)


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda card: "{", ModelFileError),
        (lambda card: json.dumps({**card, "format": "2.0"}), CardVersionError),
        (lambda card: json.dumps({**card, "layers": [{"name": "x"}]}), ModelFileError),
        (lambda card: json.dumps({**card, "layers": {}}), ModelFileError),
        (lambda card: "[" * 100_000, ModelFileError),
    ],
)
def test_a_damaged_card_is_refused_as_by_the_index(
    edit: Callable[[dict[str, object]], str], error: type[LayertapError]
) -> None:
    made = tiny.linear_chain()
    text = next(item.value for item in made.metadata_props if item.key == KEY)
    damaged = change(made, edit(json.loads(text)))
    with pytest.raises(error) as outline:
        read_outline(damaged)
    with pytest.raises(error) as index:
        read_index(damaged)
    assert str(outline.value) == str(index.value)


def test_a_card_without_layers_is_damaged() -> None:
    made = tiny.linear_chain()
    text = next(item.value for item in made.metadata_props if item.key == KEY)
    with pytest.raises(ModelFileError, match=r"damaged layertap card \(Card has no 'layers'\)"):
        read_outline(change(made, no_layers(json.loads(text))))


@pytest.mark.parametrize(
    "data", [b"<html>", b"\x08\x08", b"\x3a\x05\x0a", tiny.linear_chain().SerializeToString()[:-9]]
)
def test_what_is_no_model_is_refused_as_by_the_index(data: bytes) -> None:
    with pytest.raises(ModelFileError) as outline:
        read_outline(BytesSource(data))
    with pytest.raises(ModelFileError) as index:
        read_index(BytesSource(data))
    assert str(outline.value) == str(index.value)
