"""A part of a model as a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from PIL import Image

import layertap
import reference
from generators import tiny
from generators.random_graphs import chains
from generators.tiny import images
from layertap._engine.program import program_of
from layertap.cli import main
from layertap.format.card import (
    KEY,
    Card,
    Golden,
    GoldenInput,
    GoldenLayer,
    LayerCheck,
    Verification,
)

TinyFile = Callable[[str], Path]


def stock(path: Path, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    """What onnxruntime alone makes of a file, as it stands in it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def valid(path: Path) -> onnx.ModelProto:
    made = onnx.load(path)
    onnx.checker.check_model(made, full_check=True)
    return made


@pytest.mark.parametrize("layer", ["conv", "relu", "drop", "pool"])
def test_head_then_tail_is_the_whole(tiny_file: TinyFile, tmp_path: Path, layer: str) -> None:
    """For layertap and for stock onnxruntime; what one part passes on has its Keras shape."""
    whole = layertap.open(tiny_file("image_classifier"), reproducible=True)
    head, tail = tmp_path / "head.onnx", tmp_path / "tail.onnx"
    whole.cut(head, end=layer)
    whole.cut(tail, start=layer)
    x = images()
    wanted, between = whole.predict(x), whole.activations(x, layer)

    first = layertap.open(head, reproducible=True)
    second = layertap.open(tail, reproducible=True)
    np.testing.assert_array_equal(first.predict(x), between, strict=True)
    np.testing.assert_array_equal(second.predict(between), wanted, strict=True)
    np.testing.assert_array_equal(second.predict({layer: first.predict(x)}), wanted)

    handed_on = stock(head, {"image": x})
    assert list(handed_on) == [layer]
    found = stock(tail, handed_on)
    assert list(found) == ["probs"]
    np.testing.assert_array_equal(found["probs"], wanted, strict=True)
    for path in (head, tail):
        valid(path)


def test_a_part_has_nothing_too_much(tiny_file: TinyFile, tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    layertap.open(tiny_file("image_classifier")).cut(path, start="conv", end="pool")
    made = valid(path)
    assert [node.op_type for node in made.graph.node] == [
        "Transpose", "Relu", "GlobalAveragePool", "Flatten",
    ]  # fmt: skip
    assert not made.graph.initializer
    assert list(made.graph.input) == [tiny.value("conv", ["batch", 8, 6, 4])]
    assert list(made.graph.output) == [tiny.value("pool", ["batch", 4])]


def test_the_card_of_a_head(tiny_file: TinyFile, tmp_path: Path) -> None:
    path = tmp_path / "head.onnx"
    whole = layertap.open(tiny_file("image_classifier"))
    whole.cut(path, end=["relu"])
    model = layertap.open(path)
    assert model.preprocessing == whole.preprocessing
    assert model.labels is None
    assert model.metadata == {"author": "tests"}
    assert model.card is not None
    assert whole.card is not None
    assert model.card.source == whole.card.source
    assert [(i.name, i.shape, i.dtype) for i in model.inputs] == [
        ("image", (None, 8, 6, 3), "float32")
    ]
    assert [(o.name, o.shape, o.dtype) for o in model.outputs] == [
        ("relu", (None, 8, 6, 4), "float32")
    ]
    assert [(row.index, row.name, row.exposed, row.inbound) for row in model.layers] == [
        (0, "image", True, ()),
        (1, "conv", False, ("image",)),
        (2, "relu", True, ("conv",)),
        (3, "drop", False, ("relu",)),
    ]
    pixels = np.zeros((8, 6, 3), np.uint8)
    np.testing.assert_allclose(model.predict(pixels), whole.activations(pixels, "relu"), rtol=1e-6)
    with pytest.raises(layertap.LayerNotFoundError, match="this file does not expose it"):
        model.activations(pixels, "conv")


def test_a_part_that_reads_images_says_what_read_them(tmp_path: Path) -> None:
    made = tiny.image_classifier()
    (entry,) = (item for item in made.metadata_props if item.key == KEY)
    versions = {"pillow": "13.0.0"}
    entry.value = replace(Card.from_json(entry.value), images=versions).to_json()
    whole = layertap.open(made.SerializeToString())
    whole.cut(tmp_path / "head.onnx", end=["relu"])
    whole.cut(tmp_path / "tail.onnx", start="conv")
    cards = [layertap.open(tmp_path / name).card for name in ("head.onnx", "tail.onnx")]
    assert [card.images if card else {} for card in cards] == [versions, None]


def test_the_card_of_a_tail(tiny_file: TinyFile, tmp_path: Path) -> None:
    path = tmp_path / "tail.onnx"
    layertap.open(tiny_file("image_classifier")).cut(path, start="conv")
    model = layertap.open(path)
    assert model.preprocessing is None
    assert model.labels == ("cat", "dog")
    assert [(row.name, row.type, row.parameters, row.inbound) for row in model.layers] == [
        ("conv", "InputLayer", 0, ()),
        ("relu", "ReLU", 0, ("conv",)),
        ("drop", "Dropout", 0, ("relu",)),
        ("pool", "GlobalAveragePooling2D", 0, ("drop",)),
        ("hidden", "Dropout", 0, ("pool",)),
        ("probs", "Dense", 8, ("hidden",)),
    ]
    assert [row.index for row in model.layers] == [0, 1, 2, 3, 4, 5]
    assert [row.name for row in model.layers if row.exposed] == ["conv", "probs"]
    conv = np.ones((1, 8, 6, 4), np.float32)
    assert model.activations(conv, ["conv", "probs"])["probs"].shape == (1, 2)


@pytest.mark.parametrize(
    ("start", "end"),
    [("image", None), (None, "relu"), (None, ["conv", "pool"]), ("conv", None), (["relu"], "pool")],
)
def test_the_card_names_only_what_the_file_gives_out(
    tiny_file: TinyFile, tmp_path: Path, start: Any, end: Any
) -> None:
    """A client asks onnxruntime for the tensors that the card names."""
    path = tmp_path / "part.onnx"
    layertap.open(tiny_file("image_classifier")).cut(path, start, end)
    made, card = onnx.load(path), layertap.open(path).card
    assert card is not None
    inputs = {item.name for item in made.graph.input}
    outputs = {item.name for item in made.graph.output}
    assert {row.tensor for row in card.layers if row.tensor} <= inputs | outputs
    assert {info.name for info in card.inputs} == inputs
    assert {info.name for info in card.outputs} == outputs
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {x.name: np.ones([1, *x.shape[1:]], np.float32) for x in session.get_inputs()}
    for row in card.layers:
        if row.tensor and row.tensor not in inputs:
            (found,) = session.run([row.tensor], feeds)
            assert found.shape[1:] == row.shape[1:]


def unranked() -> onnx.ModelProto:
    """x (n, 6) -> Reshape to a computed shape -> elu -> times the number of its rows."""
    nodes = [
        tiny.node("Shape", "x", "sizes"),
        tiny.node("Slice", "sizes zero to", "some"),
        tiny.node("Reshape", "x some", "reshaped"),
        tiny.node("Elu", "reshaped", "elu"),
        tiny.node("Shape", "elu", "shape"),
        tiny.node("Gather", "shape first", "rows"),
        tiny.node("Cast", "rows", "count", to=1),
        tiny.node("Mul", "elu count", "y"),
    ]
    return tiny.model(
        nodes,
        [tiny.value("x", ["n", 6]), tiny.value("to", [1], 7)],
        [tiny.value("y", None)],
        [tiny.constant("zero", [0]), tiny.constant("first", 0)],
    )


def test_a_tensor_of_unknown_rank_has_no_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = layertap.open(tiny.save(unranked(), tmp_path / "whole.onnx"))
    feeds = {"x": np.arange(12, dtype=np.float32).reshape(2, 6), "to": np.array([2])}
    values = whole.activations(feeds, ["reshaped", "y"])
    path = tmp_path / "tail.onnx"
    assert main(["cut", str(tmp_path / "whole.onnx"), "--from", "reshaped", "-o", str(path)]) == 0
    assert capsys.readouterr().err.endswith("MB): reshaped ? -> y ?\n")
    for item in [*onnx.load(path).graph.input, *onnx.load(path).graph.output]:
        assert not item.type.tensor_type.HasField("shape"), item.name
    tail = layertap.open(path)
    np.testing.assert_array_equal(tail.predict(values["reshaped"]), values["y"])


def with_evidence() -> layertap.Model:
    made = tiny.linear_chain()
    card = Card.from_json(made.metadata_props[0].value)
    names = ("a", "b", "c")
    card = replace(
        card,
        verification=Verification(
            tolerance=1e-4,
            batches=("2 x 4",),
            onnxruntime="1.0",
            layers={name: LayerCheck(max_abs=0.0, scaled=0.0) for name in names},
        ),
        golden=Golden(
            seed=1,
            inputs=(GoldenInput(name="x", shape=(1, 4), low=0.0, high=1.0),),
            layers={
                n: GoldenLayer(shape=(1, 5), norm=1.0, scale=1.0, values=(1.0,)) for n in names
            },
        ),
    )
    onnx.helper.set_model_props(made, {KEY: card.to_json()})
    return layertap.open(made.SerializeToString())


def test_a_layer_whose_parent_is_elsewhere_has_none(tiny_file: TinyFile, tmp_path: Path) -> None:
    whole = layertap.open(tiny_file("frames"))
    for end, expected in (("td/relu", None), ("td", "td")):
        whole.cut(tmp_path / "part.onnx", end=[end])
        rows = {layer.name: layer for layer in layertap.open(tmp_path / "part.onnx").layers}
        assert ("td" in rows) == (expected is not None)
        assert rows["td/relu"].parent == expected


def test_evidence_is_kept_for_what_is_still_there(tmp_path: Path) -> None:
    whole = with_evidence()
    whole.cut(tmp_path / "head.onnx", end=["a", "b"])
    head = layertap.open(tmp_path / "head.onnx").card
    assert head is not None
    assert head.verification is not None
    assert list(head.verification.layers) == ["a", "b"]
    assert head.golden is not None
    assert list(head.golden.layers) == ["a", "b"]
    whole.cut(tmp_path / "tail.onnx", start="a")
    tail = layertap.open(tmp_path / "tail.onnx").card
    assert tail is not None
    assert tail.verification is not None
    assert list(tail.verification.layers) == ["c"]
    assert tail.golden is None  # its sample is one of the model's own inputs


def test_types_that_the_file_does_not_state_are_inferred(
    tiny_file: TinyFile, tmp_path: Path
) -> None:
    path = tmp_path / "part.onnx"
    layertap.open(tiny_file("residual")).cut(path, start="b", end="c")
    assert list(valid(path).graph.input) == [tiny.value("b", ["n", 3])]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (["a", "b"], "c", "no end of the part depends on 'a'."),
        ("c", "c", "'c' is both start and end of the part."),
    ],
)
def test_what_cannot_be_cut(
    tiny_file: TinyFile, tmp_path: Path, start: Any, end: str, message: str
) -> None:
    with pytest.raises(layertap.LayertapError) as caught:
        layertap.open(tiny_file("residual")).cut(tmp_path / "part.onnx", start, end)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_the_cut_command_writes_a_part(
    tiny_file: TinyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "part.onnx"
    source = str(tiny_file("two_inputs"))
    code = main(["cut", source, "--from", "seen", "1", "--to", "sum", "-o", str(path)])
    said = capsys.readouterr()
    assert (code, said.out) == (0, "")
    assert said.err == (
        f"wrote {path} (0.0 MB): vector (None, 5), seen (None, 5) -> sum (None, 5)\n"
    )
    assert main(["cut", source, "--from", "seen", "-o", str(path)]) == 2
    assert capsys.readouterr().err == (
        "layertap: the requested layers cannot be computed from 'seen' alone: input 'vector' is "
        "missing. Give it as well.\n"
    )
    assert [info.name for info in layertap.open(path).outputs] == ["sum"]  # as it was


@settings(max_examples=60, deadline=None)
@given(chains())
def test_any_part_of_any_graph(case: tuple[onnx.ModelProto, list[str]]) -> None:
    """From x and some tensors to all others."""
    made, starts = case
    model = layertap.open(made.SerializeToString(), reproducible=True)
    names = [name for node in made.graph.node for name in node.output if name not in starts]
    sources = {leaf.source for leaf in program_of(model).plan(starts).leaves.values()}
    if not names or len(sources) < len(starts) or "x" in sources:
        return
    from layertap._engine.part_file import write_part
    from layertap.format.data_file import DataFile

    x = tiny.feeds(made)["x"]
    given_ = {name: np.full((3, 3), index, np.float32) for index, name in enumerate(starts)}
    wanted = model.resume({**given_, "x": x}, names)
    plan = program_of(model).plan(names, tuple(starts))
    read = [n for n in starts if plan.given[n].source in {*plan.starts, *plan.fed}]
    infos = [model.inputs[0]] if "x" in plan.needs else []
    if not read:
        return
    unused = DataFile(Path("part.onnx"))
    part, _ = write_part(
        program_of(model), [*map(model.layer, read), *infos], model.select(names), unused
    )
    feeds = {**{name: given_[name] for name in read}, **({"x": x} if infos else {})}
    loaded = onnx.ModelProto.FromString(part)
    assert [item.name for item in loaded.graph.output] == names
    session = reference.session(part)
    for name, value in zip(names, session.run(names, feeds), strict=True):
        reference.same(value, wanted[name])


# --- Gradients ----------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path: Path) -> layertap.Model:
    return layertap.open(tiny.save(tiny.differentiable(), tmp_path / "whole.onnx"))


def test_a_part_has_the_gradients_that_it_ends_with(whole: layertap.Model, tmp_path: Path) -> None:
    whole.cut(tmp_path / "part.onnx", end=["probs", "last", "grad/last"])
    made = valid(tmp_path / "part.onnx")
    assert [item.name for item in made.graph.output] == ["probs", "last", "grad/last"]
    assert [item.name for item in made.graph.input] == ["image", "score_weights"]
    model = layertap.open(tmp_path / "part.onnx")
    assert model.card is not None
    assert whole.card is not None
    assert whole.card.gradients is not None
    assert model.card.gradients == replace(
        whole.card.gradients, tensors={"last": "grad/last"}, class_input="optional"
    )
    assert [info.name for info in model.inputs] == ["image"]
    assert [info.name for info in model.outputs] == ["probs", "last"]
    assert model.labels == whole.labels
    for target in ("dog", "top", ["cat", "top"]):
        np.testing.assert_allclose(
            model.cam(images(), target=target), whole.cam(images(), target=target), atol=1e-5
        )


def test_the_gradients_of_a_tail(whole: layertap.Model, tmp_path: Path) -> None:
    """Also with respect to the layer that it starts from."""
    ends = ["probs", "last", "grad/last", "grad/conv"]
    whole.cut(tmp_path / "tail.onnx", start="conv", end=ends)
    valid(tmp_path / "tail.onnx")
    tail = layertap.open(tmp_path / "tail.onnx")
    conv = whole.activations(images(), "conv")
    for layer in ("last", "conv"):
        for target in ("dog", ["cat", "top"]):
            np.testing.assert_allclose(
                tail.gradients(conv, layer, target),
                whole.gradients(images(), layer, target),
                atol=1e-6,
            )
    np.testing.assert_allclose(tail.cam(conv), whole.cam(images()), atol=1e-5)


def test_gradients_without_their_score_are_warned_of(whole: layertap.Model, tmp_path: Path) -> None:
    with pytest.warns(layertap.LayertapWarning) as caught:
        whole.cut(tmp_path / "part.onnx", end=["last", "grad/last"])
    assert str(caught[0].message) == (
        "the part has the gradient 'grad/last', but not the output 'probs' with the scores that it "
        "is the gradient of, so `gradients` and `cam` cannot use it. Name that output as an end of "
        "the part as well."
    )
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("ignore:the part has the gradient")
@pytest.mark.parametrize("end", [["probs"], ["probs", "last"], ["last", "grad/last"]])
def test_a_part_that_gives_none(whole: layertap.Model, tmp_path: Path, end: list[str]) -> None:
    """Nor one that lacks the output that they are of."""
    whole.cut(tmp_path / "part.onnx", end=end)
    made = valid(tmp_path / "part.onnx")
    gradients = [item.name for item in made.graph.output if item.name.startswith("grad/")]
    assert gradients == [name for name in end if name.startswith("grad/")]
    assert ("score_weights" in [item.name for item in made.graph.input]) == bool(gradients)
    model = layertap.open(tmp_path / "part.onnx")
    assert model.card is not None
    assert model.card.gradients is None


def test_what_run_writes_goes_into_the_next_part(
    tiny_file: TinyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(tiny_file("image_classifier"))
    head, tail = str(tmp_path / "head.onnx"), str(tmp_path / "tail.onnx")
    Image.fromarray(np.full((8, 6, 3), 99, np.uint8)).save(tmp_path / "a.png")
    main(["cut", source, "--to", "relu", "-o", head])
    main(["cut", source, "--from", "relu", "-o", tail])
    between = str(tmp_path / "between.npz")
    assert main(["run", head, str(tmp_path / "a.png"), "-o", between]) == 0
    capsys.readouterr()
    assert main(["run", tail, between]) == 0
    parts = capsys.readouterr().out.partition(": ")[2]
    assert main(["run", source, str(tmp_path / "a.png")]) == 0
    assert parts == capsys.readouterr().out.partition(": ")[2]
    assert parts.startswith(("cat ", "dog "))


def test_a_part_too_large_for_one_file_keeps_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of less than a kilobyte stay inside."""
    made = tiny.model(
        [tiny.node("MatMul", "x w", "a"), tiny.node("Add", "a b", "c"), tiny.node("Neg", "c", "y")],
        [tiny.value("x", ["n", 32])],
        [tiny.value("y", ["n", 32])],
        [tiny.weights("w", 32, 32), tiny.weights("b", 32)],
    )
    source, part = tmp_path / "whole.onnx", tmp_path / "parts" / "part.onnx"
    part.parent.mkdir()
    onnx.save(made, source, save_as_external_data=True, location="whole.data", size_threshold=0)
    x = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    expected = layertap.open(source).activations(x, "c")
    monkeypatch.setattr("layertap._engine.part_file.INLINE_BYTES", 4096 + 128)
    layertap.open(source).cut(part, end="c")
    assert list(part.parent.iterdir()) == [part]
    np.testing.assert_array_equal(layertap.open(part).predict(x), expected)
    monkeypatch.setattr("layertap._engine.part_file.INLINE_BYTES", 4096 + 127)
    assert main(["cut", str(source), "--to", "c", "-o", str(part)]) == 0
    (data,) = part.parent.glob("part-*.data")
    assert data.read_bytes() == tiny.weights("w", 32, 32).raw_data
    size = data.stat().st_size + part.stat().st_size
    assert capsys.readouterr().err.startswith(f"wrote {part} ({size / 1e6:.1f} MB): ")
    graph = onnx.load(part, load_external_data=False).graph
    assert {item.name: len(item.raw_data) for item in graph.initializer} == {"w": 0, "b": 128}
    np.testing.assert_array_equal(layertap.open(part).predict(x), expected)
