"""`layertap models`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from layertap.errors import OutputError, UsageError
from layertap.images.preprocessing import Preprocessing
from layertap_models import MODELS
from layertap_models.cli import MODELS as COMMAND


def models(*argv: str | Path) -> int:
    """Run `layertap models` with these arguments."""
    parser = argparse.ArgumentParser(prog="layertap models")
    COMMAND.configure(parser)
    return COMMAND.run(parser.parse_args([str(arg) for arg in argv]))


def test_models_are_listed_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert models() == 0
    shown = capsys.readouterr()
    assert [line.split(maxsplit=8) for line in shown.out.splitlines()[:2]] == [
        ["NAME", "INPUT", "OUTPUTS", "ENTRY", "POINT", "DESCRIPTION"],
        [
            *("chest_xray", "320", "x", "320", "x", "3", "14"),
            "layertap_models.chest_xray:build",
            "DenseNet121 that scores a frontal chest X-ray for 14 findings.",
        ],
    ]
    starts = {
        line.index(word)
        for line, word in zip(
            shown.out.splitlines(),
            ("ENTRY POINT", "layertap_models.chest_xray:build", "layertap_models.digits:train"),
            strict=True,
        )
    }
    assert len(starts) == 1
    assert shown.err == ""


def test_json_describes_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert models("--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(MODELS)
    assert list(rows[0]) == [
        *("name", "title", "entry_point", "input_shape", "labels", "preprocessing"),
        *("source", "licence"),
    ]
    assert rows[1]["input_shape"] == [8, 8, 1]
    assert models("digits", "--json") == 0
    assert json.loads(capsys.readouterr().out) == rows[1]


def test_one_model_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert models("digits") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "digits: Small CNN that reads handwritten digits, 8 x 8; it trains in seconds.",
        "",
        "input          8 x 8 x 1",
        "outputs        0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        'preprocessing  {"size": [8, 8], "color_mode": "grayscale", "interpolation": "box", '
        '"scaling":',
    ]
    assert lines[-2:] == [
        "files          layertap models digits --write FOLDER",
        "export         layertap export layertap_models.digits:train -o digits.onnx",
    ]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", MODELS)
def test_write_creates_labels_and_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """`layertap export` accepts the files, and the command for it is printed."""
    folder = tmp_path / "my models" / name
    assert models(name, "--write", folder) == 0
    labels, preprocess = folder / "labels.txt", folder / "preprocess.json"
    assert sorted(folder.iterdir()) == [labels, preprocess]
    assert labels.read_text("utf-8") == "".join(f"{label}\n" for label in MODELS[name].labels)
    assert Preprocessing.load(preprocess) == Preprocessing.from_dict(MODELS[name].preprocessing)
    shown = capsys.readouterr()
    assert shown.out == f"{labels}\n{preprocess}\n"
    assert shown.err == (
        f"next: layertap export {MODELS[name].entry_point} -o {name}.onnx "
        f"--labels '{labels}' --preprocess '{preprocess}'\n"
    )


def test_samples_creates_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models("chest_xray", "--write", tmp_path, "--samples", "2", "--seed", "5") == 0
    written = [tmp_path / "images" / f"phantom_00{n}.png" for n in (5, 6)]
    assert sorted((tmp_path / "images").iterdir()) == written
    assert capsys.readouterr().out.splitlines()[2:] == [str(path) for path in written]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--write", "x"], "--write requires the NAME of a model: chest_xray or digits."),
        (
            ["digits", "--samples", "3"],
            "--samples and --seed require --write FOLDER.",
        ),
        (
            ["digits", "--write", "x", "--seed", "3"],
            "--seed requires --samples N, because it is the seed of the images.",
        ),
        (
            ["chest_xray", "--write", "x", "--samples", "0"],
            "count must be at least 1, got 0.",
        ),
    ],
)
def test_invalid_arguments_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        models(*argv)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError) as caught:
        models("digits", "--write", tmp_path / "taken")
    assert str(caught.value) == (
        f"cannot create the folder {str(tmp_path / 'taken')!r}: File exists."
    )


def test_json_and_write_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        models("digits", "--json", "--write", "x")
    assert caught.value.code == 2
    assert "argument --write: not allowed with argument --json" in capsys.readouterr().err


def test_command_does_not_import_tensorflow() -> None:
    """The list is printed without TensorFlow and other slow imports."""
    code = (
        "import sys, argparse; from layertap_models.cli import MODELS\n"
        "parser = argparse.ArgumentParser(); MODELS.configure(parser)\n"
        "MODELS.run(parser.parse_args(['--json']))\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'PIL', 'onnxruntime'} & sys.modules.keys()\n"
        "print(heavy, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == "set()\n"
