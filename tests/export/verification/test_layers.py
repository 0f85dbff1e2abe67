"""Verification: what passes, what fails, and what is said of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import layertap
import layertap_export
from cards import failed_in
from layertap.cli import main

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # Files that were changed on purpose: `verify`, `open` and `check` warn of that.
    pytest.mark.filterwarnings("ignore::layertap.LayertapWarning"),
]


def tampered(source: Path, target: Path, weight: str, change: Any) -> Path:
    """A copy of the file in which one weight is another."""
    model = onnx.load(source)
    (item,) = [x for x in model.graph.initializer if x.name == weight]
    item.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(item)), weight))
    onnx.save(model, target)
    return target


def test_a_good_file_passes(small: Any, small_file: Path) -> None:
    report = layertap_export.verify(small_file, small)
    assert report
    assert report.failed == ()
    assert [x.name for x in report.layers] == [x.name for x in small.layers if x.name != "image"]
    assert 0 < report.worst.scaled < 1e-5
    assert report.batches == (
        "29 x 7 x 9 x 3, seeded",
        "1 x 7 x 9 x 3, seeded",
        "292 x 7 x 9 x 3, seeded",
        "1 x 7 x 9 x 3, zeros",
        "294 x 7 x 9 x 3, negative",
        "1 x 7 x 9 x 3, times 100",
    )
    report.raise_if_failed()


def test_a_tampered_weight_is_found_where_it_is(
    small: Any, small_file: Path, tmp_path: Path
) -> None:
    bad = tampered(
        small_file, tmp_path / "bad.onnx", "bn/BatchNormalization/scale", lambda w: w * 1.01
    )
    report = layertap_export.verify(bad, small)
    assert not report
    assert [x.name for x in report.failed] == ["bn", "relu", "add", "drop", "pool", "gap", "dense"]
    lines = str(report).splitlines()
    assert lines[0] == (
        f"{bad} is not what Keras computes: 7 of 8 layers differ by more than 1e-04 of their "
        "scale. The first to diverge is 'bn'."
    )
    assert lines[1].split() == ["layer", "max", "abs", "diff", "scaled", "error"]
    assert lines[2].startswith("bn ")
    assert len(lines) == 2 + 7 + 1
    assert lines[-1].startswith("against Keras in float64 the file's largest scaled error is ")
    with pytest.raises(layertap_export.VerificationError) as caught:
        report.check()
    assert caught.value.report is report
    assert str(caught.value) == str(report)


def test_a_nan_fails_whatever_the_tolerance(small: Any, small_file: Path, tmp_path: Path) -> None:
    bad = tampered(
        small_file, tmp_path / "bad.onnx", "conv/Conv/B", lambda b: b * np.float32("nan")
    )
    report = layertap_export.verify(bad, small, tolerance=1e9)
    assert report.failed[0].name == "conv"
    assert report.failed[0].problem == "NaN or infinite"
    assert "NaN or infinite" in str(report)


def test_the_tolerance_decides(small: Any, small_file: Path, tmp_path: Path) -> None:
    bad = tampered(
        small_file, tmp_path / "bad.onnx", "bn/BatchNormalization/scale", lambda w: w * 1.01
    )
    assert layertap_export.verify(bad, small, tolerance=5e-2)
    assert not layertap_export.verify(bad, small, tolerance=1e-3)


def test_a_tolerance_that_keras_cannot_hold(small: Any, small_file: Path) -> None:
    """A good file passes, with that said."""
    report = layertap_export.verify(small_file, small, tolerance=1e-12)
    assert report
    assert {x.name for x in report.unsteady} >= {"conv", "bn", "dense"}
    assert "of these differ by more than 1e-12, up to " in str(report)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_an_invalid_tolerance_is_refused(tolerance: float, small: Any, small_file: Path) -> None:
    with pytest.raises(layertap.UsageError) as caught:
        layertap_export.verify(small_file, small, tolerance=tolerance)
    assert str(caught.value) == (
        f"tolerance must be a finite number of at least 0, got {tolerance}."
    )


def test_another_model_with_the_same_inputs(keras: Any, small_file: Path) -> None:
    image = keras.Input((7, 9, 3), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(image)
    x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    other = keras.Model(image, keras.layers.Dense(3, name="dense")(x))
    report = layertap_export.verify(small_file, other)
    problems = {x.name: x.problem for x in report.failed}
    assert problems["conv"] == "shape (64, 7, 9, 8) instead of (64, 7, 9, 4)"
    assert problems["bn"] == "the model has no such layer"


def test_a_model_with_other_inputs(keras: Any, small_file: Path) -> None:
    other = keras.Sequential([keras.Input((4,), name="numbers"), keras.layers.Dense(2)])
    with pytest.raises(layertap_export.ExportError) as caught:
        layertap_export.verify(small_file, other)
    assert str(caught.value) == (
        f"{str(small_file)!r} was made from another model: its inputs are 'image' "
        "(None, 7, 9, 3), the model's are 'numbers' (None, 4)."
    )


def test_a_file_without_a_card(small: Any, small_file: Path, tmp_path: Path) -> None:
    model = onnx.load(small_file)
    del model.metadata_props[:]
    path = tmp_path / "plain.onnx"
    onnx.save(model, path)
    with pytest.raises(layertap.ModelFileError) as caught:
        layertap_export.verify(path, small)
    assert str(caught.value) == (
        f"{str(path)!r} has no layertap card, so its layers cannot be matched by name. "
        "Export the model with `layertap export`, which writes one."
    )


def test_the_users_own_images(small: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    recipe = {"size": [7, 9], "scaling": {"mode": "tf"}}
    report = layertap_export.export(
        small, tmp_path / "small.onnx", preprocess=recipe, samples=[tmp_path / "image.png"]
    )
    assert report.verification.batches[-1] == "1 x 7 x 9 x 3, your images"
    with pytest.raises(layertap.ImageError, match="no such file"):
        layertap_export.export(small, tmp_path / "x.onnx", preprocess=recipe, samples=["none.png"])
    assert not (tmp_path / "x.onnx").exists()


def test_what_conversion_gets_wrong_is_caught(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with an operation converted to another one is refused; the error names the layer."""
    from layertap_export.convert import tf_ops
    from layertap_export.convert.tf_ops.expressions import formula

    wrong = {**tf_ops.HANDLERS, "Erfc": formula(lambda x: x.op("Erf"))}
    monkeypatch.setattr(tf_ops, "HANDLERS", wrong)
    layers = [keras.Input((6,)), keras.layers.Dense(3, name="dense")]
    model = keras.Sequential([*layers, keras.layers.Activation("gelu", name="gelu")])
    with pytest.raises(layertap_export.VerificationError) as caught:
        layertap_export.export(model, tmp_path / "gelu.onnx")
    assert failed_in(caught.value) == ["gelu"]
    assert list(tmp_path.iterdir()) == []


def test_the_verify_command_reports_and_exits_by_the_result(
    small: Any, small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "small.keras"
    small.save(model)
    good = shutil.copy(small_file, tmp_path / "good.onnx")
    bad = tampered(small_file, tmp_path / "bad.onnx", "dense/MatMul/B", lambda w: w * 2)
    assert main(["verify", str(good), str(model)]) == 0
    assert capsys.readouterr().err == ""
    assert main(["verify", str(bad), str(model)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "The first to diverge is 'dense'." in printed.err
    assert main(["verify", str(bad), str(model), "--json"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["passed"], found["reference"]) == (False, "Keras")
    assert found["compared"] == len(found["layers"])
    dense, *others = [row for row in found["layers"] if not row["passed"]]
    assert found["failed"] == 1 + len(others) < found["compared"]
    assert (dense["name"], dense["problem"]) == ("dense", "")
    assert dense["scaled"] > found["tolerance"]


def test_the_card_keeps_two_digits(small: Any, small_file: Path) -> None:
    """So that noise in the last digits does not change the file."""
    report = layertap_export.verify(small_file, small)
    card = layertap.open(small_file).card
    assert card is not None
    assert card.verification == report.for_card()
    worst = card.verification.layers[report.worst.name]
    assert worst.scaled == float(f"{report.worst.scaled:.2g}")
