"""`.keras` archives of TensorFlow 2.12 to 2.14; `old/make_archives.py` wrote them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import layertap
import layertap_export
from layertap_export.keras_model.loading.renumbered import rename

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

ARCHIVES = Path(__file__).parent / "old" / "tf-2.13.zip"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(ARCHIVES) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", ["conv", "nested", "recurrent", "sequential", "shared"])
def test_an_archive_gives_what_its_tensorflow_gave(
    tf_keras: Any, archives: Path, tmp_path: Path, name: str
) -> None:
    report = layertap_export.export(archives / f"{name}.keras", tmp_path / "m.onnx")
    with np.load(archives / f"{name}.npz") as arrays:
        inputs = [arrays[key] for key in sorted(arrays) if key != "y"]
        expected = arrays["y"]
    found = layertap.open(report.path).predict(inputs if len(inputs) > 1 else inputs[0])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_names_are_numbered_as_today(tmp_path: Path) -> None:
    """In the order of their numbers, not of their letters; layers without weights count once."""
    with h5py.File(tmp_path / "w.h5", "w") as file:
        layers = file.create_group("_layer_checkpoint_dependencies")
        for number in range(0, 24, 2):
            layers.create_group(f"dense_{number}" if number else "dense").attrs["was"] = number
        for name in ("sequential", "sequential_1", "sequential_3"):
            inner = layers.create_group(f"{name}/_layer_checkpoint_dependencies/conv2d_4")
            inner.attrs["was"] = name
        rename(file)
        found = {name: file["layers"][name].attrs.get("was") for name in file["layers"]}
        expected = {f"dense_{n}" if n else "dense": 2 * n for n in range(12)}
        assert {k: v for k, v in found.items() if k.startswith("dense")} == expected
        for name, was in [("sequential_1", "sequential_1"), ("sequential_2", "sequential_3")]:
            assert file[f"layers/{name}/layers/conv2d"].attrs["was"] == was
