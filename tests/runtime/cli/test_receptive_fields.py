"""`layertap layers --receptive-field`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import layertap as package
from generators import tiny
from shell import layertap

TinyFile = Callable[[str], Path]


@pytest.fixture
def classifier(tiny_file: TinyFile) -> Path:
    return tiny_file("image_classifier")


def test_the_table(classifier: Path) -> None:
    done = layertap("layers", classifier, "--receptive-field")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "name   positions  size   stride  start   reads all through\n"
        "-----  ---------  -----  ------  ------  -----------------\n"
        "image  8 x 6      1 x 1  1 x 1   0, 0\n"
        "conv   8 x 6      3 x 3  1 x 1   -1, -1\n"
        "relu   8 x 6      3 x 3  1 x 1   -1, -1\n"
        "drop   8 x 6      3 x 3  1 x 1   -1, -1\n"
    )


def test_the_box_of_a_position(classifier: Path) -> None:
    words = ("layers", classifier, "--receptive-field", "--layers", "conv", "--at", "0,2")
    done = layertap(*words, "--measure", "random")
    assert done.out.splitlines()[-1].endswith("rows 0:2, columns 1:4  rows 0:2, columns 1:4")
    (found,) = json.loads(layertap(*words, "--json").out)
    assert found == package.open(classifier).receptive_field("conv", (0, 2)).to_dict()
    assert (found["box"], found["measured"]) == ([[0, 2], [1, 4]], None)


def test_a_batch_to_measure_on(classifier: Path, tmp_path: Path) -> None:
    batch = tmp_path / "batch.npy"
    np.save(batch, tiny.images(1))
    words = ("layers", classifier, "--receptive-field", "--layers", "conv", "--at", "0,2")
    done = layertap(*words, "--measure", batch, "--json")
    assert json.loads(done.out)[0]["measured"] == [[0, 2], [1, 4]]


def test_layers_behind_an_operator_that_is_not_known(tmp_path: Path) -> None:
    nodes = [
        tiny.node("Relu", "x", "a"),
        tiny.node("NonZero", "a", "b"),
        tiny.node("Unsqueeze", "b zero", "c"),
        tiny.node("Cast", "c", "y", to=1),
    ]
    made = tiny.model(
        nodes,
        [tiny.value("x", (1, 2, 5, 4))],
        [tiny.value("y", None)],
        [tiny.constant("zero", [0])],
    )
    path = tiny.save(made, tmp_path / "model.onnx")
    done = layertap("layers", path, "--receptive-field")
    assert done.code == 0
    assert done.out.count("with the operator NonZero, which is not one that") == 1
    assert "\na     5 x 4" in done.out
    assert layertap("layers", path, "--receptive-field", "--layers", "y").code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--at", "1,2"], "--at is for --receptive-field. Give both."),
        (["--receptive-field", "--at", "1,x"], "--at must be ROW,COLUMN in integers, got '1,x'."),
        (["--receptive-field", "--at", "9,0"], "at (9, 0) is outside of 'image', which has 8 x 6"),
        (["--receptive-field", "--cost"], "--cost is not for --receptive-field. Leave it out."),
        (["--receptive-field", "--batch", "2"], "--batch is not for --receptive-field."),
        (["--receptive-field", "--sort", "size"], "--sort is not for --receptive-field."),
        (["--receptive-field", "--threads", "1"], "--threads is for measured fields: give"),
        (["--receptive-field", "--preprocess", "vgg16"], "--preprocess is for an image: give"),
        (["--receptive-field", "--on", "x"], "--on is not for --receptive-field. Leave it out."),
        (["--receptive-field", "--measure", "random"], "is for one position: give --at, too."),
        (["--receptive-field", "--layers", "pool"], "none of these layers has positions"),
        (["--receptive-field", "--layers", "cnv"], "Did you mean 'conv'?"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(classifier: Path, options: list[str], message: str) -> None:
    done = layertap("layers", classifier, *options)
    assert done.code == 2
    assert message in done.err
