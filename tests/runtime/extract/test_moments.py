"""`layertap.extract.moments`: statistics compared with numpy, and the choice of the sample."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layertap.errors import ImageError, PreprocessingError, UsageError
from layertap.extract.images import find_images, image_suffixes
from layertap.extract.moments import collection_statistics
from layertap.images.preprocessing import Preprocessing, Standardize

NAMES = [f"{'abc'[i % 3]}/{i:02}.png" for i in range(20)]


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty RGB images of different sizes in three folders."""
    folder = tmp_path_factory.mktemp("collection")
    rng = np.random.default_rng(0)
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        shape = (*rng.integers(5, 15, 2), 3)
        pixels = rng.integers(0, 256, shape) * rng.uniform(0.2, 1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    return folder


def relative(files: Any, folder: Path) -> list[str]:
    return [Path(file).relative_to(folder).as_posix() for file in files]


# --- the numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, (6, 9)])
@pytest.mark.parametrize("color_mode", ["rgb", "grayscale"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_statistics_equal_numpy(
    collection: Path, size: Any, color_mode: Any, per_channel: bool
) -> None:
    options: Any = {"size": size, "color_mode": color_mode, "interpolation": "bilinear"}
    result = collection_statistics(collection, per_channel=per_channel, **options)
    recipe = Preprocessing(**options)
    pixels = np.concatenate(
        [recipe(collection / name).reshape(-1, recipe.channel_count) for name in NAMES]
    ).astype(np.float64)
    axis = 0 if per_channel else None
    np.testing.assert_allclose(result.mean, pixels.mean(axis=axis), rtol=1e-13)
    np.testing.assert_allclose(result.std, pixels.std(axis=axis), rtol=1e-13)
    assert np.shape(result.mean) == np.shape(result.std) == np.shape(pixels.mean(axis=axis))
    assert (result.count, result.available, result.failures) == (20, 20, {})
    assert result.recipe == recipe


def test_small_deviation_around_a_large_mean_is_accurate(tmp_path: Path) -> None:
    for i in range(8):
        levels = np.array([[65000, 65001 + i % 2]], np.uint16)
        Image.fromarray(levels).save(tmp_path / f"{i}.png")
    result = collection_statistics(tmp_path, size=None, color_mode="grayscale")
    values = np.array([65000, 65001, 65000, 65002])
    assert result.mean == pytest.approx(values.mean(), rel=1e-15)
    assert result.std == pytest.approx(values.std(), rel=1e-12)


def test_results_are_python_numbers(collection: Path) -> None:
    whole = collection_statistics(collection, size=(4, 4))
    each = collection_statistics(collection, size=(4, 4), per_channel=True)
    assert (type(whole.mean), type(whole.std)) == (float, float)
    assert [type(x) for x in (*each.mean, *each.std)] == [float] * 6  # type: ignore[misc]


def test_recipe_standardizes_the_collection(collection: Path) -> None:
    options: Any = {"size": (6, 9), "keep_aspect_ratio": True, "interpolation": "box"}
    result = collection_statistics(collection, per_channel=True, **options)
    recipe = result.preprocessing()
    assert recipe == Preprocessing(scaling=Standardize(mean=result.mean, std=result.std), **options)
    batch = recipe.batch(result.files).astype(np.float64)
    np.testing.assert_allclose(batch.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(batch.std(axis=(0, 1, 2)), 1, rtol=1e-6)


def test_flat_images_cannot_be_standardized(tmp_path: Path) -> None:
    Image.new("L", (3, 3), 7).save(tmp_path / "a.png")
    result = collection_statistics(tmp_path, size=None)
    assert (result.mean, result.std) == (7.0, 0.0)
    with pytest.raises(PreprocessingError) as caught:
        result.preprocessing()
    assert str(caught.value) == '"std" is 0.0, but it must be a number greater than 0.'


# --- the sample ----------------------------------------------------------------------------------


def test_sample_depends_on_the_seed(collection: Path) -> None:
    """The sample of a seed must not depend on the machine or the version."""
    result = collection_statistics(collection, size=(4, 4), sample=5, seed=0)
    assert relative(result.files, collection) == [
        "a/03.png", "b/04.png", "b/16.png", "b/19.png", "c/05.png",
    ]  # fmt: skip
    assert (result.count, result.available) == (5, 20)
    other = collection_statistics(collection, size=(4, 4), sample=5, seed=1)
    assert other.files != result.files


@pytest.mark.parametrize("sample", [None, 20, 1000])
def test_sample_of_more_images_than_there_are_is_all(collection: Path, sample: int | None) -> None:
    result = collection_statistics(collection, size=(4, 4), sample=sample)
    assert relative(result.files, collection) == sorted(NAMES)


def test_sample_does_not_depend_on_the_order_of_paths(collection: Path) -> None:
    paths = [collection / name for name in NAMES]
    results = [
        collection_statistics(given, size=(4, 4), sample=5)
        for given in (collection, paths, paths[::-1], iter([*paths, paths[3]]))
    ]
    assert results == [results[0]] * 4


def test_images_are_found_by_suffix(tmp_path: Path) -> None:
    names = [
        "b.png", "a.JPG", "a-b/z.tiff", "a/deep/er/x.webp", "a/b.bmp",
        "notes.txt", "model.h5", "none", ".hidden.png", ".cache/a.png",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert relative(find_images(tmp_path), tmp_path) == [
        "a-b/z.tiff", "a.JPG", "a/b.bmp", "a/deep/er/x.webp", "b.png",
    ]  # fmt: skip
    assert find_images(tmp_path / "none") == [str(tmp_path / "none")]


def test_image_suffixes_are_those_that_pillow_reads() -> None:
    suffixes = image_suffixes()
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"} <= suffixes
    assert suffixes.isdisjoint({".h5", ".hdf", ".pdf", ".mpg", ".txt", ".json", ""})


# --- errors --------------------------------------------------------------------------------------


def test_unreadable_image_is_reported_and_skipped(tmp_path: Path) -> None:
    Image.new("L", (2, 2), 10).save(tmp_path / "a.png")
    Image.new("L", (2, 2), 30).save(tmp_path / "c.png")
    broken = tmp_path / "b.png"
    broken.write_text("not an image")
    result = collection_statistics(tmp_path, size=None)
    assert relative(result.files, tmp_path) == ["a.png", "c.png"]
    assert result.failures == {
        str(broken): f"{broken}: this is not an image in a format that Pillow reads."
    }
    assert (result.mean, result.std, result.count, result.available) == (20.0, 10.0, 2, 3)


def test_no_readable_image_is_an_image_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("not an image")
    with pytest.raises(ImageError) as caught:
        collection_statistics(tmp_path, size=None)
    assert str(caught.value) == (
        f"none of the 2 images of the sample can be read: {tmp_path / 'a.png'}: "
        "this is not an image in a format that Pillow reads."
    )


def test_folder_without_images_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        collection_statistics(tmp_path, size=None)
    assert str(caught.value) == (
        f"{tmp_path}: there is no image here. Images have a suffix like .png, .jpg or .tif."
    )


def test_empty_list_of_paths_is_an_image_error() -> None:
    with pytest.raises(ImageError) as caught:
        collection_statistics([], size=None)
    assert str(caught.value) == (
        "the list of images: there is no image here. Images have a suffix like .png, .jpg or .tif."
    )


def test_missing_folder_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        collection_statistics(tmp_path / "none", size=None)
    assert str(caught.value) == f"{tmp_path / 'none'}: there is no such file or folder."


def test_unlistable_folder_is_an_image_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(ImageError) as caught:
        collection_statistics(tmp_path, size=None)
    assert str(caught.value) == f"{tmp_path}: it cannot be listed (Permission denied)."


@pytest.mark.parametrize("sample", [0, -3])
def test_sample_below_1_is_a_usage_error(collection: Path, sample: int) -> None:
    with pytest.raises(UsageError) as caught:
        collection_statistics(collection, size=None, sample=sample)
    assert str(caught.value) == f"sample must be at least 1, got {sample}."


def test_options_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(PreprocessingError, match=r'^"interpolation" is'):
        collection_statistics(
            tmp_path / "none",
            size=None,
            interpolation="area",  # type: ignore[arg-type]
        )
