"""Digests: equal for the same model in other bytes, different for another model."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import external_data_helper, numpy_helper

import layertap
from cards import verification_of
from generators import tiny
from layertap.cli import main
from layertap.errors import LayertapWarning, ModelFileError
from layertap.format.card import KEY, Card, LayerCheck, Verification
from layertap.format.digest import changed_parts, digest_of, nodes_checksum
from layertap.format.graph import read_graph
from layertap.format.source import BytesSource, FileSource
from layertap.format.wire import LEN, encode, fields

MODELS = (
    tiny.image_classifier,
    tiny.differentiable,
    tiny.looping,
    tiny.with_function,
    tiny.sparse,
    tiny.listed_weights,
    tiny.optional_input,
    tiny.quantised,
    tiny.odd_types,
    tiny.constant_outputs,
    tiny.branching,
)

Make = Callable[[], onnx.ModelProto]


def digest(made: onnx.ModelProto | bytes) -> tuple[str, str]:
    data = made if isinstance(made, bytes) else made.SerializeToString()
    found = digest_of(BytesSource(data))
    return found.graph, found.weights


def stamped(made: onnx.ModelProto) -> onnx.ModelProto:
    """The model, with its digest and an error that was measured in its card."""
    card = Card.from_json({item.key: item.value for item in made.metadata_props}[KEY])
    verification = Verification(
        tolerance=1e-4,
        batches=("2 x 4, seeded",),
        onnxruntime="1.32.0",
        layers={made.graph.output[0].name: LayerCheck(max_abs=1e-7, scaled=2.1e-7)},
    )
    found = digest_of(BytesSource(made.SerializeToString()), card)
    card = replace(card, digest=found, verification=verification)
    for item in made.metadata_props:
        if item.key == KEY:
            item.value = card.to_json()
    return made


# --- The same model in other bytes --------------------------------------------------------------


def resaved(made: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(made.SerializeToString())


def described(made: onnx.ModelProto) -> onnx.ModelProto:
    """Other metadata, names and doc strings."""
    made.metadata_props.add(key="owner", value="another program")
    made.producer_name, made.doc_string, made.graph.doc_string = "other", "text", "text"
    for index, item in enumerate(made.graph.node):
        item.name, item.doc_string = f"renamed {index}", "text"
    del made.graph.value_info[:]
    return made


def reordered(made: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes and weights in the opposite order."""
    for items in (made.graph.node, made.graph.initializer, made.opset_import):
        kept = [*items][::-1]
        del items[:]
        items.extend(kept)
    for node in made.graph.node:
        kept = [*node.attribute][::-1]
        del node.attribute[:]
        node.attribute.extend(kept)
    return made


def typed(made: onnx.ModelProto) -> onnx.ModelProto:
    """Values in `float_data`, `int64_data`, ... instead of `raw_data`, also in attributes."""
    tensors = [*made.graph.initializer]
    tensors += [item.t for node in made.graph.node for item in node.attribute if item.HasField("t")]
    for item in tensors:
        if item.HasField("raw_data"):
            array = numpy_helper.to_array(item)
            other = onnx.helper.make_tensor(
                item.name, item.data_type, item.dims, array.flatten().tolist()
            )
            item.CopyFrom(other)
    return made


def shuffled(made: onnx.ModelProto) -> bytes:
    """The fields of every node and attribute in the opposite order of their numbers."""

    def turned(data: bytes, inner: dict[int, Callable[[bytes], bytes]]) -> bytes:
        parts: dict[int, list[bytes]] = {}
        for number, wire, tag, at, stop in fields(data, 0, len(data)):
            part = data[tag:stop]
            if number in inner and wire == LEN:
                part = encode(number, inner[number](data[at:stop]))
            parts.setdefault(number, []).append(part)
        return b"".join(part for number in sorted(parts)[::-1] for part in parts[number])

    def attribute(data: bytes) -> bytes:
        return turned(data, {})

    def node(data: bytes) -> bytes:
        return turned(data, {5: attribute})

    def graph(data: bytes) -> bytes:
        return turned(data, {1: node})

    return turned(made.SerializeToString(), {7: graph})


def zeros_left_out(made: onnx.ModelProto) -> onnx.ModelProto:
    """Integers and floats that are 0 not stated, as writers of proto3 do."""
    for node in made.graph.node:
        for item in node.attribute:
            for field in ("i", "f"):
                if item.HasField(field) and not getattr(item, field):
                    item.ClearField(field)
    return made


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("change", [resaved, described, reordered, typed, shuffled, zeros_left_out])
def test_the_same_model_in_other_bytes_has_the_same_digest(
    make: Make, change: Callable[[onnx.ModelProto], onnx.ModelProto | bytes]
) -> None:
    assert digest(change(make())) == digest(make())


def test_weights_may_move_to_another_file(tmp_path: Path) -> None:
    made = tiny.image_classifier()
    expected = digest(made)
    external_data_helper.convert_model_to_external_data(
        made, location="weights.bin", size_threshold=0
    )
    onnx.save(made, tmp_path / "model.onnx")
    found = digest_of(FileSource(tmp_path / "model.onnx"))
    assert (found.graph, found.weights) == expected
    assert (tmp_path / "weights.bin").stat().st_size > 0

    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[5] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    found = digest_of(FileSource(tmp_path / "model.onnx"))
    assert found.graph == expected[0]
    assert found.weights != expected[1]
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFileError, match="is not there"):
        digest_of(FileSource(tmp_path / "model.onnx"))


# --- Another model ------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_weights_are_not_in_memory_all_at_once(tmp_path: Path) -> None:
    """A mapped page counts as memory of the process once it was read."""
    size = 96 << 20
    path = tmp_path / "large.onnx"
    path.write_bytes(tiny.residual().SerializeToString())
    weight = encode(
        5, encode(1, size // 4) + encode(2, 1) + encode(8, "w") + encode(9, bytes(size))
    )
    with path.open("ab") as file:
        file.write(encode(7, weight))
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0])
    digest_of(FileSource(path))
    peak = int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0])
    assert (peak - before) << 10 < 0.6 * size


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_one_bit_of_any_weight_changes_the_digest_of_the_weights(make: Make) -> None:
    graph, weights = digest(make())
    for index, item in enumerate(make().graph.initializer):
        if not item.raw_data:
            continue
        made = make()
        data = bytearray(item.raw_data)
        data[-1] ^= 1
        made.graph.initializer[index].raw_data = bytes(data)
        assert digest(made)[0] == graph
        assert digest(made)[1] != weights


def _operator(node: onnx.NodeProto) -> None:
    node.op_type = "Erf"


def _domain(node: onnx.NodeProto) -> None:
    node.domain = "com.microsoft"


def _read(node: onnx.NodeProto) -> None:
    node.input.append("another")


def _write(node: onnx.NodeProto) -> None:
    node.output.append("another")


def _swap(node: onnx.NodeProto) -> None:
    kept = [*node.input][::-1]
    del node.input[:]
    node.input.extend(kept or ["another"])
    if len(kept) == 1:
        node.input.append("")


def _attribute(node: onnx.NodeProto) -> None:
    node.attribute.append(onnx.helper.make_attribute("alpha", 0.5))


def _attributes(node: onnx.NodeProto) -> None:
    for item in node.attribute:
        if item.ints:
            item.ints[-1] += 1
        elif item.HasField("f"):
            item.f += 1
        elif item.HasField("i"):
            item.i += 1
        elif item.HasField("t") and item.t.raw_data:
            item.t.raw_data = bytes([item.t.raw_data[0] ^ 1]) + item.t.raw_data[1:]
        elif item.HasField("g"):
            item.g.node[0].op_type = "Erf"
        else:
            continue
        return
    _operator(node)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "change", [_operator, _domain, _read, _write, _swap, _attribute, _attributes]
)
def test_a_change_of_any_node_changes_the_digest_of_the_graph(
    make: Make, change: Callable[[onnx.NodeProto], None]
) -> None:
    graph, weights = digest(make())
    for index in range(len(make().graph.node)):
        made = make()
        change(made.graph.node[index])
        if made.graph.node[index] != make().graph.node[index]:
            assert digest(made) != (graph, weights)
            assert digest(made)[1] == weights


def test_the_version_of_the_operators_and_functions_belong_to_the_graph() -> None:
    made = tiny.with_function()
    before = digest(made)[0]
    made.opset_import[0].version += 1
    assert digest(made)[0] != before
    made = tiny.with_function()
    made.functions[0].node[0].op_type = "Erf"
    assert digest(made)[0] != before


def test_the_checksum_is_that_of_the_bytes_of_the_nodes() -> None:
    import zlib

    data = tiny.image_classifier().SerializeToString()
    graph = read_graph(data)
    nodes = b"".join(data[slice(*node.span)] for node in graph.nodes)
    assert nodes_checksum(data, graph) == f"{zlib.crc32(nodes):08x}"


# --- What is said about it ----------------------------------------------------------------------


def saved(made: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> str:
    return str(tiny.save(made, folder / name))


def zeroed(made: onnx.ModelProto) -> onnx.ModelProto:
    item = made.graph.initializer[0]
    item.raw_data = bytes(len(item.raw_data))
    return made


def rewired(made: onnx.ModelProto) -> onnx.ModelProto:
    next(node for node in made.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
    return made


def test_an_unchanged_file_is_opened_and_described_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = stamped(tiny.image_classifier())
    for name, one in {"a.onnx": made, "b.onnx": described(reordered(resaved(made)))}.items():
        file = saved(one, tmp_path, name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            layertap.open(file)
        assert main(["info", file]) == 0
        assert "changed" not in capsys.readouterr().out


def test_open_warns_of_another_graph(tmp_path: Path) -> None:
    file = saved(rewired(stamped(tiny.image_classifier())), tmp_path)
    with pytest.warns(LayertapWarning) as caught:
        layertap.open(file)
    assert [str(item.message) for item in caught] == [
        f"{file!r}: the graph is not the one that was verified. What its card says about accuracy "
        "is about the file before that. `layertap check` compares its results with those of Keras."
    ]
    assert caught[0].filename == __file__
    with pytest.warns(LayertapWarning, match="the graph is not"):
        layertap.open(Path(file).read_bytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (zeroed, "the weights are not those that were verified"),
        (rewired, "the graph is not the one that was verified"),
        (lambda made: zeroed(rewired(made)), "the graph and the weights are not those that were"),
    ],
)
def test_info_says_what_was_changed(
    change: Callable[[onnx.ModelProto], onnx.ModelProto],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = saved(change(stamped(tiny.image_classifier())), tmp_path)
    assert main(["info", file]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^changed +{words}", out, re.MULTILINE)
    assert re.search(r"largest scaled error 2.1e-07 .* \(before it was changed\)$", out, re.M)


def test_info_of_a_file_whose_weights_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = stamped(tiny.image_classifier())
    external_data_helper.convert_model_to_external_data(
        made, location="weights.bin", size_threshold=0
    )
    onnx.save(made, tmp_path / "model.onnx")
    (tmp_path / "weights.bin").unlink()
    assert main(["info", str(tmp_path / "model.onnx")]) == 0
    assert re.search(r"^not compared +.*weights.bin", capsys.readouterr().out, re.MULTILINE)


def test_a_part_has_a_digest_of_its_own_and_names_the_whole(tmp_path: Path) -> None:
    file = saved(stamped(tiny.image_classifier()), tmp_path)
    layertap.open(file).cut(tmp_path / "part.onnx", end="probs")
    card = layertap.open(tmp_path / "part.onnx").card
    assert card is not None
    assert card.digest == digest_of(FileSource(tmp_path / "part.onnx"), card)
    assert card.made_from is not None
    whole = digest_of(FileSource(file))
    assert (card.made_from.graph, card.made_from.weights) == (whole.graph, whole.weights)
    assert (card.made_from.step, card.made_from.file) == ("cut", "model.onnx")
    assert verification_of(card).worst == "probs"
    assert card.notes is None


@pytest.mark.parametrize("change", [zeroed, rewired])
@pytest.mark.filterwarnings("ignore::layertap.LayertapWarning")
def test_a_part_of_a_changed_file_does_not_claim_to_be_verified(
    change: Callable[[onnx.ModelProto], onnx.ModelProto],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = saved(change(stamped(tiny.image_classifier())), tmp_path)
    model = layertap.open(file)
    with pytest.warns(LayertapWarning, match="does not repeat the errors"):
        model.cut(tmp_path / "part.onnx", end="probs")
    card = layertap.open(tmp_path / "part.onnx").card
    assert card is not None
    assert card.verification is None
    assert card.notes is not None
    assert "verified" in card.notes[0]
    assert main(["info", str(tmp_path / "part.onnx")]) == 0
    out = capsys.readouterr().out
    assert "2.1e-07" not in out
    assert re.search(r"^made from +part of model.onnx", out, re.MULTILINE)


def test_changed_parts_are_compared_separately() -> None:
    made = tiny.image_classifier()
    before = digest_of(BytesSource(made.SerializeToString()))
    assert changed_parts(before, before) == ()
    after = digest_of(BytesSource(zeroed(made).SerializeToString()))
    assert changed_parts(before, after) == ("weights",)
    assert before.graph == after.graph


# --- The card -----------------------------------------------------------------------------------


def recarded(made: onnx.ModelProto, change: Callable[[dict[str, Any]], object]) -> onnx.ModelProto:
    """The model with a card that another program has changed."""
    (item,) = (item for item in made.metadata_props if item.key == KEY)
    card = json.loads(item.value)
    change(card)
    item.value = json.dumps(card)
    return made


CHANGES: Mapping[str, Callable[[dict[str, Any]], object]] = {
    "labels in another order": lambda card: card["labels"].reverse(),
    "labels left out": lambda card: card.pop("labels"),
    "another recipe": lambda card: card["preprocessing"].update(interpolation="bilinear"),
    "no recipe": lambda card: card.pop("preprocessing"),
    "the axes of the input": lambda card: card["inputs"][0].update(axes="NCHW"),
    "the axes of a layer": lambda card: card["layers"][1].update(axes="NCHW"),
    "another tensor": lambda card: card["layers"][1].update(tensor=card["layers"][2]["tensor"]),
    "layers in another order": lambda card: card["layers"].reverse(),
}


def carded() -> onnx.ModelProto:
    labelled = {"labels": ["cat", "dog"], "preprocessing": {"size": [8, 6]}}
    return stamped(recarded(tiny.image_classifier(), lambda card: card.update(labelled)))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_info_says_that_the_card_was_changed(
    change: Callable[[dict[str, Any]], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", saved(carded(), tmp_path)]) == 0
    assert "changed" not in capsys.readouterr().out
    assert main(["info", saved(recarded(carded(), change), tmp_path)]) == 0
    text = "the labels, the preprocessing or the axes in the card are not those that were verified"
    assert re.search(f"^changed +{text}; see", capsys.readouterr().out, re.MULTILINE)


def test_what_a_card_measured_is_not_part_of_its_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor what an older file does not state, or a newer version adds."""
    more = {"notes": ["a note"], "later": {"key": 1}}
    assert main(["info", saved(recarded(carded(), lambda card: card.update(more)), tmp_path)]) == 0
    old = recarded(carded(), lambda card: (card["digest"].pop("card"), card.pop("labels")))
    assert main(["info", saved(old, tmp_path)]) == 0
    assert "changed" not in capsys.readouterr().out


def test_a_part_keeps_the_errors_if_only_labels_were_changed(tmp_path: Path) -> None:
    file = saved(recarded(carded(), lambda card: card["labels"].reverse()), tmp_path)
    layertap.open(file).cut(tmp_path / "part.onnx", end="probs")
    card = layertap.open(tmp_path / "part.onnx").card
    assert card is not None
    assert verification_of(card).layers
    assert card.digest == digest_of(FileSource(tmp_path / "part.onnx"), card)
