"""Synthetic pictures that resemble chest X-rays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layertap.errors import OutputError, UsageError
from layertap_models import MODELS
from layertap_models.phantom import draw, write_samples


def test_picture_has_the_expected_shape_and_dtype() -> None:
    picture = draw(0)
    assert picture.shape == (1024, 1024)
    assert picture.dtype == np.uint8


def test_the_same_seed_draws_the_same_picture() -> None:
    assert np.array_equal(draw(3, size=64), draw(3, size=64))


def test_another_seed_draws_another_picture() -> None:
    difference = draw(3, size=64).astype(float) - draw(4, size=64)
    assert np.abs(difference).mean() > 5


@pytest.mark.parametrize("seed", range(5))
def test_picture_resembles_a_chest_x_ray(seed: int) -> None:
    """Air is dark, lungs are darker than spine and belly, and no pixel is clipped at 255."""
    picture = draw(seed, size=256).astype(float)
    corner, lung, spine, belly = (
        picture[rows, columns].mean()
        for rows, columns in [
            (slice(0, 20), slice(0, 20)),
            (slice(90, 130), slice(60, 90)),
            (slice(90, 130), slice(122, 134)),
            (slice(230, 250), slice(60, 90)),
        ]
    )
    assert corner < 30 < lung < 120 < spine
    assert belly > 140
    assert 90 < picture.mean() < 145
    assert picture.max() < 255


def test_samples_are_png_files(tmp_path: Path) -> None:
    paths = write_samples(tmp_path / "new" / "folder", count=2, seed=9)
    assert paths == [tmp_path / "new" / "folder" / f"phantom_{n}.png" for n in ("009", "010")]
    for path, seed in zip(paths, (9, 10), strict=True):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (1024, 1024))
            assert np.array_equal(np.asarray(image), draw(seed))
    assert sorted(path.name for path in paths[0].parent.iterdir()) == [p.name for p in paths]


def test_samples_through_the_registry(tmp_path: Path) -> None:
    assert MODELS["chest_xray"].write_samples(tmp_path, 1, seed=2) == [tmp_path / "phantom_002.png"]


@pytest.mark.parametrize(
    ("count", "seed", "message"),
    [
        (0, 0, "count must be at least 1, got 0."),
        (1, -1, "seed must be an integer of at least 0, got -1."),
        (1, 0.5, "seed must be an integer of at least 0, got 0.5."),
        (1, True, "seed must be an integer of at least 0, got True."),
    ],
)
def test_invalid_arguments_are_a_usage_error(
    tmp_path: Path, count: int, seed: int, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        write_samples(tmp_path / "samples", count, seed)
    assert str(caught.value) == message
    assert not (tmp_path / "samples").exists()


def test_folder_that_cannot_be_created_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError) as caught:
        write_samples(tmp_path / "taken", 1)
    assert str(caught.value) == (
        f"cannot create the folder {str(tmp_path / 'taken')!r}: File exists."
    )
