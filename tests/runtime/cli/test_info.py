"""`layertap info`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from generators import tiny
from layertap.format.card import KEY, Card, LayerCheck, Verification
from shell import Done, layertap

TinyFile = Callable[[str], Path]


def test_card_is_described(tiny_file: TinyFile) -> None:
    assert layertap("info", tiny_file("image_classifier")) == Done(
        0,
        """\
model          tiny (Functional, keras 3.15.1)
weights        sha256 0
inputs         image (None, 8, 6, 3) float32
outputs        probs (None, 2) float32
layers         7, 6 of them with activations
labels         cat, dog
preprocessing  {"scaling": {"mode": "rescale", "scale": 0.00392156862745098}, "size": [8, 6]}
format         1.4
""",
        "",
    )


@pytest.mark.parametrize(
    ("score", "what"), [("logits", "the logits of probs"), ("output", "the value of probs")]
)
def test_gradients_are_described(tmp_path: Path, score: str, what: str) -> None:
    path = tiny.save(tiny.differentiable(score=score), tmp_path / "m.onnx")
    lines = layertap("info", path).out.splitlines()
    assert f"gradients      of {what}, with respect to conv, image, last, mixed, relu" in lines


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "layers"),
    [
        ("residual", "x (None, 3) float32", "y (None, 3) float32", 5),
        ("odd_types", "index (None,) int64, words (3,) string",
         "picked (None, 2) float32, length () int64", 5),
    ],
)  # fmt: skip
def test_file_without_a_card_is_described(
    tiny_file: TinyFile, name: str, inputs: str, outputs: str, layers: int
) -> None:
    assert layertap("info", tiny_file(name)) == Done(
        0,
        f"inputs   {inputs}\noutputs  {outputs}\nlayers   {layers}, {layers} of them with "
        "activations\ncard     none: not exported by layertap; the layers are ONNX tensors\n",
        "",
    )


def test_unstated_types_are_question_marks(tmp_path: Path) -> None:
    made = tiny.model(
        [tiny.node("Neg", "x", "y"), tiny.node("SequenceConstruct", "y", "s")],
        [],
        [tiny.value("y", ["n"])],
        [tiny.constant("x", [1.0])],
    )
    made.graph.output[0].ClearField("type")
    made.graph.output.add().name = "s"
    made.graph.output[1].type.sequence_type.elem_type.tensor_type.elem_type = tiny.FLOAT
    done = layertap("info", tiny.save(made, tmp_path / "m.onnx"))
    assert done.out.splitlines()[:2] == ["inputs   none", "outputs  y ?, s sequence"]


def test_libraries_that_read_images_are_described(tmp_path: Path) -> None:
    made = tiny.image_classifier()
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    versions = {"pillow": "13.0.0", "libjpeg_turbo": "3.\x1b2"}
    prop.value = replace(Card.from_json(prop.value), images=versions).to_json()
    lines = layertap("info", tiny.save(made, tmp_path / "m.onnx")).out.splitlines()
    expected = "images         read at the export with libjpeg_turbo 3.\\x1b2, pillow 13.0.0"
    assert lines[-3].startswith("preprocessing  {")
    assert lines[-2:] == [expected, "format         1.4"]


def with_verification(folder: Path, layers: dict[str, LayerCheck]) -> Path:
    made = tiny.linear_chain()
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    verification = Verification(
        tolerance=1e-4,
        batches=("1 x 4, seeded", "2 x 4, seeded"),
        onnxruntime="1.32.0",
        layers=layers,
    )
    prop.value = replace(Card.from_json(prop.value), verification=verification).to_json()
    return tiny.save(made, folder / "m.onnx")


def test_verification_is_described(tmp_path: Path) -> None:
    checks = {
        "a": LayerCheck(max_abs=5.0, scaled=1.26e-7),
        "b": LayerCheck(max_abs=0.1, scaled=3.4e-6),
        "c": LayerCheck(max_abs=0, scaled=0),
    }
    lines = layertap("info", with_verification(tmp_path, checks)).out.splitlines()
    assert lines[-2] == (
        "verification  3 layers against Keras (1 x 4, seeded; 2 x 4, seeded): largest scaled error "
        "3.4e-06 in 'b', allowed 1e-04"
    )


def test_verification_without_layers_is_omitted(tmp_path: Path) -> None:
    """If the file only exposes its input."""
    done = layertap("info", with_verification(tmp_path, {}))
    assert (done.code, done.err) == (0, "")
    assert "verification" not in done.out


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    made = tiny.linear_chain()
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    data = json.loads(prop.value)
    data["labels"] = ["\x1b[2Jgone", "größe\nnew line"]
    prop.value = json.dumps(data)
    done = layertap("info", tiny.save(made, tmp_path / "m.onnx"))
    assert "labels   \\x1b[2Jgone, größe\\nnew line\n" in done.out
    assert "\x1b" not in done.out


def test_extra_arguments_are_an_error(tiny_file: TinyFile) -> None:
    done = layertap("info", tiny_file("residual"), "extra")
    assert done.code == 2
    assert done.err.splitlines()[-1] == "layertap: error: unrecognized arguments: extra"


def test_long_lines_are_shortened_and_json_has_all(tmp_path: Path) -> None:
    made = tiny.linear_chain()
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    data = json.loads(prop.value)
    data["labels"] = [f"class number {number}" for number in range(100_000)]
    prop.value = json.dumps(data)
    file = tiny.save(made, tmp_path / "m.onnx")
    done = layertap("info", file)
    assert "labels   100000: class number 0, class number 1, " in done.out
    assert max(map(len, done.out.splitlines())) < 1100
    done = layertap("info", file, "--json")
    assert json.loads(done.out) == json.loads(Card.from_json(prop.value).to_json())
    done = layertap("info", tiny.save(tiny.residual(), tmp_path / "plain.onnx"), "--json")
    assert (done.code, done.out) == (2, "")
    assert "has no card to print" in done.err
