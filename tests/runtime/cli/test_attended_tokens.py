"""`layertap run --tokens`, and what `layertap layers` and `cam` say of attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import layertap as library
from generators import transformers
from shell import layertap

SCORES = "1/mha/attention_scores"
X = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a text, an image, and a batch of each."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_bytes(transformers.text_transformer().SerializeToString())
    (tmp_path / "vit.onnx").write_bytes(transformers.vision_transformer().SerializeToString())
    np.save("one.npy", X[:1])
    np.save("two.npy", X)
    np.save("image.npy", np.zeros((1, 6, 8, 3), np.float32))
    Path("tokens.txt").write_text("the\ncat\n\x1b[2Jsat\n")
    return tmp_path


def best(scores: np.ndarray, names: list[str]) -> list[str]:
    """The expected lines, from scores `(heads, queries, keys)`."""
    mean = scores.astype(np.float64).mean(axis=0)[: len(names), : len(names)]
    lines = []
    for query, row in enumerate(mean):
        keys = sorted(range(len(names)), key=lambda key: -row[key])[:3]
        read = ", ".join(f"{names[key]} {row[key]:.3f}" for key in keys)
        lines.append(f"{names[query]} {read}")
    return lines


def printed(out: str) -> list[str]:
    """The lines of the last table, with single spaces."""
    table = out.rpartition("-\n")[2].splitlines()
    return [" ".join(line.split()) for line in table]


def test_each_query_is_printed_with_the_keys_that_it_reads_most(folder: Path) -> None:
    scores = library.open("text.onnx").activations(X, SCORES)
    done = layertap("run", "text.onnx", "one.npy", "--layers", "attention")
    assert done.code == 0
    assert printed(done.out) == best(scores[0], [str(at) for at in range(5)])
    assert done.out.count("attends to") == 2


def test_only_the_tokens_of_the_text_are_printed(folder: Path) -> None:
    scores = library.open("text.onnx").activations(X, SCORES)
    done = layertap("run", "text.onnx", "one.npy", "--layers", SCORES, "--tokens", "tokens.txt")
    assert done.code == 0
    assert printed(done.out) == best(scores[0], ["0 the", "1 cat", r"2 \x1b[2Jsat"])


def test_of_a_batch_the_first_sample_is_printed(folder: Path) -> None:
    done = layertap("run", "text.onnx", "two.npy", "--layers", SCORES)
    assert f"\n{SCORES}, the first of 2 samples\n" in done.out


def test_scores_of_patches_and_other_layers_are_not_printed(folder: Path) -> None:
    done = layertap("run", "vit.onnx", "image.npy", "--layers", "attention")
    assert (done.code, "attends to" in done.out) == (0, False)
    done = layertap("run", "text.onnx", "one.npy", "--layers", "0/add")
    assert (done.code, "attends to" in done.out) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["vit.onnx", "image.npy", "--layers", "attention", "--tokens", "tokens.txt"],
            "--tokens names the tokens of a text, for the scores of attention: give --layers "
            "attention, or the name of a layer of scores without patches of an image.",
        ),
        (
            ["text.onnx", "two.npy", "--layers", "attention", "--tokens", "tokens.txt"],
            "--tokens names the tokens of one sample, got a batch of several.",
        ),
        (
            ["text.onnx", "one.npy", "--layers", "attention", "--tokens", "gone.txt"],
            "--tokens 'gone.txt' cannot be read: No such file or directory.",
        ),
        (
            ["text.onnx", "one.npy", "--layers", "attention", "--tokens", "empty.txt"],
            "--tokens 'empty.txt' is empty: give one token a line.",
        ),
        (
            ["text.onnx", "one.npy", "--layers", SCORES, "--tokens", "tokens.txt", "-o", "x.npz"],
            "--tokens is for the table that is printed, which -o replaces.",
        ),
    ],
)
def test_tokens_that_cannot_be_printed(folder: Path, arguments: list[str], message: str) -> None:
    Path("empty.txt").write_text("")
    done = layertap("run", *arguments)
    assert done.code == 2
    assert message in done.err
    assert not done.out


def test_the_table_of_layers_shows_the_price(folder: Path) -> None:
    out = layertap("layers", "vit.onnx").out
    assert out.endswith(
        "\n\n2 layers of attention scores, 0.0027 MB a sample: not in `all`; --layers attention\n"
    )
    assert "attention scores" not in layertap("layers", "vit.onnx", "--layers", "*").out
    rows = json.loads(layertap("layers", "vit.onnx", "--layers", "attention", "--json").out)
    assert [row["bytes"] for row in rows] == [2 * 13 * 13 * 4] * 2


def test_rollout_is_written_for_an_image(folder: Path) -> None:
    done = layertap(
        "cam", "vit.onnx", "image.npy", "-o", "out", "--method", "rollout", "--heads", "min"
    )
    assert done.code == 0
    report = json.loads(Path("out", "cam.json").read_text())
    assert (report["layer"], report["method"]) == ("attention", "rollout")
    expected = library.open("vit.onnx").cam(np.load("image.npy"), method="rollout", heads="min")
    found = np.load(Path("out", report["images"][0]["maps"]))
    np.testing.assert_array_equal(found, expected[0, 0])
    done = layertap("cam", "vit.onnx", "image.npy", "-o", "out", "--heads", "min")
    assert done.err.endswith("--heads is for --method rollout, got --method gradcam.\n")
