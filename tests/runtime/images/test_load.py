"""`layertap.images.load`: compared with known values and, bit for bit, with Keras."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from layertap.errors import ImageError, LayertapWarning, PreprocessingError
from layertap.images.load import image_libraries, image_name, load_image

HEIGHT, WIDTH = 17, 23
FILTERS = ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


# --- test images ---------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_rgb16(pixels: np.ndarray) -> bytes:
    """A PNG of 16-bit colour, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(data: bytes, width: int, height: int, bits: int, sample_format: int) -> bytes:
    """A grey TIFF of any bit depth; sample formats are 1 unsigned, 2 signed, 3 floating point."""
    entries = [
        (256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, 1),
        (273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, len(data)), (339, 3, sample_format),
    ]  # fmt: skip
    directory = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<H2x" if kind == 3 else "<I", value)
        for tag, kind, value in entries
    )
    directory = struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def zoo_files() -> dict[str, bytes]:
    """One file of each format and mode, all of HEIGHT x WIDTH."""
    rng = np.random.default_rng(0)

    def noise(*channels: int, high: int = 256, dtype: Any = np.uint8) -> np.ndarray:
        return rng.integers(0, high, (HEIGHT, WIDTH, *channels)).astype(dtype)

    grey, rgb = Image.fromarray(noise()), Image.fromarray(noise(3))
    rgba, la = Image.fromarray(noise(4)), Image.merge("LA", [grey, Image.fromarray(noise())])
    grey16 = noise(high=65536, dtype=np.uint16)
    palette = rgb.quantize(40)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: show turned by 90 degrees
    return {
        "grey8.png": encoded(grey, "PNG"),
        "grey12.png": encoded(Image.fromarray(grey16 >> 4), "PNG"),
        "grey16.png": encoded(Image.fromarray(grey16), "PNG"),
        "rgb.png": encoded(rgb, "PNG"),
        "rgb16.png": png_rgb16(noise(3, high=65536, dtype=np.uint16)),
        "rgba.png": encoded(rgba, "PNG"),
        "la.png": encoded(la, "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette-key.png": encoded(palette, "PNG", transparency=3),
        "palette-alpha.png": encoded(palette, "PNG", transparency=bytes(range(0, 200, 5))),
        "grey-key.png": encoded(grey, "PNG", transparency=100),
        "bilevel.png": encoded(grey.convert("1"), "PNG"),
        "grey.jpg": encoded(grey, "JPEG"),
        "rgb.jpg": encoded(rgb, "JPEG"),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "exif.jpg": encoded(rgb, "JPEG", exif=turned),
        "palette.gif": encoded(palette, "GIF"),
        "moving.gif": encoded(rgb, "GIF", save_all=True, append_images=[rgba.convert("RGB")]),
        "rgb.bmp": encoded(rgb, "BMP"),
        "rgb.webp": encoded(rgb, "WEBP"),
        "rgba.webp": encoded(rgba, "WEBP", lossless=True),
        "grey16.tif": encoded(Image.fromarray(grey16), "TIFF"),
        "grey16-big-endian.tif": encoded(Image.fromarray(grey16.astype(">u2")), "TIFF"),
        "int16.tif": tiff(
            (grey16.astype("<i4") - 2**15).astype("<i2").tobytes(), WIDTH, HEIGHT, 16, 2
        ),
        "int32.tif": encoded(Image.fromarray(noise(high=2**31, dtype=np.int32)), "TIFF"),
        "uint32.tif": tiff(noise(high=2**32, dtype="<u4").tobytes(), WIDTH, HEIGHT, 32, 1),
        "float.tif": encoded(
            Image.fromarray(300 * rng.random((HEIGHT, WIDTH), np.float32)), "TIFF"
        ),
        "grey16.jp2": encoded(Image.fromarray(grey16), "JPEG2000"),
        "rgb.ppm": encoded(rgb, "PPM"),
    }


ZOO = zoo_files()


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for name, data in ZOO.items():
        (folder / name).write_bytes(data)
    return folder


def quietly(source: Any, **options: Any) -> np.ndarray:
    """`load_image` without its warning about grey of more than 8 bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LayertapWarning)
        return load_image(source, **options)


GREY16 = np.array([[0, 1, 255], [256, 1000, 65535]], np.uint16)
RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14


# --- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda path: path, id="path"),
        pytest.param(lambda path: str(path), id="str"),
        pytest.param(lambda path: path.read_bytes(), id="bytes"),
        pytest.param(lambda path: bytearray(path.read_bytes()), id="bytearray"),
        pytest.param(lambda path: memoryview(path.read_bytes()), id="memoryview"),
        pytest.param(lambda path: io.BytesIO(path.read_bytes()), id="binary file"),
        pytest.param(lambda path: Image.fromarray(RGB), id="PIL image"),
        pytest.param(lambda path: RGB, id="array"),
        pytest.param(lambda path: np.asfortranarray(RGB), id="array in another order"),
    ],
)
def test_all_types_of_sources_give_the_same_pixels(
    tmp_path: Path, source: Callable[[Path], Any]
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    pixels = load_image(source(path))
    assert pixels.dtype == np.float32
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, RGB)


def test_file_objects_are_read_from_the_start_and_stay_open() -> None:
    file = io.BytesIO(encoded(Image.fromarray(RGB), "PNG"))
    file.seek(30)
    np.testing.assert_array_equal(load_image(file), RGB)
    np.testing.assert_array_equal(load_image(file), RGB)


def test_pillow_image_is_not_changed() -> None:
    image = Image.open(io.BytesIO(ZOO["palette-alpha.png"]))
    load_image(image, size=(4, 4))
    assert (image.mode, image.size) == ("P", (WIDTH, HEIGHT))
    assert isinstance(image.info["transparency"], bytes)


@pytest.mark.parametrize(
    ("array", "color_mode", "expected"),
    [
        (np.array([[7, 9]], np.uint8), "grayscale", [[[7], [9]]]),
        (np.array([[[7], [9]]], np.uint8), "grayscale", [[[7], [9]]]),
        (np.array([[7, 9]], np.uint8), "rgb", [[[7, 7, 7], [9, 9, 9]]]),
        (np.array([[7]], np.uint8), "rgba", [[[7, 7, 7, 255]]]),
        (np.array([[True, False]]), "grayscale", [[[255], [0]]]),
        (np.array([[[True, False, True]]]), "rgb", [[[255, 0, 255]]]),
        (np.array([[[1, 2, 3, 4]]], np.uint8), "rgb", [[[1, 2, 3]]]),
        (np.array([[[1, 2, 3, 4]]], np.uint8), "rgba", [[[1, 2, 3, 4]]]),
        (np.array([[[1, 2, 3]]], np.uint8), "rgba", [[[1, 2, 3, 255]]]),
        (np.array([[300]], np.uint16), "grayscale", [[[300]]]),
        (np.array([[300]], ">u2"), "grayscale", [[[300]]]),
        (np.array([[255]], np.uint16), "rgb", [[[255, 255, 255]]]),
        # 16-bit colour: the upper byte, as in files.
        (np.array([[[255, 256, 65535]]], np.uint16), "rgb", [[[0, 1, 255]]]),
        # ITU-R 601, in Pillow's integer arithmetic: (19595 r + 38470 g + 7471 b + 2^15) >> 16.
        (np.array([[[10, 20, 200]]], np.uint8), "grayscale", [[[38]]]),
    ],
)
def test_arrays_are_read_like_images(array: np.ndarray, color_mode: Any, expected: Any) -> None:
    np.testing.assert_array_equal(load_image(array, color_mode=color_mode), expected)


def test_16_bit_colour_files_and_arrays_give_equal_pixels() -> None:
    pixels = np.array([[[0, 255, 256], [1000, 40000, 65535]]], np.uint16)
    np.testing.assert_array_equal(load_image(png_rgb16(pixels)), load_image(pixels))


def test_image_name_is_the_given_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(ZOO["rgb.png"])
    with path.open("rb") as file, Image.open(path) as image:
        names = [image_name(x) for x in (path, str(path), file, image)]
    assert names == [str(path)] * 4
    others = [image_name(x) for x in (b"", io.BytesIO(), RGB, Image.new("L", (1, 1)))]
    assert others == ["image bytes", "image bytes", "image array", "image"]


# --- Keras's rules, with known values ------------------------------------------------------------


def test_size_is_height_and_width_with_filter_nearest() -> None:
    pixels = load_image(RGB, size=(4, 9))
    np.testing.assert_array_equal(pixels, RGB.repeat(2, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_those_of_pillow(name: Any) -> None:
    image = Image.open(io.BytesIO(ZOO["rgb.png"]))
    expected = np.asarray(image.resize((9, 30), getattr(Image.Resampling, name.upper())))
    np.testing.assert_array_equal(load_image(image, size=(30, 9), interpolation=name), expected)


@pytest.mark.parametrize(
    ("shape", "size", "rows", "columns"),
    [
        ((4, 8), (2, 2), [1, 3], [3, 5]),
        ((8, 4), (2, 2), [3, 5], [1, 3]),
        ((7, 4), (2, 2), [2, 4], [1, 3]),  # one of the three surplus rows is removed at the top
        ((6, 6), (2, 3), [2, 4], [1, 3, 5]),  # rows 1..4 are kept
        ((4, 8), (4, 8), [0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_keep_aspect_ratio_crops_the_centre(
    shape: tuple[int, int], size: tuple[int, int], rows: list[int], columns: list[int]
) -> None:
    image = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    pixels = load_image(image, size=size, keep_aspect_ratio=True, color_mode="grayscale")
    np.testing.assert_array_equal(pixels[:, :, 0], image[np.ix_(rows, columns)])


TORCHVISION = [
    (50, 37, 20, (16, 16), "bilinear", "rgb", (16, 16), 0xA6123882),
    (33, 51, 25, (24, 20), "bicubic", "rgb", (24, 20), 0xDD5FD704),
    (20, 30, 21, (20, 26), "lanczos", "rgb", (20, 26), 0x31355BA9),
    (40, 41, 12, (16, 9), "bilinear", "grayscale", (16, 9), 0xB374D601),
    (9, 30, 11, (15, 13), "box", "rgb", (15, 13), 0xD1BE34A8),
    (31, 17, 40, (33, 44), "hamming", "rgba", (33, 44), 0xCC80C742),
    (25, 25, 16, (16, 16), "nearest", "rgb", (16, 16), 0x25112C80),
    (64, 48, 32, None, "bilinear", "rgb", (42, 32), 0x2E682DCF),
]
"""Height, width, shorter side, size, filter and colour mode; and the size and the CRC-32 of the
result, as float32, of torchvision 0.29.1 with Pillow 12.3: `Resize`, then `CenterCrop`."""


@pytest.mark.parametrize(
    ("height", "width", "side", "size", "name", "mode", "expected", "checksum"), TORCHVISION
)
def test_shorter_side_is_the_resize_and_crop_of_torchvision(
    height: int,
    width: int,
    side: int,
    size: tuple[int, int] | None,
    name: Any,
    mode: Any,
    expected: tuple[int, int],
    checksum: int,
) -> None:
    channels = {"rgb": (3,), "rgba": (4,), "grayscale": ()}[mode]
    numbers = np.arange(height * width * math.prod(channels)) ** 2 * 7919 % 65521 % 256
    image = numbers.astype(np.uint8).reshape(height, width, *channels)
    pixels = load_image(image, size=size, shorter_side=side, interpolation=name, color_mode=mode)
    assert pixels.shape[:2] == expected
    assert zlib.crc32(pixels.tobytes()) == checksum


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    side=st.integers(1, 40),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_shorter_side_with_any_sizes(
    shape: tuple[int, int], side: int, size: tuple[int, int]
) -> None:
    """The formulas of torchvision's `_compute_resized_output_size` and `center_crop`, which pads
    small images first."""
    image = Image.fromarray(
        (np.arange(shape[0] * shape[1]) * 7 % 255 + 1).astype(np.uint8).reshape(shape)
    )
    short, long = (image.width, image.height)[:: 1 if image.width <= image.height else -1]
    longer = int(side * long / short)
    new = (side, longer) if image.width <= image.height else (longer, side)
    scaled = image if image.size == new else image.resize(new, Image.Resampling.NEAREST)
    (height, width) = size
    lacks = max(width - scaled.width, 0), max(height - scaled.height, 0)
    border = (lacks[0] // 2, lacks[1] // 2, (lacks[0] + 1) // 2, (lacks[1] + 1) // 2)
    padded = ImageOps.expand(scaled, border, fill=0)
    top = int(round((padded.height - height) / 2.0))  # noqa: RUF046 - as in torchvision
    left = int(round((padded.width - width) / 2.0))  # noqa: RUF046
    expected = np.asarray(padded.crop((left, top, left + width, top + height)))
    pixels = load_image(image, size=size, shorter_side=side, color_mode="grayscale")
    np.testing.assert_array_equal(pixels[..., 0], expected)


def test_shorter_side_of_deep_grey_is_scaled_first() -> None:
    grey = np.array([[0, 257, 514, 771]], np.uint16)
    pixels = load_image(grey, size=(3, 2), shorter_side=1, depth="scale", color_mode="grayscale")
    assert pixels[..., 0].tolist() == [[0, 0], [1, 2], [0, 0]]


def test_shorter_side_of_a_thin_image_is_refused() -> None:
    """256 x 15 million pixels would fill the memory, for a crop of 224 x 224."""
    thin = np.zeros((1, 60_000), np.uint8)
    with pytest.raises(ImageError) as caught:
        load_image(thin, size=(224, 224), shorter_side=256)
    assert str(caught.value).startswith(
        'image array: with "shorter_side" 256, its 1 x 60000 pixels become 256 x 15360000, '
    )


def test_colour_is_converted_before_the_size() -> None:
    """The mean of palette colours 0 (black) and 2 (white) is grey, not colour 1."""
    image = Image.fromarray(np.array([[0, 2]], np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0, 255, 255, 255])
    assert load_image(image, size=(1, 1), interpolation="box").tolist() == [[[128, 128, 128]]]


@given(
    st.sampled_from(["L", "LA", "1"]),
    st.sampled_from(FILTERS),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.none(),
    st.booleans() | st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_grey_that_is_resized_first_has_the_pixels_of_colour_that_is_resized(
    mode: str,
    name: Any,
    have: tuple[int, int],
    size: tuple[int, int] | None,
    fit: bool | int,
    seed: int,
    transparent: bool,
) -> None:
    """`fit` is `keep_aspect_ratio`, or `shorter_side`."""
    values = np.random.default_rng(seed).choice([0, 1, 127, 254, 255], (*have, 2)).astype(np.uint8)
    image = Image.fromarray(values, "LA") if mode == "LA" else Image.fromarray(values[..., 0])
    image = image.convert(mode)
    if transparent and mode == "L":
        image.info["transparency"] = 127
    colour = np.asarray(image.convert("LA").getchannel(0).convert("RGB"))
    geometry: dict[str, Any] = {"size": size, "interpolation": name}
    geometry["keep_aspect_ratio" if isinstance(fit, bool) else "shorter_side"] = fit
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_image(image, **geometry)
    expected = load_image(colour, **geometry)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_exif_orientation_is_not_applied() -> None:
    assert load_image(ZOO["exif.jpg"]).shape == (HEIGHT, WIDTH, 3)


def test_the_first_frame_is_read() -> None:
    frames = [Image.new("L", (2, 1), value) for value in (10, 200)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(gif, color_mode="grayscale").tolist() == [[[10], [10]]]


# --- grey of more than 8 bits --------------------------------------------------------------------

CLIPPED = (
    "a {} grey image was read as {}, which clips its values to integers in 0..255, as Keras "
    'does: it may now be all white. Set "depth": "scale" in the preprocessing to map its full '
    "range to 0..255."
)


@pytest.mark.parametrize(
    ("image", "color_mode", "words"),
    [
        (GREY16, "rgb", "16-bit"),
        (GREY16, "rgba", "16-bit"),
        (ZOO["grey16.png"], "rgb", "16-bit"),
        (ZOO["grey16-big-endian.tif"], "grayscale", "16-bit"),
        (ZOO["int16.tif"], "rgb", "16-bit signed"),
        (ZOO["int32.tif"], "rgb", "32-bit signed"),
        (ZOO["uint32.tif"], "rgb", "32-bit"),
        (ZOO["float.tif"], "grayscale", "floating-point"),
    ],
)
def test_clipping_gives_a_warning(image: Any, color_mode: Any, words: str) -> None:
    with pytest.warns(LayertapWarning) as given:
        load_image(image, color_mode=color_mode)
    assert [str(warning.message) for warning in given] == [CLIPPED.format(words, color_mode)]
    assert given[0].filename == __file__


def test_clipping_limits_values_to_255() -> None:
    pixels = quietly(encoded(Image.fromarray(GREY16), "PNG"))
    assert pixels[:, :, 1].tolist() == [[0, 1, 255], [255, 255, 255]]


@pytest.mark.parametrize(
    ("image", "color_mode"),
    [
        (np.minimum(GREY16, 255), "rgb"),  # no value changes
        (GREY16, "grayscale"),
        (ZOO["int32.tif"], "grayscale"),
    ],
)
def test_unchanged_values_give_no_warning(image: Any, color_mode: Any) -> None:
    assert load_image(image, color_mode=color_mode).size > 0  # warnings are errors here


def test_warning_turned_into_an_error_is_not_wrapped() -> None:
    with pytest.raises(LayertapWarning):
        load_image(GREY16)


def packed12(values: list[int]) -> bytes:
    """Two 12-bit numbers in three bytes."""
    bits = "".join(f"{value:012b}" for value in values)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(np.array([[0, 257, 65535, 1]], np.uint16), [0, 1, 255, 1 / 257], id="uint16"),
        pytest.param(
            encoded(Image.fromarray(np.array([[0, 257, 65535, 1]], np.uint16)), "PNG"),
            [0, 1, 255, 1 / 257],
            id="16-bit PNG",
        ),
        pytest.param(
            encoded(Image.fromarray(np.array([[0, 257, 65535, 1]], ">u2")), "TIFF"),
            [0, 1, 255, 1 / 257],
            id="16-bit TIFF, big-endian",
        ),
        pytest.param(b"P5 2 1 65535\n\x00\x00\x80\x00", [0, 32768 / 257], id="16-bit PGM"),
        pytest.param(
            tiff(packed12([0, 4095, 2048, 1]), 4, 1, 12, 1),
            [0, 255, 2048 * 255 / 4095, 255 / 4095],
            id="12-bit TIFF",
        ),
        pytest.param(
            tiff(np.array([0, 32767, 1000], "<i2").tobytes(), 3, 1, 16, 2),
            [0, 255, 1000 * 255 / 32767],
            id="signed 16-bit TIFF",
        ),
        pytest.param(
            tiff(np.array([0, 2**32 - 1, 2**31], "<u4").tobytes(), 3, 1, 32, 1),
            [0, 255, 2**31 * 255 / (2**32 - 1)],
            id="32-bit TIFF",
        ),
        pytest.param(
            Image.fromarray(np.array([[0, 2**31 - 1, 2**30]], np.int32)),
            [0, 255, 2**30 * 255 / (2**31 - 1)],
            id="PIL image of mode I",
        ),
        pytest.param(
            encoded(Image.fromarray(np.array([[0, 1, 0.3]], np.float32)), "TIFF"),
            [0, 255, np.float32(0.3) * 255.0],
            id="float TIFF",
        ),
        pytest.param(np.array([[0, 7, 255]], np.uint8), [0, 7, 255], id="8-bit"),
        pytest.param(np.array([[False, True]]), [0, 255], id="bool"),
    ],
)
@pytest.mark.parametrize(("color_mode", "alpha"), [("grayscale", []), ("rgb", []), ("rgba", [255])])
def test_scale_maps_the_full_range(
    image: Any, expected: list[float], color_mode: Any, alpha: list[int]
) -> None:
    pixels = load_image(image, color_mode=color_mode, depth="scale")
    assert pixels.dtype == np.float32
    grey = np.array(expected, np.float32)
    copies = 1 if color_mode == "grayscale" else 3
    np.testing.assert_array_equal(pixels[0, :, :copies], grey[:, None].repeat(copies, axis=1))
    assert pixels[0, :, copies:].tolist() == [alpha] * len(expected)


def test_scale_resizes_in_floating_point() -> None:
    """The mean of two 16-bit values differs from them by less than one 8-bit level."""
    pair = np.array([[512, 513]], np.uint16)
    pixels = load_image(pair, size=(1, 1), interpolation="box", depth="scale")
    assert pixels.tolist() == [[[pytest.approx(512.5 / 257, rel=1e-6)] * 3]]


def test_scale_stays_within_0_and_255() -> None:
    """Lanczos overshoots at a hard edge; the result is clipped, as for 8-bit images."""
    edge = np.repeat(np.array([[0, 0, 65535, 65535]], np.uint16), 4, axis=0)
    pixels = load_image(edge, size=(16, 16), interpolation="lanczos", depth="scale")
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_scale_crops_and_resizes_as_clip_does() -> None:
    bytes8 = np.random.default_rng(1).integers(0, 256, (12, 31)).astype(np.uint8)
    options: Any = {"size": (7, 9), "interpolation": "bilinear", "keep_aspect_ratio": True}
    scaled = load_image(bytes8.astype(np.uint16) * 257, depth="scale", **options)
    assert (
        np.abs(scaled - load_image(bytes8, **options)).max() <= 1.0
    )  # two values are rounded to levels


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("depth", ["clip", "scale"])
def test_16_bit_grey_can_be_resized(name: Any, depth: Any) -> None:
    """Pillow before 11 has no filters for the mode `I;16`."""
    flat = np.full((5, 6), 25700, np.uint16)
    options: Any = {"size": (8, 4), "interpolation": name, "color_mode": "grayscale"}
    pixels = load_image(flat, depth=depth, **options)
    np.testing.assert_allclose(pixels, 25700 if depth == "clip" else 100, rtol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            tiff(np.array([-1024, 3071], "<i2").tobytes(), 2, 1, 16, 2),
            'image bytes: "depth": "scale" maps 16-bit signed grey from 0..32767 to 0..255, but '
            "the values here range from -1024 to 3071. Rescale them to 0..32767 first.",
        ),
        (
            Image.fromarray(np.array([[0.0, 1.5]], np.float32)),
            'image: "depth": "scale" maps floating-point grey from 0..1 to 0..255, but the values '
            "here range from 0 to 1.5. Rescale them to 0..1 first.",
        ),
        (
            Image.fromarray(np.array([[0.0, np.nan]], np.float32)),
            'image: "depth": "scale" maps floating-point grey from 0..1 to 0..255, but the values '
            "here range from nan to nan. Rescale them to 0..1 first.",
        ),
    ],
)
def test_scale_of_values_outside_the_range_is_an_error(image: Any, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(image, depth="scale")
    assert str(caught.value) == message


def test_scale_of_an_almost_black_image_gives_a_warning() -> None:
    image = Image.fromarray(np.array([[0, 40000]], np.int32))
    with pytest.warns(LayertapWarning) as given:
        load_image(image, depth="scale")
    assert [str(warning.message) for warning in given] == [
        'a 32-bit signed grey image was read with "depth": "scale", but it uses less than 1/255 '
        "of its range 0..2147483647: it is almost black. If its values have 8 or 16 bits, store "
        "them with that bit depth."
    ]


# --- what cannot be read -------------------------------------------------------------------------


def test_missing_file_is_an_image_error(tmp_path: Path) -> None:
    path = tmp_path / "none.png"
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert str(caught.value) == f"{path}: there is no such file."


def test_folder_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path)
    assert str(caught.value) == f"{tmp_path}: this is a folder, not an image."


def test_truncated_file_is_an_image_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.bmp"
    path.write_bytes(ZOO["rgb.bmp"][:-500])
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert str(caught.value) == (
        f"{path}: it cannot be read as an image (image file is truncated (4 bytes not processed))."
    )


class Unreadable(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        raise PermissionError(13, "Permission denied")


def closed_image() -> Image.Image:
    with Image.open(io.BytesIO(ZOO["rgb.png"])) as image:
        pass
    image.close()
    return image


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "image bytes: this is not an image in a format that Pillow reads."),
        (Unreadable(), "image bytes: it cannot be read as an image (Permission denied)."),
        (
            Image.new("La", (1, 1)),
            "image: it cannot be read as an image (conversion from La to L not supported).",
        ),
        (Image.new("RGB", (0, 3)), "image: it has no pixels (height 3, width 0)."),
        (np.zeros((0, 4, 3), np.uint8), "image array: it has no pixels (shape (0, 4, 3))."),
        (
            np.zeros((4, 4, 3), np.float32),
            "image array: its dtype is float32, but it must be uint8, uint16 or bool. "
            "Give preprocessed pixels as a batch of shape (n, h, w, c).",
        ),
        (
            np.zeros((4, 4, 2), np.uint8),
            "image array: its shape is (4, 4, 2), but it must be (height, width) or "
            "(height, width, channels) with 1, 3 or 4 channels.",
        ),
        (
            np.zeros((1, 4, 4, 3), np.uint8),
            "image array: its shape is (1, 4, 4, 3), but it must be (height, width) or "
            "(height, width, channels) with 1, 3 or 4 channels.",
        ),
        (
            None,
            "cannot read an image from an object of type NoneType: give a path, bytes, a binary "
            "file, a PIL.Image or an array.",
        ),
    ],
)
def test_unreadable_source_is_an_image_error(source: Any, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(source)
    assert str(caught.value) == message


@pytest.mark.parametrize("source", [closed_image(), io.StringIO("text")])
def test_every_exception_of_pillow_is_an_image_error(source: Any) -> None:
    with pytest.raises(
        ImageError, match=r"^image( bytes)?: it cannot be read as an image \(.+\)\.$"
    ):
        load_image(source)


@pytest.mark.parametrize("name", sorted(ZOO))
@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_read_or_an_image_error(name: str, part: float) -> None:
    data = ZOO[name][: int(len(ZOO[name]) * part)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = load_image(data)
    except ImageError as exc:
        assert str(exc).startswith("image bytes: ")  # noqa: PT017 - both results are valid
    else:
        assert pixels.shape == (HEIGHT, WIDTH, 3)


def test_image_over_twice_pillows_limit_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError) as caught:
        load_image(ZOO["rgb.png"])
    assert str(caught.value) == (
        "image bytes: Image size (391 pixels) exceeds limit of 200 pixels, could be "
        "decompression bomb DOS attack. If you trust the image, increase "
        "PIL.Image.MAX_IMAGE_PIXELS."
    )


def test_image_below_twice_pillows_limit_gives_pillows_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.warns(Image.DecompressionBombWarning):
        assert load_image(ZOO["rgb.png"]).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("size", [320, (320,), (320, -1), (1.5, 2), (True, 2), "ab", (1, 2, 3)])
def test_invalid_size_is_a_preprocessing_error(size: Any) -> None:
    with pytest.raises(PreprocessingError) as caught:
        load_image(RGB, size=size)
    assert str(caught.value) == (
        f'"size" is {size!r}, but it must be two positive integers, [height, width], or null.'
    )


@pytest.mark.parametrize("size", [(40_000, 40_000), (1, 1 << 40), (1 << 70, 1)])
def test_size_of_too_many_pixels_says_so(size: tuple[int, int]) -> None:
    with pytest.raises(PreprocessingError) as caught:
        load_image(RGB, size=size)
    assert str(caught.value) == (
        f'"size" is [{size[0]}, {size[1]}], which is more than 178956970 pixels. If you need that, '
        "increase PIL.Image.MAX_IMAGE_PIXELS."
    )


def test_libraries_are_those_of_pillow() -> None:
    versions = image_libraries()
    assert next(iter(versions.items())) == ("pillow", PIL.__version__)
    assert ("libjpeg_turbo" in versions) == features.check_feature("libjpeg_turbo")
    assert versions.get("openjpeg") == features.version_codec("jpg_2000")
    assert versions.get("libwebp") == features.version_module("webp")
    assert all(version and version.isprintable() for version in versions.values())


@pytest.mark.parametrize("option", ["color_mode", "interpolation", "depth"])
def test_unknown_choice_is_a_preprocessing_error(option: str) -> None:
    with pytest.raises(PreprocessingError, match=rf'^"{option}" is .+, but it must be one of '):
        load_image(RGB, **{option: "none"})  # type: ignore[arg-type]


def test_files_are_closed(zoo: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(ZOO["rgb.png"][:400])
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        for name in ZOO:
            load_image(zoo / name)
        with pytest.raises(ImageError):
            load_image(cut)
        gc.collect()
    assert [str(w.message) for w in given if w.category is ResourceWarning] == []


# --- against Keras -------------------------------------------------------------------------------

COMBINATIONS: list[dict[str, Any]] = [
    {"size": None},
    {"size": (HEIGHT, WIDTH)},
    *(
        {"size": size, "interpolation": name, "keep_aspect_ratio": keep}
        for size in ((8, 8), (30, 11), (7, 20))
        for name in FILTERS
        for keep in (False, True)
    ),
]


KERAS = """
import itertools, json, sys, warnings
import numpy as np
import PIL
warnings.simplefilter("ignore")
import keras

folder, names, modes, combinations = json.loads(sys.argv[1])
arrays = {"pillow": np.array(PIL.__version__)}
for name, mode in itertools.product(names, modes):
    for at, options in enumerate(combinations):
        options = dict(options)
        size = options.pop("size")
        image = keras.utils.load_img(f"{folder}/{name}", color_mode=mode,
                                     target_size=size and tuple(size), **options)
        arrays[f"{name} {mode} {at}"] = keras.utils.img_to_array(image)
np.savez(sys.argv[2], **arrays)
"""
"""What Keras reads from all images with all options."""

LAST_BEFORE_13 = sorted((Path(__file__).parents[3] / ".cache" / "pillow").glob("*illow-12*.whl"))


@pytest.fixture(scope="session")
def keras_arrays(
    zoo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, np.ndarray]]:
    """Keras's arrays, by image, colour mode and index in `COMBINATIONS`.

    Pillow 13 changed the order of the passes of its filters, and with it what Keras reads: Keras
    runs with the last Pillow before.
    """
    folder = tmp_path_factory.mktemp("keras")
    if int(PIL.__version__.split(".")[0]) >= 13:
        if not LAST_BEFORE_13:
            pytest.skip("needs .cache/pillow, which `make` downloads")
        with zipfile.ZipFile(LAST_BEFORE_13[-1]) as archive:
            archive.extractall(folder / "pillow")
    task = json.dumps([str(zoo), sorted(ZOO), ["rgb", "rgba", "grayscale"], COMBINATIONS])
    environment = os.environ | {"PYTHONPATH": str(folder / "pillow")}
    command = [sys.executable, "-c", KERAS, task, str(folder / "arrays.npz")]
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    with np.load(folder / "arrays.npz") as arrays:
        assert int(str(arrays["pillow"]).split(".")[0]) < 13
        yield arrays


@pytest.mark.tensorflow
@pytest.mark.parametrize("color_mode", ["rgb", "rgba", "grayscale"])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_equals_keras_bit_for_bit(
    zoo: Path, keras_arrays: Mapping[str, np.ndarray], name: str, color_mode: str
) -> None:
    different = []
    for at, options in enumerate(COMBINATIONS):
        expected = keras_arrays[f"{name} {color_mode} {at}"]
        pixels = quietly(zoo / name, color_mode=color_mode, **options)
        if (pixels.dtype, pixels.shape) != (np.float32, expected.shape) or (
            pixels.tobytes() != expected.tobytes()
        ):
            different.append(options)
    assert different == []
