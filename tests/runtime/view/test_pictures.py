"""Contact sheets of feature maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from layertap.errors import InputError
from layertap.view.pictures import CAPTION, MARGIN, PAPER, contact_sheet, strongest_channels

TILE = 40


def maps(*planes: Any, dtype: Any = np.float32) -> np.ndarray:
    """One sample's feature maps (h, w, c) from its channels."""
    return np.stack([np.asarray(plane, dtype) for plane in planes], axis=-1)


def tile(sheet: Image.Image, index: int, columns: int = 6) -> np.ndarray:
    """The pixels of one map of a sheet."""
    left = MARGIN + index % columns * (TILE + MARGIN)
    top = MARGIN + index // columns * (TILE + CAPTION + MARGIN) + CAPTION
    return np.asarray(sheet.crop((left, top, left + TILE, top + TILE)))


def blocks(values: list[list[int]]) -> np.ndarray:
    """A 2 x 2 map, enlarged to a tile without smoothing."""
    return np.kron(np.array(values, np.uint8), np.ones((TILE // 2, TILE // 2), np.uint8))


@pytest.mark.parametrize(
    ("activation", "count", "expected"),
    [
        (maps([[1, 1]], [[0, 9]], [[2, 2]]), 3, [1, 2, 0]),  # means of 1, 4.5 and 2
        (maps([[1, 1]], [[0, 9]], [[2, 2]]), 2, [1, 2]),
        (maps([[1, 1]], [[0, 9]], [[2, 2]]), 9, [1, 2, 0]),
        (maps([[1, 1]], [[0, 9]], [[2, 2]]), 0, []),
        (maps([[-5, -5]], [[4, 4]]), 2, [0, 1]),  # by absolute value
        (maps([[-3, 3]], [[1, 1]]), 1, [0]),
        (maps([[1]], [[1]], [[1]]), 3, [0, 1, 2]),  # equal channels keep their order
        (maps([[np.nan, 9]], [[1, 1]], [[0, 0]]), 3, [1, 2, 0]),  # NaN last
        (maps([[1, 1]], [[np.inf, 0]]), 2, [1, 0]),
        (maps([[-128, -128]], [[127, 127]], dtype=np.int8), 2, [0, 1]),
        (maps([[200, 200]], [[255, 255]], dtype=np.uint8), 2, [1, 0]),
        (maps([[False, True]], [[True, True]], dtype=np.bool_), 2, [1, 0]),
        (maps(np.full((300, 300), 60_000), np.full((300, 300), 65_000), dtype=np.float16), 2,
         [1, 0]),
    ],
)  # fmt: skip
def test_strongest_channels_are_in_descending_order(
    activation: np.ndarray, count: int, expected: list[int]
) -> None:
    before = activation.copy()
    assert strongest_channels(activation, count) == expected
    np.testing.assert_array_equal(activation, before)


@pytest.mark.parametrize(
    ("channels", "options", "tiles_across", "tiles_down"),
    [
        (1, {}, 1, 1),
        (6, {}, 6, 1),
        (7, {}, 6, 2),
        (17, {}, 6, 3),
        (50, {}, 6, 3),  # 17 of them
        (50, {"count": 50}, 6, 9),
        (4, {"columns": 3}, 3, 2),
        (17, {"image": Image.new("RGB", (30, 20))}, 6, 3),
        (5, {"image": Image.new("RGB", (30, 20))}, 6, 1),
        (6, {"image": Image.new("L", (30, 20))}, 6, 2),
    ],
)
def test_sheet_size_depends_on_the_number_of_tiles(
    channels: int, options: dict[str, Any], tiles_across: int, tiles_down: int
) -> None:
    sheet = contact_sheet(np.ones((3, 5, channels)), tile=TILE, **options)
    assert sheet.mode == "L"
    assert sheet.size == (
        tiles_across * (TILE + MARGIN) + MARGIN,
        tiles_down * (TILE + CAPTION + MARGIN) + MARGIN,
    )


def test_each_map_is_scaled_from_black_to_white() -> None:
    """The strongest channel is first; one square is one value."""
    weak, strong = [[0.0, 0.2], [0.4, 1.0]], [[-20.0, -10.0], [0.0, 20.0]]
    sheet = contact_sheet(maps(weak, strong), tile=TILE)
    np.testing.assert_array_equal(tile(sheet, 0), blocks([[0, 64], [128, 255]]))
    np.testing.assert_array_equal(tile(sheet, 1), blocks([[0, 51], [102, 255]]))


def test_maps_that_are_not_square_keep_their_shape() -> None:
    sheet = contact_sheet(maps([[0, 1, 1, 0]]), tile=TILE)
    pixels = tile(sheet, 0)
    assert (pixels[:10] == np.kron([0, 255, 255, 0], np.ones((10, 10)))).all()
    assert (pixels[10:] == PAPER).all()
    thin = contact_sheet(maps(np.ones((1, 500))), tile=TILE)  # less than one pixel high
    assert (tile(thin, 0)[0] == 0).all()
    assert (tile(thin, 0)[1:] == PAPER).all()


@pytest.mark.parametrize(
    ("plane", "expected"),
    [
        ([[3.5, 3.5], [3.5, 3.5]], [[0, 0], [0, 0]]),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
        ([[np.nan, np.nan], [np.nan, np.nan]], [[0, 0], [0, 0]]),
        ([[np.nan, 1], [2, 3]], [[0, 0], [128, 255]]),
        ([[np.nan, 5], [5, 5]], [[0, 0], [0, 0]]),
        ([[np.inf, 0], [1, -np.inf]], [[255, 0], [255, 0]]),
        ([[np.inf, np.inf], [np.inf, np.inf]], [[0, 0], [0, 0]]),
        ([[-3e38, 3e38], [0, 0]], [[0, 255], [128, 128]]),
        ([[1e-45, 0], [0, 0]], [[255, 0], [0, 0]]),
    ],
)
def test_maps_of_all_shapes_and_values_are_drawn(
    plane: list[list[float]], expected: list[list[int]]
) -> None:
    """Constant maps and NaN are black; infinity is drawn like the largest or smallest value."""
    np.testing.assert_array_equal(tile(contact_sheet(maps(plane), tile=TILE), 0), blocks(expected))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8, np.int64, np.bool_])
def test_maps_of_all_dtypes_are_drawn(dtype: Any) -> None:
    sheet = contact_sheet(maps([[0, 1], [1, 0]], dtype=dtype), tile=TILE)
    np.testing.assert_array_equal(tile(sheet, 0), blocks([[0, 255], [255, 0]]))


def test_image_is_drawn_first() -> None:
    image = Image.new("RGB", (20, 10), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 10, 10))
    sheet = contact_sheet(np.ones((2, 2, 3)), image=image, tile=TILE)
    pixels = tile(sheet, 0)
    assert (pixels[:20, :15] == 0).all()
    assert (pixels[:20, 25:] == 255).all()
    assert ((pixels[0] > 0) & (pixels[0] < 255)).any()  # smoothed
    assert (tile(sheet, 1) == 0).all()


def test_channel_index_is_drawn_above_each_map() -> None:
    """The same map in another channel only differs in its caption."""
    weak, strong = np.zeros((2, 2)), np.eye(2)
    planes = [weak] * 20
    sheets = []
    for channel in (3, 14):
        here = list(planes)
        here[channel] = strong
        sheets.append(np.asarray(contact_sheet(maps(*here), tile=TILE, count=1)))
    caption = slice(MARGIN, MARGIN + CAPTION)
    assert (sheets[0][caption] != PAPER).any()
    assert (sheets[0][caption] != sheets[1][caption]).any()
    np.testing.assert_array_equal(sheets[0][MARGIN + CAPTION :], sheets[1][MARGIN + CAPTION :])


@pytest.mark.parametrize(
    "activation", [np.ones((1, 8, 8, 3)), np.ones((8, 8)), np.float32(1), np.ones((8, 0, 3))]
)
def test_invalid_shape_is_an_input_error(activation: Any) -> None:
    for draw in (contact_sheet, lambda value: strongest_channels(value, 3)):
        with pytest.raises(InputError) as caught:
            draw(activation)
        assert str(caught.value) == (
            f"feature maps must have the shape (h, w, c), got {activation.shape}. "
            "Give one sample (activation[0]) of a layer with four axes."
        )
