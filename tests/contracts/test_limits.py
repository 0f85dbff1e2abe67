"""Small files that ask for much: each is answered in a moment, and without filling the memory."""

from __future__ import annotations

import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import layertap
from generators import tiny
from layertap import InputError, LayertapError, ModelFileError, PreprocessingError
from layertap.format.card import KEY
from shell import fresh
from shell import layertap as shell

MODEL_FILE = "m.onnx"
BATCH = np.zeros((1, 8, 6, 3), np.float32)


@contextmanager
def quick(seconds: float = 5.0, megabytes: float = 100.0) -> Iterator[None]:
    """Check that the block takes little time, also on a busy machine, and little memory."""
    tracemalloc.start()
    started = time.process_time()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < seconds
    assert peak < megabytes * 1e6


def with_card(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A classifier of images of 8 x 6 whose card was changed."""
    made = tiny.image_classifier()
    (entry,) = (item for item in made.metadata_props if item.key == KEY)
    data = json.loads(entry.value)
    change(data)
    entry.value = json.dumps(data)
    return made.SerializeToString()


def with_card_text(text: str) -> bytes:
    made = tiny.image_classifier()
    (entry,) = (item for item in made.metadata_props if item.key == KEY)
    entry.value = text
    return made.SerializeToString()


def refusal(data: bytes) -> str:
    """The error of opening a model, quickly, in Python and by commands."""
    with quick(), pytest.raises(ModelFileError) as caught:
        layertap.open(data)
    Path(MODEL_FILE).write_bytes(data)
    for command in ("info", "layers", "check"):
        with quick():
            done = shell(command, MODEL_FILE)
        assert (done.code, done.out) == (2, "")
        assert len(done.err.splitlines()) == 1
        assert len(done.err) < 500
    return str(caught.value)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- The card -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 4_000])
def test_layers_that_are_inside_themselves(length: int) -> None:
    def around(data: dict[str, Any]) -> None:
        row = {**data["layers"][1], "inbound": [], "tensor": None}
        data["layers"] = [
            {**row, "name": f"r{at}", "index": at, "parent": f"r{(at + 1) % length}"}
            for at in range(length)
        ]

    assert refusal(with_card(around)) == (
        'the model has a damaged layertap card (the layer "r0" is inside itself). Export the model '
        "again."
    )


@pytest.mark.parametrize("text", ["[", '{"a":', '{"format": "1.3", "new": ' + "["])
def test_deeply_nested_json(text: str) -> None:
    assert "nested too deeply" in refusal(with_card_text(text * 100_000))


def test_unknown_keys_are_nested_a_little() -> None:
    deep: Any = 0
    for _ in range(40):
        deep = [deep]
    assert "nested too deeply" in refusal(with_card(lambda data: data.update(new=deep)))
    layertap.open(with_card(lambda data: data.update(new=[[[[0]]]])))


@pytest.mark.parametrize("place", ["parameters", "shape", "unknown", "recipe"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_integers_of_5000_digits(place: str, sign: str) -> None:
    mark = 1234567

    def marked(data: dict[str, Any]) -> None:
        if place == "parameters":
            data["layers"][1]["parameters"] = mark
        elif place == "shape":
            data["inputs"][0]["shape"][1] = mark
        elif place == "recipe":
            data["preprocessing"]["size"] = [mark, mark]
        else:
            data["unknown"] = mark

    made = onnx.ModelProto.FromString(with_card(marked))
    (entry,) = (item for item in made.metadata_props if item.key == KEY)
    entry.value = entry.value.replace(str(mark), sign + "9" * 5000)
    assert "is too large" in refusal(made.SerializeToString())


@pytest.mark.parametrize("shape", [[100_000, 100_000], [2**62, 2**62], [1, 2**40, 1]])
def test_golden_samples_of_a_large_shape(shape: list[int]) -> None:
    golden = {
        "seed": 0,
        "inputs": [{"name": "image", "shape": shape, "low": 0, "high": 1}],
        "layers": {"probs": {"shape": [1, 2], "norm": 1, "scale": 1, "values": [1, 1]}},
    }
    Path(MODEL_FILE).write_bytes(with_card(lambda data: data.update(golden=golden)))
    with quick():
        done = shell("check", MODEL_FILE)
    assert (done.code, done.out) == (2, "")
    assert "the golden sample in the card has more than 134,217,728 values" in done.err


def test_golden_activations_of_a_large_shape() -> None:
    golden = {
        "seed": 0,
        "inputs": [{"name": "image", "shape": [1, 8, 6, 3], "low": 0, "high": 1}],
        "layers": {"probs": {"shape": [100_000, 100_000], "norm": 1, "scale": 1, "values": [1, 1]}},
    }
    Path(MODEL_FILE).write_bytes(with_card(lambda data: data.update(golden=golden)))
    with quick():
        done = shell("check", MODEL_FILE)
    assert done.code == 1
    assert "'probs'" in done.out


# --- The recipe ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "error", "words"),
    [
        (40_000, PreprocessingError, r'"size" is \[40000, 40000\], which is more than \d+ pixels'),
        # Such a picture alone takes 2 GB, which Pillow's limit permits.
        (13_000, InputError, r"has shape \(\d, 13000, 13000, 3\), expected \(n, 8, 6, 3\)"),
    ],
)
def test_recipe_of_a_large_size_for_a_small_input(
    size: int, error: type[LayertapError], words: str
) -> None:
    data = with_card(lambda data: data.update(preprocessing={"size": [size, size]}))
    Image.new("RGB", (6, 8)).save("a.png")
    image = np.zeros((8, 6, 3), np.uint8)
    model = layertap.open(data)
    for given in ("a.png", ["a.png", "a.png"], image, image[None]):
        with quick(), pytest.raises(error, match=words):
            model.predict(given)
    assert model.predict(BATCH).shape == (1, 2)
    Path(MODEL_FILE).write_bytes(data)
    for command in (["run"], ["cam", "-o", "maps"]):
        with quick():
            done = shell(command[0], MODEL_FILE, "a.png", *command[1:])
        assert (done.code, done.out) == (2, "")
        assert f"{size}, {size}" in done.err


# --- The graph ----------------------------------------------------------------------------------


def test_tensors_of_20000_axes() -> None:
    sizes = [1 << 62] * 20_000

    def relu() -> onnx.ModelProto:
        return tiny.model(
            [tiny.node("Relu", "x", "y")], [tiny.value("x", [1])], [tiny.value("y", [1])]
        )

    def declare(made: onnx.ModelProto, value: onnx.ValueInfoProto) -> bytes:
        for size in sizes:
            value.type.tensor_type.shape.dim.add().dim_value = size
        return made.SerializeToString()

    of_input, of_output, of_weights, of_attribute = (relu() for _ in range(4))
    weights = of_weights.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT)
    weights.dims.extend(sizes)
    constant = of_attribute.graph.node.add(op_type="Constant", output=["c"])
    attribute = constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.dims.extend(sizes)
    for data in (
        declare(of_input, of_input.graph.input[0]),
        declare(of_output, of_output.graph.output[0]),
        of_weights.SerializeToString(),
        of_attribute.SerializeToString(),
    ):
        with quick(), pytest.raises(ModelFileError, match="a tensor has more than 255 axes"):
            layertap.open(data)


@pytest.mark.parametrize("count", [2_000, 20_000])
def test_node_with_many_inputs_and_outputs(count: int) -> None:
    reads, writes = ([f"{kind}{at}" for at in range(count)] for kind in "ab")
    node = helper.make_node("Much", reads, writes, domain="x")
    data = tiny.model(
        [node], [tiny.value("a0", [1])], [tiny.value("b0", [1])], domains={"x": 1}
    ).SerializeToString()
    if count == 20_000:
        assert "20000" not in refusal(data)
        return
    with quick():
        text = layertap.open(data).summary()
    assert f"b{count - 1}" in text
    assert len(text) < 1000 * count


def test_name_of_a_megabyte() -> None:
    name = "n" * 1_000_000
    data = tiny.model(
        [tiny.node("Relu", "x", name)], [tiny.value("x", [1])], [tiny.value(name, [1])]
    ).SerializeToString()
    model = layertap.open(data)
    with quick():
        texts = [str(model), repr(model), model.summary(), model._repr_html_()]
    for wrong in (name[1:], f"{name}\n", "other", "*x"):
        with quick(), pytest.raises(LayertapError) as caught:
            model.layer(wrong)
        texts.append(str(caught.value))
        with quick(), pytest.raises(LayertapError) as caught:
            model.activations({wrong: np.zeros(1, np.float32)}, layers=[name])
        texts.append(str(caught.value))
    assert max(map(len, texts)) < 20_000
    Path(MODEL_FILE).write_bytes(data)
    for command in ("info", "layers"):
        with quick():
            done = shell(command, MODEL_FILE)
        assert done.code == 0
        assert "nnnn" in done.out
        assert len(done.out) < 20_000


# --- Pipes --------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_pipes_are_not_waited_for() -> None:
    for name in ("pipe.onnx", "pipe.png", "pipe.npy"):
        os.mkfifo(name)
    Path(MODEL_FILE).write_bytes(tiny.image_classifier().SerializeToString())
    reason = "it is a pipe or a device, not a file"
    with pytest.raises(ModelFileError, match=reason):
        layertap.open("pipe.onnx")
    with pytest.raises(LayertapError, match=reason):
        layertap.open(MODEL_FILE).predict("pipe.png")
    for argv in (
        ["info", "pipe.onnx"],
        ["run", MODEL_FILE, "pipe.png"],
        ["run", MODEL_FILE, "pipe.npy"],
        ["run", MODEL_FILE, "."],
        ["cam", MODEL_FILE, "pipe.png", "-o", "maps"],
    ):
        done = fresh(*argv, cwd=Path.cwd())  # a process of its own is ended if it waits
        assert done.code in (1, 2), argv
        assert reason in done.err, argv


# --- Images that start programs -----------------------------------------------------------------

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
0 0 8 8 rectfill
showpage
%%EOF
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")
def test_eps_starts_no_program_unless_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import EpsImagePlugin

    (here / "bin").mkdir()
    program, started = here / "bin" / "gs", here / "started"
    program.write_text(f"#!/bin/sh\necho started > '{started}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # it is looked for once per process
    for name in ("evil.png", "evil.jpg", "evil.eps", "evil"):
        Path(name).write_bytes(EPS)
        for source in (name, EPS):
            with pytest.raises(layertap.ImageError, match="in the format EPS, which is read only"):
                layertap.load_image(source)
        done = shell("stats", name, "--size", "8x8")
        assert done.code != 0
        assert not started.exists()
    with pytest.raises(layertap.ImageError):  # because this program makes no picture
        layertap.load_image("evil.eps", formats=["EPS"])
    assert started.exists()
