"""Contact sheets of feature maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from layertap.errors import InputError, UsageError
from layertap.view.colormaps import shades
from layertap.view.panels import MARGIN
from layertap.view.pictures import contact_sheet, strongest_channels

TILE = 40
CAPTION = 18
"""Height in pixels of the line of text above a tile."""
PAPER = 255


def maps(*planes: Any, dtype: Any = np.float32) -> np.ndarray:
    """One sample's feature maps (h, w, c) from its channels."""
    return np.stack([np.asarray(plane, dtype) for plane in planes], axis=-1)


def tile(sheet: Image.Image, index: int, columns: int = 6) -> np.ndarray:
    """The pixels of one map of a sheet."""
    left = MARGIN + index % columns * (TILE + MARGIN)
    top = MARGIN + index // columns * (TILE + CAPTION + MARGIN) + CAPTION
    pixels = np.asarray(sheet.crop((left, top, left + TILE, top + TILE)))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


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
        (17, {"image": Image.new("RGB", (20, 20))}, 6, 3),
        (5, {"image": Image.new("RGB", (20, 20))}, 6, 1),
        (6, {"image": Image.new("L", (20, 20))}, 6, 2),
    ],
)
def test_sheet_size_depends_on_the_number_of_tiles(
    channels: int, options: dict[str, Any], tiles_across: int, tiles_down: int
) -> None:
    sheet = contact_sheet(np.ones((5, 5, channels)), tile=TILE, **options)
    assert sheet.mode == "RGB"
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
    assert sheet.size == (TILE + 2 * MARGIN, CAPTION + 10 + 2 * MARGIN)
    pixels = np.asarray(sheet)[MARGIN + CAPTION :, MARGIN : MARGIN + TILE, 0]
    assert (pixels[:10] == np.kron([0, 255, 255, 0], np.ones((10, 10)))).all()
    assert (pixels[10:] == PAPER).all()
    thin = contact_sheet(maps(np.ones((1, 500))), tile=TILE)  # less than one pixel high
    assert thin.size == (TILE + 2 * MARGIN, CAPTION + 1 + 2 * MARGIN)


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
    pixels = tile(sheet, 0)[10:30]  # in the middle of a tile of the size of a map
    assert (pixels[:, :10] == 0).all()
    assert (pixels[:, 30:] == 255).all()
    assert ((pixels[0] > 0) & (pixels[0] < 255)).any()  # smoothed
    assert (tile(sheet, 1) == 0).all()


@pytest.mark.parametrize(
    ("channels", "expected"),
    [([2, 0], [2, 0]), (1, [1]), ([-1, -3], [2, 0]), (range(3), [0, 1, 2])],
)
def test_chosen_channels_are_drawn_in_their_order(channels: Any, expected: list[int]) -> None:
    planes = [[[0, 1], [1, value]] for value in (0.2, 0.4, 0.6)]
    sheet = contact_sheet(maps(*planes), channels=channels, tile=TILE)
    assert sheet.width == len(expected) * (TILE + MARGIN) + MARGIN
    for at, channel in enumerate(expected):
        value = round(255 * (0.2, 0.4, 0.6)[channel])
        np.testing.assert_array_equal(tile(sheet, at), blocks([[0, 255], [255, value]]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": [0, 3]}, "channel 3 does not exist: the layer has 3, 0 to 2."),
        ({"channels": [-4]}, "a channel must be at least -3, got -4."),
        ({"channels": []}, "channels must be from 1 to 10000 indices, got 0."),
        ({"channels": ["a"]}, "a channel must be an integer of at least -3, got 'a'."),
        ({"count": 0}, "the sheet is empty: it has neither channels nor an image."),
        (
            {"scale": "comon"},
            "scale must be 'own' or 'common', got 'comon'. Did you mean 'common', 'own'?",
        ),
        (
            {"colormap": "rdbu"},
            "the colormap 'rdbu' is unknown; the colormaps are jet, viridis, magma, inferno, "
            "cividis, gray, RdBu_r. Did you mean 'RdBu_r'?",
        ),
        (
            {"width": 60},
            "a width of 60 pixels leaves no room for 3 pictures in a row. Give a larger width or "
            "resolution, or fewer pictures.",
        ),
        ({"width": 10**6}, "width must be at most 20000 pixels, got 1000000."),
        ({"font": "gone.ttf"}, "the font 'gone.ttf' cannot be read: there is no such file."),
        ({"font": __file__}, f"the font {__file__!r} cannot be read: it is no font file."),
    ],
)
def test_bad_options_are_errors(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        contact_sheet(np.ones((2, 2, 3)), **options)
    assert str(caught.value) == words


def test_a_common_scale_draws_equal_values_alike() -> None:
    """In two channels with different ranges; the bar has the ends of both."""
    sheet = contact_sheet(
        maps([[0, 1], [1, 1]], [[1, 5], [5, 0]]), channels=[0, 1], scale="common", tile=TILE
    )
    own = contact_sheet(maps([[0, 1], [1, 1]], [[1, 5], [5, 0]]), channels=[0, 1], tile=TILE)
    assert sheet.width > own.width  # the bar
    np.testing.assert_array_equal(tile(sheet, 0), blocks([[0, 51], [51, 51]]))
    np.testing.assert_array_equal(tile(sheet, 1), blocks([[51, 255], [255, 0]]))


def test_a_diverging_colormap_has_0_in_its_middle() -> None:
    sheet = contact_sheet(maps([[-1, 0], [0, 4]]), tile=TILE, colormap="RdBu_r")
    left, top = MARGIN, MARGIN + CAPTION
    pixels = np.asarray(sheet)
    found = [pixels[top + y, left + x].tolist() for x, y in ((0, 0), (TILE - 1, 0), (39, 39))]
    assert found == [shades("RdBu_r")[at].tolist() for at in (96, 128, 255)]


def test_statistics_are_below_each_map() -> None:
    plain = contact_sheet(np.ones((2, 2, 3)), tile=TILE)
    more = contact_sheet(np.ones((2, 2, 3)), tile=TILE, statistics=True)
    assert more.height == plain.height + CAPTION
    assert (np.asarray(more)[MARGIN + CAPTION + TILE :] < 128).any()


@pytest.mark.parametrize("width", [200, 333, 1000])
def test_a_sheet_has_the_width_that_was_asked_for(width: int) -> None:
    sheet = contact_sheet(np.ones((4, 7, 9)), width=width, columns=3, scale="common")
    assert sheet.width == width


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
