"""Image files, bytes and arrays as float32 pixels, bit for bit as Keras reads them.

`load_image` returns the same pixels as `keras.utils.load_img` followed by `img_to_array`:

- The first frame is read as stored; an EXIF orientation is not applied.
- The colour is converted before the image is resized, except where that makes no difference: grey
  of 8 bits becomes colour afterwards, which is faster. Alpha is dropped, not blended. A palette is
  resolved. `grayscale` keeps the values of 8-, 16- and 32-bit integer grey (16-bit: 0..65535).
- The size is (height, width), and the default filter is `nearest`. An image that already has this
  size is not resized.
- `keep_aspect_ratio` crops the largest centred region with the target's aspect ratio, in the same
  resize operation.

`shorter_side` resizes and crops as torchvision does with a Pillow image: `Resize(shorter_side)`,
then `CenterCrop(size)`.

When Keras reads a grey image of more than 8 bits in colour, it clips the values at 255, and an
X-ray turns white. `depth="clip"` (the default) does the same, and warns if values changed.
`depth="scale"` first maps the full range of the file's bit depth to 0..255, in every colour mode:

    16 bits    PNG, TIFF, PGM, JPEG 2000, uint16 array      0..65535
    12 bits    TIFF                                         0..4095
    32 bits    TIFF of unsigned integers                    0..4294967295
    signed     TIFF of 16 or 32 bits, other `I` images      0..32767, 0..2147483647
    float      TIFF, PFM, other `F` images                  0..1

Scaling and resizing are computed in floating point, so values are not rounded to 256 levels. A
`bicubic` or `lanczos` filter can overshoot 0..255; the result is clipped, as for 8-bit images.
Pixels outside the range in the table raise an error. Colour images, and images of up to 8 bits,
are read as with `clip`. (Pillow, and so Keras, reads the upper 8 bits of 16-bit colour.)

Images of up to `PIL.Image.MAX_IMAGE_PIXELS` (89 million pixels) are read without a warning. Up to
twice that size, Pillow issues a `DecompressionBombWarning`. Larger images raise an `ImageError`,
larger sizes a `PreprocessingError`. Only files in one of `FORMATS` are read, whatever their suffix.
"""

from __future__ import annotations

import contextlib
import io
import operator
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, UnidentifiedImageError

from layertap._public import public
from layertap.errors import (
    ImageError,
    LayertapError,
    LayertapWarning,
    PreprocessingError,
    suggest,
)
from layertap.format.source import open_regular

from .region import centred_box, crop_start, scaled_size

ColorMode: TypeAlias = Literal["rgb", "rgba", "grayscale"]
Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Depth: TypeAlias = Literal["clip", "scale"]
ImageSource: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | Image.Image
    | npt.NDArray[Any]
)
"""A path, an encoded file as bytes or as a binary file object, a Pillow image, or an array."""

FORMATS = (
    "PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF", "ICO", "TGA",
)  # fmt: skip
"""Pillow's names of the formats that are read: those in use for pictures, none of which starts a
program. PPM includes PBM, PGM and PFM. TGA is the last, because it has no mark of its own."""

CHANNELS = {"rgb": 3, "rgba": 4, "grayscale": 1}
"""Number of channels, by colour mode."""

_MODES = {"rgb": "RGB", "rgba": "RGBA", "grayscale": "L"}
_FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}
_GREY: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "L": lambda image: image,
    "LA": lambda image: image.getchannel(0),
    "1": lambda image: image.convert("L"),
}
"""Functions to grey of 8 bits, without loss, from Pillow's modes that can become it."""
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _SIGNED = 258, 339, 2  # two TIFF tags, and a value of the second


@public
def load_image(
    source: ImageSource,
    *,
    size: tuple[int, int] | None = None,
    color_mode: ColorMode = "rgb",
    interpolation: Interpolation = "nearest",
    keep_aspect_ratio: bool = False,
    shorter_side: int | None = None,
    depth: Depth = "clip",
    formats: Sequence[str] = FORMATS,
) -> npt.NDArray[np.float32]:
    """Read one image as Keras does; docs/file-format.md describes the steps.

    Args:
        source: A path; the bytes of an image file; a binary file object, which is read from its
            start and stays open; a `PIL.Image.Image`, which is not changed; or an array of dtype
            uint8, uint16 or bool and shape `(h, w)`, `(h, w, 1)`, `(h, w, 3)` or `(h, w, 4)`,
            read like a PNG file with these pixels.
        size: (height, width); `None` keeps the image's own size.
        color_mode: `rgb`, `rgba` or `grayscale`.
        interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`.
        keep_aspect_ratio: Crop a centred region with the target's aspect ratio, instead of
            changing the image's aspect ratio.
        shorter_side: Resize the image so that its shorter side has this length, without changing
            its aspect ratio, and then take the centre of `size`; 0 where the image does not reach.
        depth: How grey of more than 8 bits is converted: `clip` or `scale`.
        formats: Pillow's names of the formats that are read, whatever the suffix of the file. For
            more, give `(*FORMATS, "PCX")`; some of Pillow's other formats start programs: `EPS`
            starts Ghostscript. An image that you opened with Pillow yourself may have any format.

    Returns:
        The pixels, float32, of shape `(h, w, c)`, where c is 3, 4 or 1 depending on the colour
        mode. The range is 0..255, except that grey of more than 8 bits keeps its own range if it
        is read as `grayscale` with `clip`. The array is a new one.

    Raises:
        ImageError: the source cannot be read as an image.
        PreprocessingError: an option has an invalid value.

    Warns:
        LayertapWarning: clipping changed the values of a grey image of more than 8 bits, or
            scaling made it almost black.
    """
    size = checked_size(size)
    shorter_side = checked_shorter_side(shorter_side, keep_aspect_ratio)
    check_choice("color_mode", color_mode, get_args(ColorMode))
    check_choice("interpolation", interpolation, get_args(Interpolation))
    check_choice("depth", depth, get_args(Depth))
    accepted = _checked_formats(formats)
    name = image_name(source)
    with image_errors(name), opened(source, accepted) as image:
        image.load()
        if 0 in image.size:
            raise ImageError(
                f"{name}: it has no pixels (height {image.height}, width {image.width})."
            )
        if image.mode == "I" and image.format == "PNG":
            image = image.convert("I;16")  # which it is since Pillow 10.3
        if depth == "scale" and is_deep(image):
            grey = _scaled(image, name)
            grey = _fitted(grey, size, interpolation, keep_aspect_ratio, shorter_side, name)
            return _expanded(np.clip(np.asarray(grey), 0.0, 255.0), color_mode)
        # Grey is resized as one channel, and becomes colour afterwards: the pixels are the same.
        late = color_mode == "rgb" and image.mode in _GREY
        if late:
            image = _GREY[image.mode](image)
        elif color_mode != "grayscale" or image.mode not in ("L", "I;16", "I"):
            image = _converted(image, color_mode)
        image = _fitted(image, size, interpolation, keep_aspect_ratio, shorter_side, name)
        if late:
            image = _converted(image, color_mode)
        pixels = np.asarray(image, dtype=np.float32)
        return pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis]


def image_libraries() -> dict[str, str]:
    """Versions of Pillow and of its decoders that may round pixels in another way than other
    versions, by their names; those that are not known are left out."""
    from PIL import features  # only exports need it

    supported = features.get_supported()
    found = {"pillow": PIL.__version__}
    turbo = "libjpeg_turbo" in supported  # then the version of "jpg" is that of the interface
    for name, feature in (
        ("libjpeg_turbo", "libjpeg_turbo") if turbo else ("libjpeg", "jpg"),
        ("openjpeg", "jpg_2000"),
        ("libwebp", "webp"),
        ("libavif", "avif"),
    ):
        version = features.version(feature) if feature in supported else None
        if version:
            found[name] = version
    return found


def image_name(source: object) -> str:
    """The name of an image in messages: the file name as given, or a word for its type."""
    if isinstance(source, np.ndarray):
        return "image array"
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source) or "''"
    # File objects have a `name`; images that Pillow opened have a `filename`. Both may be empty.
    for attribute in ("name", "filename"):
        name = getattr(source, attribute, None)
        if isinstance(name, str) and name:
            return name
    return "image" if isinstance(source, Image.Image) else "image bytes"


def checked_size(size: Sequence[int] | None) -> tuple[int, int] | None:
    """The size as a pair of ints.

    Raises:
        PreprocessingError: the size is not a (height, width) of positive integers, or has too many
            pixels.
    """
    if size is None:
        return None
    height = width = 0
    with contextlib.suppress(TypeError, ValueError):
        height, width = (operator.index(side) for side in size)
    if min(height, width) < 1 or any(isinstance(side, bool) for side in size):
        raise PreprocessingError(
            f'"size" is {size!r}, but it must be two positive integers, [height, width], or null.'
        )
    _check_pixels(height, width, "size", [height, width])
    return height, width


def checked_shorter_side(value: int | None, keep_aspect_ratio: bool) -> int | None:
    """The length of the shorter side as an int.

    Raises:
        PreprocessingError: it is not a positive integer, or the image is cropped in the other way,
            too.
    """
    if value is None:
        return None
    length = 0
    with contextlib.suppress(TypeError):
        length = operator.index(value)
    if length < 1 or isinstance(value, bool):
        raise PreprocessingError(
            f'"shorter_side" is {value!r}, but it must be a positive integer, or null.'
        )
    if keep_aspect_ratio:
        raise PreprocessingError(
            '"shorter_side" keeps the aspect ratio of the whole image and then crops it to "size", '
            '"keep_aspect_ratio" crops it first. Give one of them.'
        )
    _check_pixels(length, length, "shorter_side", length)
    return length


def _check_pixels(height: int, width: int, key: str, value: Any) -> None:
    """Raise if Pillow would not read an image of this size either."""
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and height * width > 2 * most:
        raise PreprocessingError(
            f'"{key}" is {value}, which is more than {2 * most} pixels. If you need that, increase '
            "PIL.Image.MAX_IMAGE_PIXELS."
        )


def check_choice(key: str, value: object, known: Sequence[str]) -> None:
    """Check that `value` is one of `known`.

    Raises:
        PreprocessingError: it is not; the message suggests the nearest names.
    """
    if not isinstance(value, str) or value not in known:
        raise PreprocessingError(
            f'"{key}" is {value!r}, but it must be one of {", ".join(map(repr, known))}.'
            + suggest(str(value), known)
        )


def _checked_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Names of formats, in capitals.

    Raises:
        PreprocessingError: Pillow does not know one of them.
    """
    if formats is FORMATS:  # of which an old Pillow may not know all
        return FORMATS
    try:
        names = [formats] if isinstance(formats, str) else list(formats)
    except TypeError as exc:
        raise PreprocessingError(
            f'"formats" must be names of formats, as in ("PNG", "JPEG"), got {formats!r}.'
        ) from exc
    Image.init()
    known = {*FORMATS, *Image.OPEN}
    for name in names:
        if str(name).upper() not in known:
            raise PreprocessingError(
                f'"formats" contains {name!r}, which Pillow does not read.'
                + suggest(str(name).upper(), sorted(known))
            )
    return tuple(name.upper() for name in names)


def _identified(file: Any, formats: tuple[str, ...]) -> Image.Image:
    """The image in a file of one of the formats."""
    Image.preinit()  # the plugins of the common formats; to import all takes some time
    with contextlib.suppress(UnidentifiedImageError):
        return Image.open(file, formats=[name for name in formats if name in Image.OPEN])
    Image.init()
    try:
        return Image.open(file, formats=[name for name in formats if name in Image.OPEN])
    except UnidentifiedImageError:
        other = _other_format(file)
        if not other:
            raise
        raise ImageError(
            f"{image_name(file)}: this is an image in the format {other}, which is read only on "
            f'request, with load_image(..., formats=["{other}"]). Convert it to PNG.'
        ) from None


def _other_format(file: Any) -> str:
    """Pillow's name of the format of a file by its first bytes, none of which is interpreted."""
    file.seek(0)
    start = file.read(16)
    for name, (_, accept) in Image.OPEN.items():
        with contextlib.suppress(Exception):  # some expect more bytes
            if accept is not None and accept(start) is True:
                return name
    return ""


@contextlib.contextmanager
def opened(source: ImageSource, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """The image of a source, as Pillow reads it; its pixels may not have been read yet."""
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, np.ndarray):
        yield _from_array(source)
    elif isinstance(source, (str, os.PathLike)):
        with open_regular(source) as file, _identified(file, formats) as image:
            yield image
    elif isinstance(source, (bytes, bytearray, memoryview)):
        with _identified(io.BytesIO(source), formats) as image:
            yield image
    elif hasattr(source, "read"):
        with _identified(source, formats) as image:
            yield image
    else:
        raise ImageError(
            f"cannot read an image from an object of type {type(source).__name__}: give a path, "
            "bytes, a binary file, a PIL.Image or an array."
        )


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.bool_):
        raise ImageError(
            f"image array: its dtype is {array.dtype}, but it must be uint8, uint16 or bool. "
            "Give preprocessed pixels as a batch of shape (n, h, w, c)."
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"image array: its shape is {array.shape}, but it must be (height, width) or "
            "(height, width, channels) with 1, 3 or 4 channels."
        )
    if array.size == 0:
        raise ImageError(f"image array: it has no pixels (shape {array.shape}).")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype.itemsize == 2:
        # Colour: the upper byte, as Pillow reads 16-bit colour files. Grey: in native byte order,
        # because Pillow's filters mix up the bytes of the other byte order.
        array = (array >> 8).astype(np.uint8) if array.ndim == 3 else array.astype(np.uint16)
    return Image.fromarray(array)


def is_deep(image: Image.Image) -> bool:
    """Whether the image is grey of more than 8 bits: modes `I`, `I;16`, `I;16B` ... and `F`."""
    return image.mode.startswith(("I", "F"))


def _converted(image: Image.Image, color_mode: ColorMode) -> Image.Image:
    mode = _MODES[color_mode]
    if image.mode == mode:
        return image
    if color_mode != "rgba" and "transparency" in image.info:
        # The pixels do not depend on it, but Pillow would warn about its loss.
        image = image.copy()
        del image.info["transparency"]
    converted = image.convert(mode)
    if is_deep(image):
        clipped = np.asarray(converted if converted.mode == "L" else converted.getchannel(0))
        if not np.array_equal(clipped, np.asarray(image)):
            warnings.warn(
                f"a {grey_range(image)[0]} grey image was read as {color_mode}, which clips its "
                "values to integers in 0..255, as Keras does: it may now be all white. Set "
                '"depth": "scale" in the preprocessing to map its full range to 0..255.',
                LayertapWarning,
                stacklevel=3,
            )
    return converted


def _fitted(
    image: Image.Image,
    size: tuple[int, int] | None,
    interpolation: Interpolation,
    keep_aspect_ratio: bool,
    shorter_side: int | None,
    name: str,
) -> Image.Image:
    """The image in its final size."""
    if shorter_side is None:
        return _resized(image, size, interpolation, keep_aspect_ratio)
    scaled = scaled_size(image.height, image.width, shorter_side)
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and scaled[0] * scaled[1] > 2 * most:
        raise ImageError(
            f'{name}: with "shorter_side" {shorter_side}, its {image.height} x {image.width} '
            f"pixels become {scaled[0]} x {scaled[1]}, which are more than {2 * most}. If you need "
            "that, increase PIL.Image.MAX_IMAGE_PIXELS."
        )
    image = _resized(image, scaled, interpolation, False)
    if size is None or scaled == size:
        return image
    top, left = (crop_start(have, wanted) for have, wanted in zip(scaled, size, strict=True))
    # Pillow fills what is outside of the image with 0.
    return image.crop((left, top, left + size[1], top + size[0]))


def _resized(
    image: Image.Image,
    size: tuple[int, int] | None,
    interpolation: Interpolation,
    keep_aspect_ratio: bool,
) -> Image.Image:
    if size is None or (image.height, image.width) == size:
        return image
    height, width = size
    box = None
    if keep_aspect_ratio:
        # A crop before the resize would give other pixels, because here the filter also reads
        # pixels outside the box.
        box = centred_box(image.height, image.width, size)
    resample = _FILTERS[interpolation]
    if interpolation == "nearest":
        return image.resize((width, height), resample, box=box)
    box = box or (0, 0, *image.size)
    try:
        return _filtered(image, (width, height), resample, box)
    except ValueError:
        if image.mode != "I;16":
            raise
        # Before version 11, Pillow's filters accept 32-bit grey, but not 16-bit grey.
        return _filtered(image.convert("I"), (width, height), resample, box, _WHITE)


_WHITE = 65535
"""White in 16-bit grey."""


def _filtered(
    image: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling,
    box: tuple[int, int, int, int],
    white: int | None = None,
) -> Image.Image:
    """`image.resize(size, resample, box)`, always horizontally first.

    Each of the two passes rounds to the image's dtype, so their order changes pixels. Pillow 13
    chooses the order by the sizes; before, it was always this one, and models were trained with it.

    Args:
        size: (width, height).
        box: (left, top, right, bottom), the region that is resized.
        white: the largest value of a pixel, where it is less than that of the mode. The filters
            bicubic and lanczos go beyond it at edges.
    """
    if image.mode == "RGBA":  # as in Image.resize: colours are weighted by their alpha
        return _filtered(image.convert("RGBa"), size, resample, box).convert("RGBA")
    (width, height), (left, top, right, bottom) = size, box
    image = image.resize((width, image.height), resample, box=(left, 0, right, image.height))
    image = _limited(image, white).resize((width, height), resample, box=(0, top, width, bottom))
    return _limited(image, white)


def _limited(image: Image.Image, white: int | None) -> Image.Image:
    return image if white is None else Image.fromarray(np.clip(np.asarray(image), 0, white))


def grey_range(image: Image.Image) -> tuple[str, int]:
    """The number format of a deep grey image, in words, and its value for white."""
    if image.mode == "F":
        return "floating-point", 1
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if image.mode.startswith("I;16"):
        bits, signed = tags.get(_BITS_PER_SAMPLE, (16,))[0], False
    elif image.format == "PPM":  # whose images with mode `I` have 16 bits
        bits, signed = 16, False
    else:
        bits = tags.get(_BITS_PER_SAMPLE, (32,))[0]
        signed = not tags or tags.get(_SAMPLE_FORMAT, (0,))[0] == _SIGNED
    return (f"{bits}-bit signed", 2 ** (bits - 1) - 1) if signed else (f"{bits}-bit", 2**bits - 1)


def _scaled(image: Image.Image, name: str) -> Image.Image:
    """A deep grey image with its full range mapped to 0..255, as 32-bit floats (mode `F`)."""
    number_format, white = grey_range(image)
    values = np.asarray(image)
    if white == 2**32 - 1:
        values = values.view(np.uint32)  # Pillow stores them as signed integers
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # true for NaN
        raise ImageError(
            f'{name}: "depth": "scale" maps {number_format} grey from 0..{white} to 0..255, but '
            f"the values here range from {low:g} to {high:g}. Rescale them to 0..{white} first."
        )
    if 0 < high * 255.0 < white:
        warnings.warn(
            f'a {number_format} grey image was read with "depth": "scale", but it uses less than '
            f"1/255 of its range 0..{white}: it is almost black. If its values have 8 or 16 bits, "
            "store them with that bit depth.",
            LayertapWarning,
            stacklevel=3,
        )
    return Image.fromarray((values.astype(np.float64) * 255.0 / white).astype(np.float32))


def _expanded(grey: npt.NDArray[np.float32], color_mode: ColorMode) -> npt.NDArray[np.float32]:
    """Grey pixels (h, w) as (h, w, c), with an opaque alpha channel."""
    pixels = np.full((*grey.shape, CHANNELS[color_mode]), 255.0, dtype=np.float32)
    pixels[:, :, :3] = grey[:, :, np.newaxis]
    return pixels


@contextlib.contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Convert every exception of Pillow and the file system to an ImageError with the name."""
    try:
        yield
    except (LayertapError, LayertapWarning):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageError(
            f"{name}: {exc} If you trust the image, increase PIL.Image.MAX_IMAGE_PIXELS."
        ) from exc
    except FileNotFoundError as exc:
        raise ImageError(f"{name}: there is no such file.") from exc
    except UnidentifiedImageError as exc:
        raise ImageError(f"{name}: this is not an image in a format that Pillow reads.") from exc
    except Exception as exc:  # decoders raise any exception for a broken file
        if isinstance(exc, OSError) and os.path.isdir(name):
            raise ImageError(f"{name}: this is a folder, not an image.") from exc
        reason = cast("str | None", getattr(exc, "strerror", None)) or str(exc)
        raise ImageError(
            f"{name}: it cannot be read as an image ({reason or type(exc).__name__})."
        ) from exc
