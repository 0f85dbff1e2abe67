"""A bad image never ends a run: with one in a hundred broken, of every kind, all are recorded with
their reasons, and the rows of the others are those of the good images alone."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layertap as lt
from generators import broken_images
from generators.broken_images import HERE, KINDS, PICTURES, Folder, png
from layertap.extract import extraction
from layertap.extract.sources import find_items
from shell import Done, layertap

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs pipes and symbolic links")

LAYERS = {"relu": "mean", "pool": None}


@pytest.fixture
def file(tiny_file: Callable[[str], Path]) -> Path:
    return tiny_file("image_classifier")


def extract(file: Path, folder: Folder, out: Path, *options: str) -> Done:
    """The command. Images that break late do so as soon as it has made the list."""

    def find(*args: Any, **kwargs: Any) -> Any:
        found = find_items(*args, **kwargs)
        folder.age()
        return found

    source = folder.paths[0].parent
    layers = ["--layers", "relu=mean", "pool"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "find_items", find)
        return layertap("extract", file, source, *layers, "-o", out, *options)


def check(file: Path, folder: Folder, out: Path) -> None:
    """The collection has all rows, all reasons, and the values of the good images alone."""
    found = lt.features(out)
    assert found.complete
    assert list(found.ids) == [path.name for path in folder.paths]
    assert found.errors.keys() == folder.broken.keys()
    for row, kind in folder.broken.items():
        assert KINDS[kind].reason in found.errors[row], (kind, found.errors[row])
        assert "\n" not in found.errors[row]
        assert str(folder.paths[0].parent) not in found.errors[row]
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as text:
        lines = list(csv.DictReader(text))
    for row, line in enumerate(lines):
        assert int(line["row"]) == row
        assert line["error"] == found.errors.get(row, "")
        assert int(line["ok"]) == (row not in folder.broken)
    assert len(lines) == len(folder.paths)

    good = np.setdiff1d(np.arange(len(folder.paths)), list(folder.broken))
    np.testing.assert_array_equal(np.flatnonzero(found.ok), good)
    images = [png(seed) for seed in range(PICTURES)]
    model = lt.open(file)
    alone = [images[row % PICTURES] for row in good]
    batches = list(model.stream(alone, LAYERS))
    assert all(batch.ok.all() for batch in batches)
    for key in LAYERS:
        expected = np.concatenate([batch[key] for batch in batches])
        np.testing.assert_array_equal(found[key][found.ok], expected)
        assert np.isnan(found[key][~found.ok]).all()
    # Each image once more, by itself.
    ones = np.concatenate([model.activations(image, "pool") for image in images])
    np.testing.assert_allclose(found["pool"][found.ok], ones[good % PICTURES], rtol=1e-5)
    assert found.verify().ok


def test_fifteen_hundred_images_with_one_in_a_hundred_broken(file: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    folder = broken_images.folder_of(tmp_path / "images", 1500)
    assert set(folder.broken.values()) == set(HERE)
    assert set(KINDS) - set(HERE) <= {"unreadable"}
    done = extract(file, folder, tmp_path / "out")
    assert done.code == 1
    assert f"1,500 rows, {len(folder.broken)} failed" in done.err
    assert f"and {len(folder.broken) - 5} other images" in done.err
    check(file, folder, tmp_path / "out")


@pytest.mark.slow
def test_ten_thousand_images_with_one_in_a_hundred_broken(file: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    folder = broken_images.folder_of(tmp_path / "images", 10_000)
    assert len(folder.broken) == 103
    done = extract(file, folder, tmp_path / "out", "--json")
    assert done.code == 1
    last = json.loads(done.out.splitlines()[-1])
    assert (last["rows"], last["failed"], last["complete"]) == (10_000, 103, True)
    check(file, folder, tmp_path / "out")
    # Shards that are joined have the same rows and reasons.
    for shard in "123":
        folder.renew()
        assert extract(file, folder, tmp_path / shard, "--shard", f"{shard}/3").code == 1
    shards = [tmp_path / shard for shard in "123"]
    assert layertap("features", "merge", *shards, "-o", tmp_path / "all").code == 1
    check(file, folder, tmp_path / "all")


@pytest.mark.skipif(not getattr(os, "geteuid", int)(), reason="root may read every file")
def test_a_file_that_may_not_be_read_is_a_failed_row(file: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png(0))
    (tmp_path / "a.png").chmod(0)
    done = layertap("extract", file, tmp_path, "--layers", "pool", "-o", tmp_path / "out")
    assert done.code == 1
    assert "a.png (row 0): it cannot be read (Permission denied)." in done.err
