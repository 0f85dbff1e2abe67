"""`layertap stats`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layertap.extract.moments import collection_statistics
from layertap.images.preprocessing import Preprocessing
from shell import Done, layertap

pytestmark = pytest.mark.usefixtures("pictures")


def test_recipe_goes_to_stdout_and_statistics_to_stderr() -> None:
    done = layertap("stats", "pictures", "--size", "8x6")
    sampled = [np.asarray(Image.open(f"pictures/{x}.png").resize((6, 8), 0)) for x in "abcde"]
    mean, std = np.mean(sampled, dtype=np.float64), np.std(sampled, dtype=np.float64)
    data = json.loads(done.out)
    assert data.pop("scaling") == {
        "mode": "standardize",
        "mean": pytest.approx(mean, rel=1e-12),
        "std": pytest.approx(std, rel=1e-12),
    }
    assert data == {
        "size": [8, 6],
        "color_mode": "rgb",
        "interpolation": "nearest",
        "keep_aspect_ratio": False,
        "depth": "clip",
    }
    found = collection_statistics("pictures", size=(8, 6))
    assert done.code == 0
    assert done.err == (
        f"mean {found.mean}, standard deviation {found.std} over 5 of 5 images\n"
    )  # fmt: skip


def test_written_recipe_is_accepted_by_load() -> None:
    printed = layertap("stats", "pictures", "--size", "8x6").out
    done = layertap("stats", "pictures", "--size", "8x6", "-o", "r.json")
    assert (done.code, done.out) == (0, "")
    assert Path("r.json").read_text("utf-8") == printed
    assert Preprocessing.load("r.json").size == (8, 6)


def test_every_option_reaches_the_recipe() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 20, 4), dtype=np.uint8)
    Image.fromarray(pixels).save("pictures/clear.png")
    done = layertap(
        *("stats", "pictures/clear.png", "--size", "5", "--per-channel", "--color-mode", "rgba"),
        *("--interpolation", "bilinear", "--keep-aspect-ratio", "--depth", "scale"),
    )
    found = collection_statistics(
        "pictures/clear.png",
        size=(5, 5),
        color_mode="rgba",
        interpolation="bilinear",
        keep_aspect_ratio=True,
        depth="scale",
        per_channel=True,
    )
    assert Preprocessing.from_dict(json.loads(done.out)) == found.preprocessing()
    assert len(json.loads(done.out)["scaling"]["mean"]) == 4


def test_the_crop_of_the_centre_reaches_the_recipe() -> None:
    done = layertap("stats", "pictures", "--size", "4x3", "--shorter-side", "5")
    found = collection_statistics("pictures", size=(4, 3), shorter_side=5)
    assert Preprocessing.from_dict(json.loads(done.out)) == found.preprocessing()
    assert json.loads(done.out)["shorter_side"] == 5


def test_sample_depends_on_the_seed() -> None:
    outs = {
        seed: layertap("stats", "pictures", "--size", "8x6", "--sample", "2", "--seed", str(seed))
        for seed in (0, 1, 2, 3)
    }
    again = layertap("stats", "pictures", "--size", "8x6", "--sample", "2", "--seed", "3")
    assert again == outs[3]
    assert len({done.out for done in outs.values()}) > 1
    assert all(done.err.endswith(" over 2 of 5 images\n") for done in outs.values())


def test_unreadable_images_are_reported_and_skipped() -> None:
    Path("pictures/bad.png").write_text("not an image")
    done = layertap("stats", "pictures", "--size", "8x6", "-o", "r.json")
    assert done.code == 1
    first, second = done.err.splitlines()
    assert first == (
        "layertap: pictures/bad.png: this is not an image in a format that Pillow reads."
    )
    assert second.endswith(" over 5 of 6 images")
    assert Path("r.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone", "--size", "8"], "gone: there is no such file or folder."),
        (["pictures", "--size", "8", "-o", "no/r.json"], "cannot write 'no/r.json': the folder "
         "'no' does not exist. Nothing was written."),
        (["black.png", "--size", "8"], "the standard deviation over the 1 images is 0.0, and a "
         "recipe cannot divide by 0: the pixels, or those of one channel, are all equal."),
        (["black.png", "--size", "8", "--per-channel"], "the standard deviation over the 1 images "
         "is (0.0, 0.0, 0.0), and a recipe cannot divide by 0: the pixels, or those of one "
         "channel, are all equal."),
    ],
)  # fmt: skip
def test_invalid_argument_is_an_error(tmp_path: Path, arguments: list[str], message: str) -> None:
    Image.new("L", (4, 4)).save("black.png")
    before = sorted(tmp_path.rglob("*"))
    assert layertap("stats", *arguments) == Done(2, "", f"layertap: {message}\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_size_is_required() -> None:
    done = layertap("stats", "pictures")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == (
        "layertap stats: error: the following arguments are required: --size"
    )
