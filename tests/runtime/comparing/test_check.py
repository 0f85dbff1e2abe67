"""The golden sample: what `layertap check` says of a healthy file, and of a damaged one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import layertap
from cards import golden_of
from generators import tiny
from layertap.cli import main
from layertap.comparing.check import check
from layertap.comparing.golden import indices, uniform, weighted_sums
from layertap.format.card import (
    KEY,
    Card,
    Golden,
    GoldenInput,
    GoldenLayer,
    LayerCheck,
    Verification,
)


def golden_chain(sums: int = 3) -> onnx.ModelProto:
    """`tiny.linear_chain` with a golden sample, computed in float64."""
    made = tiny.linear_chain()
    weights: Mapping[str, NDArray[np.float64]] = {
        item.name: numpy_helper.to_array(item).astype(np.float64) for item in made.graph.initializer
    }
    x = uniform((3, 4), -1.0, 1.0, seed=0).astype(np.float32).astype(np.float64)
    layers = {}
    for name in "abc":
        x = x @ weights[f"{name}/w"] + weights[f"{name}/b"]
        layers[name] = GoldenLayer(
            shape=x.shape,
            norm=float(np.linalg.norm(x)),
            scale=float(np.abs(x).max()),
            values=tuple(x.ravel()[indices(x.size, 5)].tolist()),
            sums=tuple(weighted_sums(x.ravel(), sums).tolist()) or None,
        )
    inputs = (GoldenInput(name="x", shape=(3, 4), low=-1.0, high=1.0),)
    card = Card.from_json(next(p.value for p in made.metadata_props if p.key == KEY))
    card = replace(card, golden=Golden(seed=0, inputs=inputs, layers=layers))
    onnx.helper.set_model_props(made, {KEY: card.to_json()})
    return made


def damaged(name: str, factor: Any, sums: int = 3) -> onnx.ModelProto:
    """The same file with one weight scaled after the export."""
    made = golden_chain(sums)
    for item in made.graph.initializer:
        if item.name == name:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * factor, name))
    return made


def test_a_healthy_file_passes(tmp_path: Path) -> None:
    model = layertap.open(tiny.save(golden_chain(), tmp_path / "chain.onnx"))
    report = check(model)
    assert report
    assert [layer.name for layer in report.layers] == ["a", "b", "c"]
    assert max(layer.scaled for layer in report.layers) < 1e-6


@pytest.mark.parametrize("factor", [np.float32(1.001), np.float32(np.nan)])
def test_the_first_layer_that_diverges_is_named(factor: float, tmp_path: Path) -> None:
    model = layertap.open(tiny.save(damaged("b/w", factor), tmp_path / "chain.onnx"))
    report = check(model)
    assert not report
    assert [layer.name for layer in report.failed] == ["b", "c"]
    assert str(report).startswith(
        "2 of 3 layers differ from the golden sample on cpu. The first to diverge is 'b', by "
    )


def test_an_app_can_check_itself(tmp_path: Path) -> None:
    assert layertap.open(tiny.save(golden_chain(), tmp_path / "good.onnx")).check()
    report = layertap.open(
        tiny.save(damaged("b/w", np.float32(1.001)), tmp_path / "b.onnx")
    ).check()
    assert isinstance(report, layertap.CheckReport)
    assert not report
    a, b, c = report.layers
    assert [row.passed for row in report.layers] == [True, False, False]
    assert report.worst() == tuple(sorted((a, b, c), key=lambda row: -row.scaled))
    assert report.worst(1)[0] in (b, c)
    lines = report.table().splitlines()
    assert lines[0].split() == ["layer", "scaled", "error", "allowed"]
    assert [line.split()[0] for line in lines[2:]] == ["a", "b", "c"]
    assert [line.endswith("differs") for line in lines[2:]] == [False, True, True]
    assert len(report.table(2).splitlines()) == 4
    found = report.to_dict(1)
    assert (found["passed"], found["compared"], found["failed"]) == (False, 3, 2)
    assert [row["name"] for row in found["layers"]] == [report.worst(1)[0].name]
    with pytest.raises(layertap.UsageError, match="worst must be at least 1, got 0"):
        report.table(0)


@pytest.mark.parametrize("value", [np.float32(1.001), np.float32(np.nan)])
def test_the_command_prints_layers(
    value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tiny.save(damaged("b/w", value), tmp_path / "chain.onnx"))
    assert main(["check", path, "--table"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["a", "b", "c"]
    assert lines[-1].startswith("2 of 3 layers differ")
    assert main(["check", path, "--worst", "1"]) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:3]] in (["b"], ["c"])
    assert main(["check", path, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["layers"]] == ["a", "b", "c"]
    assert (report["layers"][1]["scaled"] is None) == bool(np.isnan(value))
    assert main(["check", path, "--worst", "0"]) == 2
    assert "--worst must be at least 1, got 0" in capsys.readouterr().err


def test_two_swapped_columns_are_found_by_the_sums_alone(tmp_path: Path) -> None:
    """The file keeps no values and no norm that could show it."""
    made = golden_chain()
    card = Card.from_json(next(p.value for p in made.metadata_props if p.key == KEY))
    golden = golden_of(card)
    layers = {name: replace(one, values=()) for name, one in golden.layers.items()}
    card = replace(card, golden=replace(golden, layers={"b": layers["b"]}))
    onnx.helper.set_model_props(made, {KEY: card.to_json()})
    assert check(layertap.open(tiny.save(made, tmp_path / "good.onnx")))
    for item in made.graph.initializer:
        if item.name.startswith("b/"):
            value = numpy_helper.to_array(item)[..., [1, 0, 2]]
            item.CopyFrom(numpy_helper.from_array(value, item.name))
    report = check(layertap.open(tiny.save(made, tmp_path / "bad.onnx")))
    assert [layer.name for layer in report.failed] == ["b"]


def test_files_of_before_are_checked_as_before(tmp_path: Path) -> None:
    good = layertap.open(tiny.save(golden_chain(sums=0), tmp_path / "good.onnx"))
    assert good.card is not None
    assert golden_of(good.card).layers["b"].sums is None
    assert check(good)
    bad = damaged("b/w", np.float32(1.001), sums=0)
    assert not check(layertap.open(tiny.save(bad, tmp_path / "bad.onnx")))


def test_more_is_allowed_where_keras_itself_is_inexact(tmp_path: Path) -> None:
    made = damaged("c/w", np.float32(1.001))
    card = Card.from_json(next(p.value for p in made.metadata_props if p.key == KEY))
    exact = LayerCheck(max_abs=1e-6, scaled=1e-6)
    for reference, passes in ((None, False), (1e-4, False), (1e-3, True)):
        checks = {"a": exact, "b": exact, "c": replace(exact, reference=reference)}
        verification = Verification(
            tolerance=1e-4, batches=("seeded",), onnxruntime="1.20", layers=checks
        )
        text = replace(card, verification=verification).to_json()
        onnx.helper.set_model_props(made, {KEY: text})
        model = layertap.open(tiny.save(made, tmp_path / "chain.onnx"))
        assert bool(check(model)) is passes
        assert not check(model, tolerance=1e-4)  # what the caller says counts for all


def test_a_file_without_a_golden_sample_says_so(tmp_path: Path) -> None:
    path = tiny.save(tiny.linear_chain(), tmp_path / "plain.onnx")
    with pytest.raises(layertap.ModelFileError) as caught:
        check(layertap.open(path))
    assert str(caught.value) == (
        f"{str(path)!r} has no golden sample to check against; files that layertap exports do."
    )


def test_the_check_command_reports_and_exits_by_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tiny.save(golden_chain(), tmp_path / "good.onnx")
    bad = tiny.save(damaged("c/b", 2.0), tmp_path / "bad.onnx")
    assert main(["check", str(good)]) == 0
    assert capsys.readouterr().out.startswith("3 layers agree with the golden sample on cpu: ")
    assert main(["check", str(bad)]) == 1
    assert "The first to diverge is 'c'" in capsys.readouterr().out
    assert main(["check", str(bad), "--tolerance", "1000"]) == 0
