"""Collections of images: read one by one, put into batches, and named in errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layertap._engine.library import available_threads
from layertap.errors import ImageError, InputError, LayertapWarning
from layertap.extract.images import (
    PreparedImage,
    color_picture,
    in_batches,
    naming_images,
    read_images,
)
from layertap.images.load import load_image
from layertap.images.preprocessing import Preprocessing

RECIPE = Preprocessing(size=(4, 6))

Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a picture of one grey value, in the folder or one below it; gives its path."""

    def save(name: str, value: int = 7, size: tuple[int, int] = (6, 4)) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", size, (value,) * 3).save(path)
        return str(path)

    return save


def must_not_fail(path: str, error: ImageError) -> None:
    pytest.fail(f"{path}: {error}")


def test_images_and_those_of_folders_are_read_in_order(save: Save, tmp_path: Path) -> None:
    first, second = save("z.png", 1), save("folder/b.png", 3)
    third = save("folder/a.png", 2)
    found = list(read_images([first, tmp_path / "folder"], RECIPE, must_not_fail))
    assert [image.path for image in found] == [first, third, second]
    for image, value in zip(found, (1, 2, 3), strict=True):
        assert image.pixels.dtype == np.float32
        np.testing.assert_array_equal(image.pixels, np.full((4, 6, 3), value))


def test_one_image_is_read_at_a_time(save: Save) -> None:
    """So that a collection need not fit into memory, nor be complete."""
    images = read_images([save("a.png"), "gone.png"], RECIPE, must_not_fail)
    assert next(images).path.endswith("a.png")


def test_what_cannot_be_read_is_handed_over_and_left_out(save: Save, tmp_path: Path) -> None:
    good, bad = save("a.png"), tmp_path / "bad.png"
    bad.write_text("no image")
    (tmp_path / "empty").mkdir()
    failures: dict[str, str] = {}
    found = read_images(
        [str(bad), tmp_path / "empty", good, "gone.png"],
        RECIPE,
        lambda path, error: failures.update({path: str(error)}),
    )
    assert [image.path for image in found] == [good]
    assert list(failures) == [str(bad), str(tmp_path / "empty"), "gone.png"]
    with pytest.raises(ImageError) as caught:
        RECIPE(str(bad))
    assert failures[str(bad)] == str(caught.value)
    assert "there is no image here" in failures[str(tmp_path / "empty")]


def prepared(name: str, height: int) -> PreparedImage:
    return PreparedImage(name, np.zeros((height, 2, 3), np.float32))


@pytest.mark.parametrize(
    ("heights", "most", "expected"),
    [
        ([], 2, []),
        ([4, 4, 4], 2, ["ab", "c"]),
        ([4, 4, 4], 1, ["a", "b", "c"]),
        ([4, 5, 5, 4], 3, ["a", "bc", "d"]),
    ],
)
def test_batches_have_one_shape_and_a_largest_size(
    heights: list[int], most: int, expected: list[str]
) -> None:
    images = [prepared(name, height) for name, height in zip("abcd", heights, strict=False)]
    found = [[image.path for image in batch] for batch in in_batches(images, most)]
    assert found == [list(names) for names in expected]


@pytest.mark.parametrize(
    ("paths", "start"),
    [(["a.png"], "a.png: "), (["a.png", "b.png", "c.png"], "a.png and 2 more: ")],
)
def test_an_input_error_names_the_images(paths: list[str], start: str) -> None:
    with pytest.raises(InputError) as caught, naming_images(paths):
        raise InputError("a wrong size.")
    assert str(caught.value) == f"{start}a wrong size."


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(ImageError, match=r"^broken$"), naming_images(["a.png"]):
        raise ImageError("broken")


@pytest.mark.filterwarnings("error")
def test_a_color_picture_is_in_rgb_and_repeats_no_warning(save: Save, tmp_path: Path) -> None:
    color = color_picture(save("a.png", 200))
    assert (color.mode, color.size, color.getpixel((0, 0))) == ("RGB", (6, 4), (200, 200, 200))
    assert color_picture(save("a.png"), size=(8, 10)).size == (10, 8)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 6), 200, np.uint16)).save(deep)  # dark, for 16 bits
    with pytest.warns(LayertapWarning):
        load_image(deep, depth="scale")
    assert color_picture(str(deep)).getpixel((0, 0)) == (1, 1, 1)


def test_images_are_read_ahead_in_order_and_not_too_far(tmp_path: Path) -> None:
    """Memory does not depend on how many images there are."""
    begun: list[str] = []
    lock = threading.Lock()

    def recipe(path: str) -> Any:
        with lock:
            begun.append(path)
        if path.endswith("7"):
            raise ImageError(f"{path}: broken.")
        return np.full((2, 2, 3), float(path), np.float32)

    failed: list[str] = []
    paths = [str(number) for number in range(200)]
    found = read_images(paths, recipe, lambda path, _: failed.append(path))  # type: ignore[arg-type]
    ahead = []
    for image in found:
        assert image.pixels[0, 0, 0] == float(image.path)
        ahead.append(len(begun) - int(image.path))
        assert all(float(path) < float(image.path) for path in failed)
    assert failed == [path for path in paths if path.endswith("7")]
    assert max(ahead) <= 2 * available_threads() + 1


def test_the_threads_that_read_end_with_the_loop() -> None:
    found = read_images(["1", "2", "3"] * 20, lambda path: np.zeros(1), must_not_fail)  # type: ignore[arg-type]
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert not [one for one in threading.enumerate() if one.name.startswith("layertap-reader")]
