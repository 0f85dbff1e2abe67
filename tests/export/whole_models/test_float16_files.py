"""Files that onnxruntime's converter made float16: check knows how exact they can be, and gradients
can be added to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.transformers.float16 import (
    convert_float_to_float16,
)

import layertap
import layertap_export
from generators.mutations import MODELS, make, mutants
from layertap.comparing.check import check

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # The graph is not the one that was verified.
    pytest.mark.filterwarnings("ignore::layertap.LayertapWarning"),
]

FLOAT16_TOLERANCE = 5e-3
"""Largest difference from the float32 file. One rounding to float16 is up to 5e-4."""

KEEPS_TYPES = pytest.mark.parametrize("keeps_types", [False, True], ids=["float16", "float32"])
"""Whether the converted file takes and returns float32."""


def converted(path: Path, keeps_types: bool) -> Path:
    target = path.with_name(f"{path.stem}_float16.onnx")
    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=keeps_types), target)
    return target


def network(keras: Any) -> Any:
    """Relus, a max pooling and a batch normalisation, as most classifiers have."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    start = keras.Input((16, 16, 3), name="x")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(start)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(6, 3, activation="relu", name="last")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(start, layers.Dense(4, activation="softmax", name="classes")(x))


@pytest.fixture(scope="module")
def plain(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    layertap_export.export(network(keras), path)
    return path


@pytest.fixture(scope="module")
def differentiated(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("differentiated") / "differentiated.onnx"
    layertap_export.export(network(keras), path, gradients="all")
    return path


@KEEPS_TYPES
def test_check_allows_what_roundings_explain(plain: Path, keeps_types: bool) -> None:
    report = check(layertap.open(converted(plain, keeps_types)))
    assert report, str(report)
    assert report.narrow == ("float16",)
    assert max(layer.scaled for layer in report.layers) > 1e-4
    assert all(2e-3 * 0.95 < layer.allowed < 4e-3 for layer in report.layers)
    assert "allowed 2e-03 to 3e-03 (float16)" in str(report)


def test_a_tolerance_that_the_user_gives_holds(plain: Path) -> None:
    report = check(layertap.open(converted(plain, False)), 1e-4)
    assert not report
    assert {layer.allowed for layer in report.layers} == {1e-4}


@KEEPS_TYPES
def test_the_file_says_which_dtypes_it_has(plain: Path, keeps_types: bool) -> None:
    path = converted(plain, keeps_types)
    model = layertap.open(path)
    dtype = "float32" if keeps_types else "float16"
    found = model.activations(np.zeros((1, 16, 16, 3), dtype))
    assert {layer.dtype for layer in model.layers} == {dtype}
    assert {info.dtype for info in (*model.inputs, *model.outputs)} == {dtype}
    assert {value.dtype.name for value in found.values()} == {dtype}


@KEEPS_TYPES
@pytest.mark.parametrize("before", ["plain", "differentiated"])
def test_gradients_are_added(
    before: str, keeps_types: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The gradients are those of the float32 file, up to roundings to float16."""
    whole = request.getfixturevalue("differentiated")
    path = converted(request.getfixturevalue(before), keeps_types)
    report = layertap_export.add_gradients(path, tmp_path / "added.onnx", ["all", "input"])
    assert report.tolerance == 1e-2
    assert len(report.compared) == 6
    added = layertap.open(tmp_path / "added.onnx")
    assert check(added)
    x = np.random.default_rng(3).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float16)
    expected = layertap.open(whole).gradients(x.astype(np.float32), target=2)
    found = added.gradients(x.astype(added.inputs[0].dtype), target=2)
    for name, value in expected.items():
        assert found[name].dtype == added.inputs[0].dtype
        # At a kink rounding decides, so that single elements have another slope.
        apart = np.linalg.norm(np.float64(found[name]) - value) / np.linalg.norm(value)
        assert apart < 0.05, name
        assert (
            np.median(np.abs(np.float64(found[name]) - value))
            < FLOAT16_TOLERANCE * np.abs(value).max()
        )


def test_gradients_that_onnxruntime_cannot_compute_are_said(differentiated: Path) -> None:
    """onnxruntime 1.32 cannot add several float16 values to one element."""
    report = check(layertap.open(converted(differentiated, False)))
    assert not report
    assert not report.failed
    assert report.gradients == 0
    assert "The gradients in the file cannot be computed" in str(report)
    assert "`layertap gradients` writes them again" in str(report)


def _missed(path: Path, every_axis: bool) -> tuple[list[str], int]:
    """The mutants of a file that check does not notice in float16, and the number of those that
    it notices in float32."""
    missed, count = [], 0
    for keeps_types in (False, True):
        for mutant in mutants(onnx.load(path), every_axis):
            changed = path.with_name("mutant.onnx")
            onnx.save(mutant.model, changed)
            apart = max(layer.scaled for layer in check(layertap.open(changed)).layers)
            if apart > 1e-2:
                count += 1
                if check(layertap.open(converted(changed, keeps_types))):
                    missed.append(mutant.name)
    return missed, count


def test_changed_weights_are_noticed(plain: Path) -> None:
    missed, count = _missed(plain, every_axis=False)
    assert missed == []
    assert count >= 10


@pytest.mark.slow
def test_changed_weights_of_all_kinds_are_noticed(keras: Any, tmp_path: Path) -> None:
    missed, total = [], 0
    for name in MODELS:
        path = tmp_path / f"{total}.onnx"
        layertap_export.export(make(keras, name), path)
        assert check(layertap.open(converted(path, False))), name
        found, count = _missed(path, every_axis=False)
        missed += [f"{name}: {text}" for text in found]
        total += count
        print(name, len(found), count, flush=True)
    assert len(missed) <= 0.05 * total, missed
    assert total >= 300
