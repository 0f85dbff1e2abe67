"""Gradients for files that are there already, without TensorFlow."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import layertap
import layertap_export
from generators import tiny
from generators.tiny import constant, model, node, value, weights
from layertap._engine.session import plain_session
from layertap.cli import main
from layertap.comparing.check import check
from layertap.format.card import KEY
from layertap.format.layer import Layer
from layertap_export import GradientReport, add_gradients
from layertap_export.gradients import backprop, registry
from layertap_export.verification import finite_differences
from layertap_export.verification.golden_values import digits


def classifier(**more: Any) -> onnx.ModelProto:
    """As PyTorch writes one: images (n, 3, h, w) to two logits, without a card."""
    return model(
        [
            node("Conv", "x w", "conv", pads=[1, 1, 1, 1]),
            node("Relu", "conv", "relu"),
            node("GlobalAveragePool", "relu", "pool"),
            node("Flatten", "pool", "flat"),
            node("Gemm", "flat d", "y"),
        ],
        [value("x", ["n", 3, "h", "w"])],
        [value("y", ["n", 2])],
        [weights("w", 4, 3, 3, 3), weights("d", 4, 2)],
        **more,
    )


def without_axes(opened: layertap.Model) -> list[Layer]:
    """Its layers, without what only a card says about them."""
    return [replace(layer, axes=None) for layer in opened.layers]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.save(classifier(), tmp_path / "plain.onnx")


@pytest.mark.parametrize("place", ["graph", "doc_string", "attribute", "axis"])
def test_a_text_that_is_not_utf_8_is_refused(place: str, tmp_path: Path) -> None:
    """Protobuf gives it as bytes, and the error would come from wherever they are written."""
    made = classifier()
    made.graph.name = "MARKED" if place == "graph" else "g"
    made.graph.node[0].doc_string = "MARKED" if place == "doc_string" else ""
    if place == "attribute":
        made.graph.node[0].attribute.add(name="MARKED", type=onnx.AttributeProto.INT, i=1)
    if place == "axis":
        made.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "MARKED"
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString().replace(b"MARKED", b"MAR\xffED"))
    with pytest.raises(layertap.LayertapError, match=r"(?i)utf-8"):
        add_gradients(path, tmp_path / "out.onnx", "last-conv")
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.filterwarnings("ignore:.*the graph is not the one that was:layertap.LayertapWarning")
@pytest.mark.parametrize("stated", ["", "x", "int32"])
def test_the_graph_decides_about_the_dtype_of_an_input(stated: str, tmp_path: Path) -> None:
    path = changed_card(tmp_path, lambda card: card["inputs"][0].update(dtype=stated))
    report = add_gradients(path, tmp_path / "out.onnx", "last-conv")
    assert report
    assert report.card.inputs[0].dtype == "float32"


def test_shapes_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file may state shapes for which a rule has no sense."""

    def fails(_: Any) -> Any:
        return [1, 2][3]

    monkeypatch.setitem(registry.RULES, "Relu", fails)
    path = tiny.save(classifier(), tmp_path / "m.onnx")
    with pytest.raises(layertap_export.GradientError, match="inputs of Relu 'relu' do not fit"):
        add_gradients(path, tmp_path / "out.onnx", "conv")


def test_a_tensor_that_depends_on_itself_is_refused(tmp_path: Path) -> None:
    """onnxruntime takes such a file if nothing that is asked for depends on it."""
    made = classifier()
    made.graph.node.append(node("Identity", "turn", "turn"))
    path = tiny.save(made, tmp_path / "m.onnx")
    with pytest.raises(layertap.ModelFileError, match="is damaged: 'turn' depends on itself"):
        add_gradients(path, tmp_path / "out.onnx", "last-conv")


def test_a_tensor_that_two_nodes_write_is_refused(tmp_path: Path) -> None:
    """The second one may read what it writes, without end."""
    made = classifier()
    made.graph.node.extend([node("Identity", "conv", "side"), node("Identity", "side", "side")])
    path = tiny.save(made, tmp_path / "m.onnx")
    with pytest.raises(layertap.ModelFileError, match="two nodes write 'side'"):
        add_gradients(path, tmp_path / "out.onnx", "conv")


@pytest.mark.parametrize(("word", "name"), [("input", "z"), ("output", "x")])
def test_a_card_with_another_input_or_output_is_refused(
    word: str, name: str, tmp_path: Path
) -> None:
    path = changed_card(tmp_path, lambda card: card[f"{word}s"][0].update(name=name))
    message = f"its card names the {word} '{name}', which the graph does not have"
    with pytest.raises(layertap.ModelFileError, match=message):
        add_gradients(path, tmp_path / "out.onnx", "last-conv")


def test_an_input_of_unknown_rank(tmp_path: Path) -> None:
    """Its sizes cannot be tried: that is said, with what to do."""
    made = classifier()
    made.graph.input[0].type.tensor_type.ClearField("shape")
    path = tiny.save(made, tmp_path / "m.onnx")
    with pytest.raises(layertap.LayertapError):
        add_gradients(path, tmp_path / "out.onnx", "last-conv")


def changed_card(folder: Path, change: Any) -> Path:
    """A file with gradients whose card is changed."""
    add_gradients(tiny.save(classifier(), folder / "plain.onnx"), folder / "m.onnx", "last-conv")
    made = onnx.load(folder / "m.onnx")
    (entry,) = (item for item in made.metadata_props if item.key == KEY)
    card = json.loads(entry.value)
    change(card)
    entry.value = json.dumps(card)
    return tiny.save(made, folder / "m.onnx")


def test_a_layer_whose_shape_the_graph_computes(tmp_path: Path) -> None:
    """A Flatten that only a graph output shows, as exported files have it."""
    made = model(
        [
            node("Conv", "x w", "conv", pads=[1, 1, 1, 1]),
            node("Shape", "conv", "sizes"),
            node("Gather", "sizes first", "rows", axis=0),
            node("Concat", "rows open", "shape", axis=0),
            node("Reshape", "conv shape", "flat"),
            node("GlobalAveragePool", "conv", "pool"),
            node("Flatten", "pool", "y"),
        ],
        [value("x", ["n", 3, 5, 4])],
        [value("y", ["n", 4]), value("flat", ["n", 80])],
        [
            weights("w", 4, 3, 3, 3),
            constant("first", [0], np.int64),
            constant("open", [-1], np.int64),
        ],
    )
    source = tiny.save(made, tmp_path / "plain.onnx")
    report = add_gradients(source, tmp_path / "out.onnx", ["flat"], score="y")
    assert list(report.compared) == ["flat"]
    x = np.zeros((2, 3, 5, 4), np.float32)
    found = layertap.open(tmp_path / "out.onnx").gradients(x, target=2)["flat"]
    expected = np.repeat([[0, 0, 1 / 20, 0]] * 2, 20, axis=1)
    np.testing.assert_allclose(found.reshape(2, 80), expected, rtol=1e-6)


# --- A file from elsewhere ------------------------------------------------------------------------


def test_a_file_from_elsewhere(file: Path, tmp_path: Path) -> None:
    report = add_gradients(file, tmp_path / "out.onnx", ["last-conv", "input"])
    assert report
    assert report.compared.keys() == {"relu", "x"}
    assert max(slopes.scaled for slopes in report.compared.values()) < 1e-5
    assert report.batch == "1 x 3 x 64 x 64, seeded; 2 x 3 x 64 x 64, seeded"
    opened = layertap.open(report.path)
    card = opened.card
    assert card is not None
    assert card == report.card
    assert (card.source.framework, card.source.type) == ("onnx", "tiny")
    assert not card.channels_last
    assert [replace(x, axes=None) for x in opened.layers] == [*layertap.open(file).layers]
    axes = {"relu": "NCHW", "pool": "NCHW", "y": "NC"}
    assert axes.items() <= {x.name: x.axes for x in opened.layers}.items()
    assert [x.axes for x in (*opened.inputs, *opened.outputs)] == ["NCHW", "NC"]
    assert [x.name for x in opened.outputs] == ["y"]
    assert card.gradients is not None
    assert card.gradients.tensors == {"relu": "grad/relu", "x": "grad/x"}
    assert card.gradients.score == "output"
    assert card.gradients.broadcasts


def test_its_layers_are_what_they_were(file: Path, tmp_path: Path) -> None:
    """Channels stay where ONNX has them."""
    made = classifier()
    made.graph.value_info.append(value("relu", ["n", 4, "h", "w"]))
    add_gradients(tiny.save(made, file), tmp_path / "out.onnx", "relu")
    images = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    before, after = layertap.open(file), layertap.open(tmp_path / "out.onnx")
    for asked in ("relu", {"relu": "mean"}):
        one, other = (x.activations(images, asked) for x in (before, after))
        np.testing.assert_equal(one, other)


def test_the_gradient_is_what_the_formula_says(file: Path, tmp_path: Path) -> None:
    add_gradients(file, tmp_path / "out.onnx", "relu")
    dense = onnx.numpy_helper.to_array(classifier().graph.initializer[1])
    opened = plain_session(tmp_path / "out.onnx")
    images = np.zeros((2, 3, 6, 5), np.float32)
    mix = np.array([[1, 0], [0, -2]], np.float32)
    (found,) = opened.run(["grad/relu"], {"x": images, "score_weights": mix})
    expected = (mix @ dense.T)[:, :, None, None] / 30 * np.ones((1, 1, 6, 5))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_check_covers_it(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.onnx"
    report = add_gradients(file, out, ["relu", "conv"])
    verification = report.card.verification
    assert verification is not None
    assert verification.layers.keys() == {"grad/relu", "grad/conv"}
    for name in ("relu", "conv"):
        checked = verification.layers[f"grad/{name}"]
        assert checked.scaled == digits(report.compared[name].scaled, 2)
    assert report.card.golden is not None
    assert "grad/relu" in report.card.golden.layers
    assert main(["check", str(out)]) == 0
    assert capsys.readouterr().out.startswith("2 gradients agree with the golden sample on cpu: ")
    assert main(["info", str(out)]) == 0
    assert "2 gradients against central differences (" in capsys.readouterr().out
    broken = onnx.load(out)
    scale = next(x for x in broken.graph.initializer if x.name == "d")
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * 1.01, "d"))
    onnx.save(broken, tmp_path / "broken.onnx")
    assert main(["check", str(tmp_path / "broken.onnx")]) == 1


@pytest.mark.parametrize(
    "made",
    [
        tiny.with_function(),
        tiny.sparse(),
        tiny.residual(),
        classifier(opset=13),
        classifier(opset=22, ir_version=10),
    ],
    ids=["function", "sparse", "residual", "old", "new"],
)
def test_files_of_all_kinds(made: onnx.ModelProto, tmp_path: Path) -> None:
    path = tiny.save(made, tmp_path / "in.onnx")
    report = add_gradients(path, tmp_path / "out.onnx", "input")
    assert report.compared["x"].scaled < 1e-5


def test_weights_that_are_listed_as_inputs(tmp_path: Path) -> None:
    """As IR version 3 has them all; they stay constants."""
    made = tiny.listed_weights()
    made.opset_import[0].version = 13
    report = add_gradients(tiny.save(made, tmp_path / "in.onnx"), tmp_path / "out.onnx", "input")
    assert report.compared["x"].scaled < 1e-5
    written = onnx.load(report.path)
    assert [x.name for x in written.graph.input] == ["x", "score_weights"]
    assert written.ir_version == 4


def test_whole_numbers_go_in(tmp_path: Path) -> None:
    """Tokens are fed as 0 and 1, which any table has."""
    made = model(
        [node("Gather", "table x", "embedded"), node("ReduceMean", "embedded", "y", axes=[1])],
        [value("x", ["n", "t"], onnx.TensorProto.INT64)],
        [value("y", ["n", 1, 4])],
        [weights("table", 2, 4)],
        opset=17,
    )
    path = tiny.save(made, tmp_path / "in.onnx")
    report = add_gradients(path, tmp_path / "out.onnx", "embedded")
    assert report.compared["embedded"].scaled < 1e-5


def test_a_network_that_small_images_are_too_small_for(tmp_path: Path) -> None:
    made = model(
        [node("Conv", "x w", "c"), node("GlobalMaxPool", "c", "p"), node("Flatten", "p", "y")],
        [value("x", ["n", 1, "h", "w"])],
        [value("y", None)],
        [weights("w", 1, 1, 90, 90)],
    )
    report = add_gradients(tiny.save(made, tmp_path / "in.onnx"), tmp_path / "out.onnx", "c")
    assert report.batch == "1 x 1 x 128 x 128, seeded; 2 x 1 x 128 x 128, seeded"


# --- A file of layertap's -------------------------------------------------------------------------


def carded(name: str, folder: Path) -> Path:
    return tiny.save(getattr(tiny, name)(), folder / f"{name}.onnx")


def test_a_card_stays(tmp_path: Path) -> None:
    source = carded("image_classifier", tmp_path)
    report = add_gradients(source, tmp_path / "out.onnx", ["relu", "last-conv"], score="probs")
    before, after = layertap.open(source), layertap.open(report.path)
    assert before.card is not None
    assert after.card is not None
    assert [replace(row, axes=None) for row in after.layers] == [*before.layers]
    assert {row.axes for row in after.layers if len(row.shape) == 4} == {"NHWC"}
    assert after.card.source == before.card.source
    assert after.card.labels == ("cat", "dog")
    assert after.metadata == before.metadata == {"author": "tests"}
    assert after.card.gradients is not None
    assert after.card.gradients.tensors == {"relu": "grad/relu", "drop": "grad/drop"}


def test_gradients_that_are_there_are_replaced(tmp_path: Path) -> None:
    source = carded("image_classifier", tmp_path)
    once = add_gradients(source, tmp_path / "out.onnx", ["conv", "relu"])
    twice = add_gradients(once.path, once.path, "relu", score="probability")
    fresh = add_gradients(source, tmp_path / "fresh.onnx", "relu", score="probability")
    found, expected = (onnx.load(report.path) for report in (twice, fresh))
    assert found.graph == expected.graph
    assert replace(twice.card, made_from=None) == replace(fresh.card, made_from=None)
    assert twice.card.made_from is not None
    assert fresh.card.made_from is not None
    assert (twice.card.made_from.file, fresh.card.made_from.file) == (
        "out.onnx",
        "image_classifier.onnx",
    )
    assert twice.card.verification is not None
    assert twice.card.verification.layers.keys() == {"grad/relu"}


# --- What goes wrong ------------------------------------------------------------------------------


def test_a_wrong_rule_leaves_nothing_behind(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {**registry.RULES, "Relu": lambda step: [step.gradient]}
    monkeypatch.setattr(backprop, "RULES", wrong)
    out = tmp_path / "out.onnx"
    with pytest.raises(layertap_export.VerificationError) as caught:
        add_gradients(file, out, ["conv", "flat"])
    report = caught.value.report
    assert isinstance(report, GradientReport)
    assert report.failed == ("conv",)
    assert str(caught.value) == (
        f"{out}: 1 of 2 gradients differ from central differences by more than 1e-04. The "
        f"largest scaled error is {report.compared['conv'].scaled:.1e} in 'conv'."
    )
    assert list(tmp_path.iterdir()) == [file]
    assert main(["gradients", str(file), "--layers", "conv", "-o", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"layertap: {out}: 1 of 1 gradients differ")


@pytest.mark.parametrize(
    ("made", "layers", "message"),
    [
        (
            tiny.branching(),
            "a",
            "'a' has no gradient: layertap has no rule for the operator If, in the layer 'y' "
            "between it and the score. Choose 'y' or a layer after it.",
        ),
    ],
    ids=["operator"],
)
def test_one_sentence(
    made: onnx.ModelProto,
    layers: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tiny.save(made, tmp_path / "in.onnx")
    out = tmp_path / "out.onnx"
    with pytest.raises(layertap.LayertapError) as caught:
        add_gradients(path, out, layers)
    assert str(caught.value) == message.format(path=str(path))
    assert main(["gradients", str(path), "--layers", layers, "-o", str(out)]) == 2
    assert capsys.readouterr().err == f"layertap: {message.format(path=str(path))}\n"
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_writes_a_required_class_input(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    command = ["gradients", str(file), "--layers", "relu", "--class-input", "required"]
    assert main([*command, "-o", str(out)]) == 0
    graph = onnx.load(out).graph
    assert [x.name for x in graph.input] == ["x", "score_weights"]
    assert "score_weights" not in {x.name for x in graph.initializer}
    assert main(["check", str(out)]) == 0
    assert main(["info", str(out)]) == 0
    assert "\nclass input   score_weights, required\n" in capsys.readouterr().out


# --- Old, unsorted and quantised files ------------------------------------------------------------


@pytest.mark.parametrize("opset", range(7, 13))
def test_old_opsets_are_converted(opset: int, tmp_path: Path) -> None:
    """The outputs are those of the original, and the gradients agree with central differences."""
    made = model(
        [
            node("Conv", "x w", "conv", pads=[1, 1, 1, 1]),
            node("Unsqueeze", "conv", "apart", axes=[4]),
            node("Squeeze", "apart", "joined", axes=[4]),
            node("Clip", "joined", "relu", min=0.0)
            if opset < 11
            else node("Clip", "joined", "relu"),
            node("ReduceSum", "relu", "pool", axes=[2, 3], keepdims=0),
            node("Gemm", "pool d b", "z"),
            node("Softmax", "z", "y", axis=1),
        ],
        [value("x", ["n", 3, "h", "w"])],
        [value("y", ["n", 2])],
        [weights("w", 4, 3, 3, 3), weights("d", 4, 2), weights("b", 2)],
        opset=opset,
    )
    path = tiny.save(made, tmp_path / "in.onnx")
    report = add_gradients(path, tmp_path / "out.onnx", "input")
    assert report.compared["x"].scaled < 1e-5
    written = onnx.load(report.path)
    assert written.opset_import[0].version == 17
    assert without_axes(layertap.open(report.path)) == without_axes(layertap.open(path))
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    before, after = (plain_session(each).run(["y"], {"x": x})[0] for each in (path, report.path))
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_an_opset_that_cannot_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(made: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        raise RuntimeError("No Adapter To Version 9 for Scan")

    monkeypatch.setattr("onnx.version_converter.convert_version", none)
    path = tiny.save(classifier(opset=12), tmp_path / "in.onnx")
    with pytest.raises(layertap.ModelFileError) as caught:
        add_gradients(path, tmp_path / "out.onnx", "input")
    assert str(caught.value) == (
        f"{str(path)!r} has opset 12, but gradients need opset 13 or newer, and "
        "`onnx.version_converter` cannot convert it to 17: No Adapter To Version 9 for Scan. "
        "Export the model again, with a newer opset."
    )
    assert list(tmp_path.iterdir()) == [path]


def test_a_conversion_that_changes_values_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(made: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        converted = classifier(opset=17)
        scaled = onnx.numpy_helper.to_array(converted.graph.initializer[1]) * 1.001
        converted.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(scaled, "d"))
        return converted

    monkeypatch.setattr("onnx.version_converter.convert_version", wrong)
    path = tiny.save(classifier(opset=12), tmp_path / "in.onnx")
    with pytest.raises(
        layertap.ModelFileError, match=r"is not the same, but .* of its scale apart"
    ):
        add_gradients(path, tmp_path / "out.onnx", "relu")


def test_unsorted_nodes_are_sorted(file: Path, tmp_path: Path) -> None:
    """As onnxruntime's float16 converter writes them: none is lost, no gradient is said to be 0."""
    expected = add_gradients(file, tmp_path / "sorted.onnx", ["relu", "input"])
    made = onnx.load(file)
    nodes = list(made.graph.node)
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    names = ["grad/relu", "grad/x"]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(nodes))
        del made.graph.node[:]
        made.graph.node.extend(nodes[i] for i in order)
        path = tiny.save(made, tmp_path / "shuffled.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report = add_gradients(path, tmp_path / "out.onnx", ["relu", "input"])
        one, other = (plain_session(each.path).run(names, {"x": x}) for each in (report, expected))
        np.testing.assert_equal(one, other)


def test_types_of_gradients_that_a_file_had_are_forgotten(file: Path, tmp_path: Path) -> None:
    """Tools such as onnxruntime's quantisation state the types of all tensors, also those of the
    backward half. Its nodes are replaced, and the new ones may have the same names."""
    first = add_gradients(file, tmp_path / "first.onnx", ["conv", "input"])
    made = onnx.load(first.path)
    outputs = {x.name for x in made.graph.output}
    for name in [name for one in made.graph.node for name in one.output]:
        if name.startswith("grad/") and name not in outputs:
            made.graph.value_info.append(value(name, [7, 7], onnx.TensorProto.INT8))
    path = tmp_path / "typed.onnx"
    onnx.save(made, path)
    report = add_gradients(path, tmp_path / "out.onnx", ["relu"])
    assert report.compared["relu"].scaled < 1e-5


@pytest.mark.parametrize("layer", ["relu", "conv", "image", "pool"])
def test_layers_of_a_quantised_file_are_refused(layer: str, tmp_path: Path) -> None:
    """The file shows a layer by rounded values that no node reads; the score depends on others."""
    made = tiny.image_classifier()
    made.graph.initializer.append(constant("scale", 0.1, np.float32))
    made.graph.initializer.append(constant("zero", 3, np.int8))
    shown = {x.name for x in made.graph.output}
    rounded: dict[str, str] = {}
    nodes = []
    for one in made.graph.node:
        one.input[:] = [rounded.get(name, name) for name in one.input]
        nodes.append(one)
        for at, name in enumerate(one.output):
            source, target = (f"{name}/exact", name) if name in shown else (name, f"{name}/rounded")
            one.output[at] = source
            whole = f"{name}/q"
            nodes.append(node("QuantizeLinear", f"{source} scale zero", whole, f"{name}/Q"))
            nodes.append(node("DequantizeLinear", f"{whole} scale zero", target, f"{name}/DQ"))
            rounded[name] = target
    nodes = [onnx.NodeProto.FromString(one.SerializeToString()) for one in nodes]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    onnx.checker.check_model(made)
    path = tiny.save(made, tmp_path / "in.onnx")
    with pytest.raises(layertap_export.GradientError) as caught:
        add_gradients(path, tmp_path / "out.onnx", layer)
    assert "(use the file that this one was quantised from)" in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_times_that_are_refused(file: Path, tmp_path: Path) -> None:
    for seconds in (-1, float("nan")):
        with pytest.raises(layertap.UsageError) as caught:
            add_gradients(file, tmp_path / "out.onnx", "relu", seconds=seconds)
        assert str(caught.value) == f"seconds must be a number of at least 0, got {seconds}."


@pytest.mark.parametrize("layers", [(), None, False])
def test_no_layers_are_refused(layers: Any, file: Path, tmp_path: Path) -> None:
    with pytest.raises(layertap.UsageError, match=r"^no layers were given for the gradients"):
        add_gradients(file, tmp_path / "out.onnx", layers)


def test_an_invalid_tolerance_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(layertap.UsageError) as caught:
        add_gradients(file, tmp_path / "out.onnx", "relu", tolerance=-1)
    assert str(caught.value) == "tolerance must be a finite number of at least 0, got -1."


# --- The shell -----------------------------------------------------------------------------------


def test_the_gradients_command_writes_a_file(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    command = ["gradients", str(file), "--layers", "re:re.u", "last-conv", "--layers", "input"]
    assert main([*command, "-o", str(out), "--score", "y", "--seconds", "0"]) == 0
    printed = capsys.readouterr()
    first, second = printed.out.splitlines()
    assert first.startswith(f"wrote {out} (0.0 MB, gradients of 'y' at 2 layers) in ")
    assert second.startswith(
        "compared 1 of 2 gradients with central differences in float64 (1 x 3 x 64 x 64, seeded; "
        "2 x 3 x 64 x 64, seeded): largest scaled error "
    )
    assert second.endswith("allowed 1e-04; the others were not compared")
    assert printed.err == ""


def test_a_layer_that_does_not_count_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = classifier()
    made.graph.node.append(node("Exp", "relu", "aside"))
    path = tiny.save(made, tmp_path / "in.onnx")
    out = str(tmp_path / "out.onnx")
    assert main(["gradients", str(path), "--layers", "aside", "-o", out]) == 0
    assert capsys.readouterr().err == (
        "layertap: warning: no gradient flows from the scores of 'y' to 'aside': it is 0 there.\n"
    )


def test_it_needs_no_tensorflow(file: Path, tmp_path: Path) -> None:
    """Neither is it imported, nor Keras, nor tf2onnx."""
    code = (
        "import sys, layertap_export\n"
        f"layertap_export.add_gradients({str(file)!r}, {str(tmp_path / 'out.onnx')!r}, 'relu')\n"
        "print({'tensorflow', 'keras', 'tf2onnx'} & sys.modules.keys() or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"


def test_without_the_onnx_package(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "import layertap_export\n"
        "try: layertap_export.add_gradients\n"
        "except layertap_export.errors.LayertapError as exc: print(exc)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "add_gradients needs the package onnx, which is not installed. Install it with "
        '`pip install ".[gradients,cpu]"` in a checkout of layertap.\n'
    )


# --- Time, and the user's samples ---------------------------------------------------------------


def steps_first() -> onnx.ModelProto:
    """x (t, n, 2) -> LSTM -> tanh, act (t, n, 3) -> mean over time -> scores (n, 4)."""
    nodes = [
        node("LSTM", "x w r", "all", hidden_size=3),
        node("Squeeze", "all one", "seq"),
        node("Tanh", "seq", "act"),
        node("ReduceMean", "act", "mean", keepdims=0, axes=[0]),
        node("Gemm", "mean k", "scores"),
    ]
    weights = [tiny.weights("w", 1, 12, 2), tiny.weights("r", 1, 12, 3), tiny.weights("k", 3, 4)]
    return tiny.model(
        nodes,
        [tiny.value("x", ["t", "n", 2])],
        [tiny.value("scores", ["n", 4])],
        [*weights, tiny.constant("one", [1])],
        opset=17,
    )


@pytest.mark.parametrize(("steps", "samples"), [(5, 3), (3, 5), (3, 3), (1, 2)])
def test_gradients_of_a_sequence_with_its_steps_first(
    steps: int, samples: int, tmp_path: Path
) -> None:
    """There the samples are along the second axis."""
    file = tiny.save(steps_first(), tmp_path / "steps.onnx")
    add_gradients(file, tmp_path / "out.onnx", ["act", "input"], seconds=5)
    model = layertap.open(tmp_path / "out.onnx")
    assert check(model)
    x = np.random.default_rng(0).normal(size=(steps, samples, 2)).astype(np.float32)
    kernel = onnx.numpy_helper.to_array(steps_first().graph.initializer[2])
    for target in (1, [1, 3], "top"):
        found = model.gradients(x, "act", target)
        scores = model.activations(x, "scores")
        chosen = scores.argmax(1) if target == "top" else np.atleast_1d(target)
        slopes = kernel.T[chosen] / steps  # of (sample or target, 3)
        if target == [1, 3]:
            expected = np.broadcast_to(slopes[:, None], (samples, 2, steps, 3))
        else:
            expected = np.broadcast_to(slopes, (steps, samples, 3))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    found = model.gradients(x, "x", 1)
    step = np.zeros_like(x)
    step[0, 1, 0] = 1e-2
    scores = [model.activations(x + sign * step, "scores")[1, 1] for sign in (1, -1)]
    np.testing.assert_allclose(found[0, 1, 0], (scores[0] - scores[1]) / 2e-2, atol=1e-3)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """It counts up to 2**40 for a seeded input of more than 0."""
    made = tiny.counting()
    made.graph.node[1].CopyFrom(node("Exp", "x", "largest"))
    made.graph.node.insert(2, node("ReduceMax", "largest", "most_x", keepdims=0))
    made.graph.node[3].input[0] = "most_x"
    del made.metadata_props[:], made.graph.output[1]
    return tiny.save(made, tmp_path / "endless.onnx")


def test_a_timeout_ends_it(endless: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    started = time.monotonic()
    with pytest.raises(layertap.RunTimeoutError, match=r"timeout of 0\.5 s and was stopped"):
        add_gradients(endless, target, ["first"], timeout=0.5)
    assert time.monotonic() - started < 2
    assert not target.exists()
    assert [*tmp_path.iterdir()] == [endless]


def test_a_timeout_ends_the_comparison(file: Path, tmp_path: Path) -> None:
    """Whichever step it is that takes long."""
    for limit in (0.02, 0.1, 0.2, 0.4):
        with pytest.raises(layertap.RunTimeoutError):
            add_gradients(file, tmp_path / "out.onnx", ["all"], timeout=limit, sizes={"h": 700})
    with pytest.raises(layertap.UsageError, match="timeout must be a number of seconds"):
        add_gradients(file, tmp_path / "out.onnx", ["all"], timeout=0)
    assert [*tmp_path.iterdir()] == [file]


INTERRUPTIBLE = """
import signal, sys
from layertap.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_ctrl_c_ends_the_command(endless: Path, tmp_path: Path) -> None:
    argv = ["gradients", endless, "--layers", "first", "-o", tmp_path / "o.onnx"]
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *map(str, argv)], stderr=subprocess.PIPE, text=True
    ) as process:
        time.sleep(3.5)
        assert process.poll() is None
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert time.monotonic() - started < 5  # alone, less than one
    assert (process.returncode, err.count("\n")) == (130, 1)
    assert [*tmp_path.iterdir()] == [endless]


def test_gradients_are_compared_on_the_users_samples(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one.npy", tmp_path / "two.npz"
    np.save(one, np.full((3, 3, 9, 8), 0.5, np.float32))
    np.savez(two, x=np.full((1, 3, 10, 7), 0.25, np.float32))
    target = tmp_path / "out.onnx"
    argv = ["gradients", file, "--layers", "relu", "-o", target, "--sample", one, "--sample", two]
    assert main([*map(str, argv), "--timeout", "100"]) == 0
    assert capsys.readouterr().err == ""
    batches = layertap.open(target).card.verification.batches  # type: ignore[union-attr]
    assert [text.partition(", central")[0] for text in batches][2:] == [
        "3 x 3 x 9 x 8, your sample",
        "1 x 3 x 10 x 7, your sample",
    ]
    report = add_gradients(file, target, "relu", samples={"x": one})
    assert report.batch.endswith("; 3 x 3 x 9 x 8, your sample")


def test_a_sample_finds_a_wrong_gradient(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is right for the seeded samples, whose mean is about 0."""
    plain = finite_differences._Check._gradient

    def wrong(self: Any, x: Any, mix: Any) -> Any:
        return plain(self, x, mix) * (2 if x.mean() > 0.2 else 1)

    monkeypatch.setattr(finite_differences._Check, "_gradient", wrong)
    sample = np.ones((1, 3, 8, 8), np.float32)
    add_gradients(file, tmp_path / "out.onnx", "input")
    with pytest.raises(layertap_export.VerificationError):
        add_gradients(file, tmp_path / "out.onnx", "input", samples=sample)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ({"z": np.zeros(3)}, "z"),
        (np.zeros((1, 5, 8, 8), np.float32), "5"),
        ("missing.npy", "missing.npy"),
        (True, "samples must be"),
        (7, "samples must be"),
    ],
)
def test_samples_that_do_not_fit(samples: Any, says: str, file: Path, tmp_path: Path) -> None:
    with pytest.raises(layertap.LayertapError, match=says):
        add_gradients(file, tmp_path / "out.onnx", "relu", samples=samples)
