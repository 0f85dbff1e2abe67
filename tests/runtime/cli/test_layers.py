"""`layertap layers`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generators import tiny
from layertap.format.card import KEY, Card, Golden, GoldenInput, GoldenLayer
from shell import Done, layertap

TinyFile = Callable[[str], Path]

TABLE = """\
index  name      class                   output shape     parameters        MB  connected to
-----  --------  ----------------------  ---------------  ----------  --------  ------------
    0  image     InputLayer              (None, 8, 6, 3)           0  0.000576
    1  conv      Conv2D                  (None, 8, 6, 4)         112  0.000768  image
    2  relu      ReLU                    (None, 8, 6, 4)           0  0.000768  conv
    3  drop      Dropout                 (None, 8, 6, 4)           0  0.000768  relu
    4  pool      GlobalAveragePooling2D  (None, 4)                 0  0.000016  drop
    5  (hidden)  Dropout                 (None, 4)                 0  0.000016  pool
    6  probs     Dense                   (None, 2)                 8  0.000008  hidden
"""


@pytest.fixture
def classifier(tiny_file: TinyFile) -> Path:
    return tiny_file("image_classifier")


@pytest.fixture
def free(tmp_path: Path) -> Path:
    """The classifier with free sizes, measured at 16 x 12."""
    made = tiny.image_classifier(None, None)
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    data = json.loads(prop.value)
    shapes = {"conv": (1, 16, 12, 4), "relu": (1, 16, 12, 4), "pool": (1, 4)}
    golden = Golden(
        seed=0,
        inputs=(GoldenInput(name="image", shape=(1, 16, 12, 3), low=0, high=1),),
        layers={
            name: GoldenLayer(shape=shape, norm=1, scale=1, values=())
            for name, shape in shapes.items()
        },
    )
    card = Card.from_json(json.dumps(data))
    prop.value = Card(
        source=card.source,
        inputs=card.inputs,
        outputs=card.outputs,
        layers=card.layers,
        golden=golden,
    ).to_json()
    return tiny.save(made, tmp_path / "free.onnx")


def column(done: Done, name: str) -> list[str]:
    """The cells of one column of a printed table, without the header."""
    assert (done.code, done.err) == (0, "")
    head, rule, *lines = done.out.splitlines()
    ends = [0, *(i for i, sign in enumerate(rule) if rule[i : i + 2] == " -"), 999]
    cells = [[line[a:b].strip() for a, b in itertools.pairwise(ends)] for line in lines]
    heads = [head[a:b].strip() for a, b in itertools.pairwise(ends)]
    return [row[heads.index(name)] for row in cells]


def test_whole_table_is_printed(classifier: Path) -> None:
    assert layertap("layers", classifier) == Done(0, TABLE, "")


def test_file_without_a_card_lists_tensors(tiny_file: TinyFile) -> None:
    """Tensors are listed as layers; unstated types and sizes are `?` or empty."""
    assert layertap("layers", tiny_file("residual")) == Done(
        0,
        """\
index  name  class   output shape  parameters        MB  connected to
-----  ----  ------  ------------  ----------  --------  ------------
    0  a     MatMul  ?                      9            x
    1  b     Relu    ?                      0            a
    2  c     MatMul  ?                      9            b
    3  d     Add     ?                      0            a, c
    4  y     Add     (None, 3)              0  0.000012  d, b
""",
        "",
    )


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--layers", "p*", "--layers", "conv"], ["pool", "probs", "conv"]),
        (["--layers", "p*", "conv"], ["pool", "probs", "conv"]),
        (["--layers", "-2:", "conv", "-6:-4"], ["probs", "conv", "relu"]),
        (["--layers", "conv", "-2:", "pool", "--type", "Dense", "Conv2D"], ["conv", "probs"]),
        (["--layers", "-1"], ["probs"]),
        (["--layers", "-6:-4"], ["conv", "relu"]),
        (["--layers=-2:"], ["probs"]),
        (["--type", "Dense", "--type", "Conv2D"], ["conv", "probs"]),
        (["--layers", "p*", "--type", "Dense"], ["probs"]),
        (
            ["--layers", "all"],
            ["image", "conv", "relu", "drop", "pool", "(hidden)", "probs"],
        ),
    ],
)  # fmt: skip
def test_layers_are_filtered(classifier: Path, options: list[str], names: list[str]) -> None:
    """As in `layertap export`; layers that are not exposed are only in the whole table."""
    assert column(layertap("layers", classifier, *options), "name") == names


def rows(done: Done) -> list[dict[str, Any]]:
    assert (done.code, done.err) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


@pytest.mark.parametrize("option", ["--layers", "--type"])
def test_a_list_before_the_file_takes_one_word(classifier: Path, option: str) -> None:
    word = "conv" if option == "--layers" else "Conv2D"
    assert column(layertap("layers", option, word, classifier), "name") == ["conv"]
    if option == "--layers":
        assert column(layertap("layers", option, "-1:", classifier), "name") == ["probs"]


def test_json_describes_the_layers(classifier: Path) -> None:
    found = rows(layertap("layers", classifier, "--json"))
    assert [row["index"] for row in found] == list(range(7))
    assert found[1] == {
        "index": 1,
        "name": "conv",
        "type": "Conv2D",
        "shape": [None, 8, 6, 4],
        "dtype": "float32",
        "parameters": 112,
        "inbound": ["image"],
        "exposed": True,
        "bytes": 768,
    }
    assert [row["name"] for row in found if not row["exposed"]] == ["hidden"]
    for row in found:
        assert list(row) == list(found[0])
        kinds = {key: type(value) for key, value in row.items()}
        assert kinds == {
            "index": int, "name": str, "type": str, "shape": list, "dtype": str,
            "parameters": int, "inbound": list, "exposed": bool, "bytes": int,
        }  # fmt: skip


def test_json_has_one_object_per_line(classifier: Path) -> None:
    """For `grep`, and for people."""
    out = layertap("layers", classifier, "--json").out
    assert [json.loads(line.strip("[], "))["index"] for line in out.splitlines()] == list(range(7))


def test_json_lists_selected_layers(classifier: Path, tiny_file: TinyFile) -> None:
    found = rows(layertap("layers", classifier, "--json", "--type", "Dense", "--batch", "10"))
    assert [(row["index"], row["bytes"]) for row in found] == [(6, 80)]
    found = rows(layertap("layers", tiny_file("residual"), "--json", "--layers", "a"))
    assert [(row["dtype"], row["shape"], row["bytes"]) for row in found] == [("", [], None)]


def test_json_is_ascii(tmp_path: Path) -> None:
    """Whatever the terminal's or the pipe's encoding, it arrives."""
    made = tiny.model(
        [tiny.node("Neg", "x", "größe大")],
        [tiny.value("x", ["n", 1])],
        [tiny.value("größe大", ["n", 1])],
    )
    done = layertap("layers", tiny.save(made, tmp_path / "m.onnx"), "--json")
    assert done.out.isascii()
    assert rows(done)[0]["name"] == "größe大"


def test_size_gives_estimates_for_free_sizes(free: Path) -> None:
    assert column(layertap("layers", free), "MB") == ["", "", "", "", "0.000016", "0.000016",
                                                      "0.000008"]  # fmt: skip
    found = column(layertap("layers", free, "--size", "160x120"), "MB")
    # 160 x 120 x 3 and 160 x 120 x 4 numbers of 4 bytes; there is no measurement of `drop`.
    assert found == ["~0.23", "~0.31", "~0.31", "", "0.000016", "0.000016", "0.000008"]
    found = column(layertap("layers", free, "--size", "160x120", "--batch", "100"), "MB")
    assert found[:3] == ["~23.0", "~30.7", "~30.7"]
    bytes_ = [row["bytes"] for row in rows(layertap("layers", free, "--size", "32", "--json"))]
    assert bytes_ == [32 * 32 * 3 * 4, 32 * 32 * 4 * 4, 32 * 32 * 4 * 4, None, 16, 16, 8]


def test_size_without_a_measurement_gives_a_warning(tiny_file: TinyFile, tmp_path: Path) -> None:
    path = tiny.save(tiny.image_classifier(None, None), tmp_path / "m.onnx")
    done = layertap("layers", path, "--size", "32x32")
    assert done == Done(
        0,
        layertap("layers", path).out,
        f"layertap: warning: '{path}' does not contain the sizes that an estimate requires, so "
        "--size has no effect.\n",
    )
    # If all sizes are known, --size has no effect either, but this needs no warning.
    assert layertap("layers", tiny_file("image_classifier"), "--size", "9x9").err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--layers", "hidden"],
            "the layer 'hidden' is in the model, but this file does not expose it. Export the "
            "model again with this layer in --layers, or with all layers.",
        ),
        (["--batch", "0"], "batch must be at least 1, got 0."),
    ],
)
def test_invalid_selection_is_an_error(classifier: Path, options: list[str], message: str) -> None:
    assert layertap("layers", classifier, *options) == Done(2, "", f"layertap: {message}\n")


@pytest.mark.parametrize("size", ["", "x", "32x", "0x5", "-3x5", "big", "3.5x4"])
def test_invalid_size_is_an_error(classifier: Path, size: str) -> None:
    done = layertap("layers", classifier, f"--size={size}")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == (
        f"layertap layers: error: argument --size: {size!r} is not a size: give HEIGHTxWIDTH, for "
        "example 320x320, or one number"
    )
