"""`layertap layers --cost`, `--measure` and `--split`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import layertap as package
from shell import layertap

TinyFile = Callable[[str], Path]


@pytest.fixture
def classifier(tiny_file: TinyFile) -> Path:
    return tiny_file("image_classifier")


def test_the_table_is_that_of_python(classifier: Path) -> None:
    done = layertap("layers", classifier, "--cost")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{package.open(classifier).cost()}\n"
    one = layertap("layers", classifier, "--cost", "--layers", "conv", "--json")
    assert [row["name"] for row in json.loads(one.out)["layers"]] == ["conv"]


def test_layers_that_are_not_exposed_are_in_the_table(classifier: Path) -> None:
    assert "hidden" in layertap("layers", classifier, "--cost").out


@pytest.mark.parametrize("what", ["random", "batch.npy"])
def test_times(
    classifier: Path, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("batch.npy", np.zeros((1, 8, 6, 3), np.float32))
    done = layertap("layers", classifier, "--measure", what, "--runs", "2", "--json")
    found = json.loads(done.out)
    assert found["milliseconds"] > 0
    assert all(row["milliseconds"] >= 0 for row in found["layers"])


def test_the_commands_of_a_split_make_both_parts(
    tiny_file: TinyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(tiny_file("digits").read_bytes())
    done = layertap("layers", "model.onnx", "--split", "1MB/s", "--server-speed", "3")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("At 8 Mbit/s, with a server 3 times as fast as this device:\n")
    lines = done.out.splitlines()[-2:]
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "layertap"
        assert layertap(*words[1:]).code == 0
    batch = np.random.default_rng(0).random((1, 8, 8, 1)).astype(np.float32)
    first, second = (package.open(f"model.{part}.onnx") for part in ("device", "server"))
    sent = {info.name: first.predict(batch) for info in first.outputs}
    whole = package.open("model.onnx").predict(batch)
    assert np.allclose(second.predict(sent), whole, atol=1e-6)


def test_a_split_as_json(tiny_file: TinyFile) -> None:
    done = layertap("layers", tiny_file("digits"), "--split", "1MB/s", "--json", "--runs", "1")
    split = json.loads(done.out)["split"]
    assert split["bytes_per_second"] == 1e6
    assert split["server_speed"] == 10
    totals = [place["total"] for place in split["places"]]
    assert totals == sorted(totals)
    assert [place["where"] for place in split["uncut"]] == [
        "all on the server",
        "all on the device",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cost", "--size", "8x8"], "has 0 free sizes after the batch. Leave size out."),
        (["--cost", "--on", "x.png"], "--on is for the values of layers, not for their cost."),
        (["--cost", "--batch", "4"], "the cost is that of one sample. Leave out --batch."),
        (["--split", "fast"], "the bandwidth 'fast' is not a number with a unit."),
        (["--split", ""], "the bandwidth '' is not a number with a unit."),
        (["--measure", ""], "there is no"),
        (["--device", "cuda"], "--device is for --on and --measure, and the table runs nothing."),
        (["--split", "0MB/s"], "the bandwidth must be more than 0."),
        (["--cost", "--server-speed", "3"], "--server-speed is for --split BANDWIDTH. Give both."),
        (["--split", "1MB/s", "--server-speed", "0"], "server_speed must be more than 0, got 0."),
        (["--measure", "none.png"], "none.png"),
        (["--measure", "none.npy"], "none.npy"),
        (["--measure", "random", "--runs", "0"], "runs must be at least 1, got 0."),
        (["--runs", "3"], "--runs is for the cost of layers: give --measure, too."),
        (["--server-speed", "3"], "--server-speed is for the place to cut: give --split, too."),
        (["--cost", "--runs", "3"], "--runs is for measured times: give --measure, too."),
        (["--cost", "--threads", "1"], "--threads is for measured times: give --measure, too."),
        (["--cost", "--device", "cuda"], "--device is for measured times: give --measure, too."),
        (["--cost", "--preprocess", "r.json"], "--preprocess is for an image: give --measure"),
        (["--measure", "random", "--preprocess", "r.json"], "--preprocess is for an image"),
        (["--sort", "dead"], "--sort is for --on and --cost. Give one of them, too."),
        (["--cost", "--sort", "ms"], "the table has no column 'ms' to sort by."),
        (["--cost", "--sort", "parameter"], "Did you mean 'parameters'?"),
        (["--cost", "--layers", "cnv"], "Did you mean 'conv'?"),
    ],
)
def test_bad_input(classifier: Path, more: list[str], message: str) -> None:
    done = layertap("layers", classifier, *more)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_the_layers_are_sorted(classifier: Path) -> None:
    done = layertap("layers", classifier, "--cost", "--sort", "multiply-adds", "--json")
    names = [row["name"] for row in json.loads(done.out)["layers"]]
    assert (names[:2], len(names)) == (["conv", "probs"], 7)
    table = layertap("layers", classifier, "--cost", "--sort", "multiply-adds").out
    assert table.splitlines()[4].split()[1] == "conv"


@pytest.mark.parametrize(
    ("shape", "size", "shapes"),
    [
        (["n", "length"], "5", [1, 5]),
        (["n", "h", "w"], "5", [1, 5, 5]),
        (["n", "h", "w", "d"], "5x6x7", [1, 5, 6, 7]),
        (["n", "h", 4], "5", [1, 5, 4]),
    ],
)
def test_the_size_of_texts_and_volumes(
    shape: list[str | int], size: str, shapes: list[int], tmp_path: Path
) -> None:
    from generators import tiny

    made = tiny.model(
        [tiny.node("Relu", "x", "y")], [tiny.value("x", shape)], [tiny.value("y", shape)]
    )
    file = tiny.save(made, tmp_path / "free.onnx")
    done = layertap("layers", file, "--cost", "--size", size, "--json")
    assert json.loads(done.out)["inputs"] == {"x": shapes}


def test_a_file_without_layers(tmp_path: Path) -> None:
    from generators import tiny

    made = tiny.model([], [tiny.value("x", ["n", 3])], [tiny.value("x", ["n", 3])])
    file = tiny.save(made, tmp_path / "none.onnx")
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.float32))
    for more in (["--cost"], ["--on", str(tmp_path / "x.npy")]):
        done = layertap("layers", file, *more)
        assert (done.code, done.out) == (2, "")
        assert "layers" in done.err
