"""How far statistics are from those of a reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import layertap
from generators import tiny
from layertap.errors import UsageError

TinyFile = Callable[[str], Path]


@pytest.fixture
def model() -> layertap.Model:
    made = tiny.model(
        [
            tiny.node("Mul", "x gain", "scaled"),
            tiny.node("Relu", "scaled", "y"),
        ],
        [tiny.value("x", ["n", 3])],
        [tiny.value("y", ["n", 3]), tiny.value("scaled", ["n", 3])],
        [tiny.constant("gain", [1, 1, 1], np.float32)],
    )
    return layertap.open(made.SerializeToString())


def test_a_shift_and_a_wider_deviation_are_measured(model: layertap.Model) -> None:
    reference = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    moved = (2 * np.random.default_rng(1).normal(size=(2000, 3)) + 0.5).astype(np.float32)
    drift = layertap.Drift(model.layer_statistics(moved), model.layer_statistics(reference))
    row = drift.rows[0]
    assert row.name == "scaled"
    mean, std = reference.mean(dtype=float), reference.std(dtype=float)
    assert row.shift == pytest.approx((moved.mean(dtype=float) - mean) / std, rel=1e-4)
    assert row.ratio == pytest.approx(moved.std(dtype=float) / std, rel=1e-4)
    assert row.divergence is not None
    assert 0.05 < row.divergence < 0.3
    assert (row.newly_dead, row.revived) == ((), ())


def test_channels_that_die_and_come_back(model: layertap.Model) -> None:
    one, other = np.ones((5, 3), np.float32), np.ones((5, 3), np.float32)
    one[:, 0], other[:, 2] = -1, -1
    drift = layertap.Drift(model.layer_statistics(one, "y"), model.layer_statistics(other, "y"))
    assert (drift.rows[0].newly_dead, drift.rows[0].revived) == ((0,), (2,))


def test_the_same_images_do_not_drift(model: layertap.Model) -> None:
    found = model.layer_statistics(np.random.default_rng(0).normal(size=(50, 3)).astype("float32"))
    for row in layertap.Drift(found, found).rows:
        assert (row.shift, row.ratio, row.divergence, row.zeros) == (0, 1, 0, 0)


def test_layers_that_only_one_has(model: layertap.Model) -> None:
    x = np.ones((5, 3), np.float32)
    both, one = model.layer_statistics(x), model.layer_statistics(x, "y")
    drift = layertap.Drift(both, one)
    assert [row.name for row in drift.rows] == ["y"]
    assert (drift.only_on, drift.only_against) == (("scaled",), ())
    assert str(drift).splitlines()[-1] == "Not in the reference: scaled"
    other = layertap.Drift(one, both)
    assert str(other).splitlines()[-1] == "Only in the reference: scaled"
    assert other.to_dict()["only_against"] == ["scaled"]
    with pytest.raises(UsageError, match="have no layer of the same name"):
        layertap.Drift(model.layer_statistics(x, "scaled"), one)


def test_values_that_became_nan_are_seen(model: layertap.Model) -> None:
    x = np.ones((4, 3), np.float32)
    broken = x.copy()
    broken[0, 0], broken[1, 0] = np.nan, np.inf
    drift = layertap.Drift(
        model.layer_statistics(broken, "scaled"), model.layer_statistics(x, "scaled")
    )
    assert drift.rows[0].not_finite == 2 / 12
    assert "NaN, Inf" in str(drift)
    assert "+16.7%" in str(drift)
    same = model.layer_statistics(x, "scaled")
    assert "NaN, Inf" not in str(layertap.Drift(same, same))


def test_rows_are_sorted_by_how_far_they_are(model: layertap.Model) -> None:
    """A third of the reference's deviation is further from it than 1.25 times."""
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    rows = {row.name: row for row in model.layer_statistics(x).rows}
    parts = {"scaled": 0.8, "y": 3.0}
    reference = layertap.LayerStatistics(
        [
            type(row)(
                **{key: getattr(row, key) for key in row._names}
                | {"std": (row.std or 0) * parts[row.name]}
            )
            for row in rows.values()
        ],
        "other.onnx",
        50,
    )
    drift = layertap.Drift(layertap.LayerStatistics([*rows.values()], "m.onnx", 50), reference)
    assert [row.name for row in drift.rows] == ["scaled", "y"]
    assert [row.name for row in drift.sorted("ratio").rows] == ["y", "scaled"]


@pytest.mark.parametrize("wrong", [{}, None, "today.json", []])
def test_what_is_no_statistics_is_refused(model: layertap.Model, wrong: object) -> None:
    found = model.layer_statistics(np.ones((2, 3), np.float32))
    for pair in ((found, wrong), (wrong, found)):
        with pytest.raises(UsageError, match="a drift is that of one LayerStatistics from another"):
            layertap.Drift(*pair)


def test_a_reference_without_deviation_has_no_shift(model: layertap.Model) -> None:
    flat = model.layer_statistics(np.ones((5, 3), np.float32), "y")
    moved = model.layer_statistics(np.full((5, 3), 2, np.float32), "y")
    (row,) = layertap.Drift(moved, flat).rows
    assert (row.shift, row.ratio, row.divergence) == (None, None, 1)
    assert layertap.Drift(moved, flat).to_dict()["layers"][0]["shift"] is None
