"""Files with the results of `layertap run`, by their suffix."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import layertap as api
from generators import tiny
from shell import layertap


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny.save(tiny.differentiable(), tmp_path / "model.onnx")


def test_an_npy_file_holds_one_layer(file: Path, pictures: Path) -> None:
    done = layertap("run", file, pictures, "--layers", "conv", "-o", "out.npy")
    assert (done.code, done.err) == (0, "wrote out.npy: conv (5, 8, 6, 4)\n")
    expected = api.open(file).activations(sorted(pictures.iterdir()), "conv")
    np.testing.assert_allclose(np.load("out.npy"), expected, atol=1e-6)


def test_a_csv_file_has_a_row_for_each_image(file: Path, pictures: Path) -> None:
    """And every digit of the values."""
    done = layertap("run", file, pictures, "--layers", "conv=mean", "probs", "-o", "out.CSV")
    assert done.code == 0
    with open("out.CSV", encoding="utf-8", newline="") as stream:
        head, *rows = csv.reader(stream)
    assert head == [
        "image", *(f"conv[{at}]" for at in range(4)), *(f"probs[{at}]" for at in range(3)),
    ]  # fmt: skip
    paths = sorted(map(str, pictures.iterdir()))
    assert [row[0] for row in rows] == paths
    done = layertap("run", file, pictures, "--layers", "conv=mean", "probs", "-o", "out.npz")
    arrays = np.load("out.npz")
    found = np.array([row[1:] for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(found, np.hstack([arrays["conv"], arrays["probs"]]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--layers", "conv", "relu", "-o", "out.npy"],
            "an .npy file holds one result, got 2. Select one layer, or give an .npz file.",
        ),
        (
            ["--layers", "conv", "-o", "out.txt"],
            "the name of the output must end in .npz, .npy or .csv, got 'out.txt'.",
        ),
    ],
)
def test_what_does_not_fit_is_an_error(
    file: Path, pictures: Path, options: list[str], words: str
) -> None:
    done = layertap("run", file, pictures, *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(f"layertap: {words}\n")
    assert not list(Path().glob("out.*"))


def test_too_many_columns_are_an_error(
    file: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layertap.cli.result_files.MOST_COLUMNS", 100)
    done = layertap("run", file, pictures, "--layers", "conv", "-o", "out.csv")
    assert done.code == 2
    assert done.err.endswith(
        "a .csv file has at most 100 columns, but 'conv' alone has 192 values for each image. "
        "Reduce it, as in --layers conv=mean, or give an .npz file.\n"
    )
    assert not Path("out.csv").exists()
