"""An image as a picture for people: 8 bits, in its own size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from layertap.errors import ImageError, InputError

from .load import ImageSource, grey_range, image_errors, image_name, is_deep, opened

DARKEST = 1 / 16
"""Grey of more than 8 bits that stays below this share of its range is drawn in its own range."""


def shown(source: ImageSource) -> Image.Image:
    """An image as a picture in grey (mode `L`) or in colour (`RGB`), in its own size.

    The colours are those that a model is given: transparency is dropped, and an EXIF orientation
    is not applied. Grey of more than 8 bits is scaled from the full range of its bit depth, as with
    `depth="scale"` (see `layertap.images.load`); or from its smallest value to its largest, if its
    range is not known, or if less than a sixteenth of it is used, which would look black.

    Args:
        source: an image in any form that `load_image` takes; also an array of any other integers,
            or of floats, with values in 0..1 or 0..255.

    Raises:
        ImageError: it cannot be read.
        InputError: an array whose values are not pixels.
    """
    if isinstance(source, np.ndarray) and source.dtype.kind in "fiu":
        source = _as_levels(source)
    with image_errors(image_name(source)), opened(source) as image:
        image.load()
        if 0 in image.size:
            raise ImageError(f"{image_name(source)}: it has no pixels.")
        if image.mode == "I" and image.format == "PNG":
            image = image.convert("I;16")  # which it is since Pillow 10.3
        if is_deep(image):
            return _from_deep(image)
        if image.mode in ("L", "LA", "1"):
            return image.getchannel(0).convert("L")
        if "transparency" in image.info:  # Pillow would warn about its loss
            image = image.copy()
            del image.info["transparency"]
        return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _as_levels(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """An array of uint8, or of uint16 as it is."""
    if pixels.dtype.newbyteorder("=") in (np.uint8, np.uint16):
        return pixels
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)
    if not 0 <= low <= high <= 255:  # true for NaN
        raise InputError(
            f"the pixels of a picture must be in 0..255 or 0..1, got values from {low:.4g} to "
            f"{high:.4g}. Give the image itself, not the batch that was prepared from it."
        )
    white = 255.0 if pixels.dtype.kind == "f" and high <= 1 else 1.0
    return np.round(pixels.astype(np.float64) * white).astype(np.uint8)


def _from_deep(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as grey of 8 bits."""
    white, start = float(grey_range(image)[1]), 0.0
    values = np.asarray(image)
    if white == 2**32 - 1:
        values = values.view(np.uint32)  # Pillow stores them as signed integers
    finite = values if values.dtype.kind != "f" else values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if not low >= 0 or not white * DARKEST <= high <= white:
        white, start = high - low, low
    if values.dtype == np.uint16:  # a table is many times faster
        table = (np.arange(65536) - start) * (255.0 / (white or 1))
        return Image.fromarray(np.round(table.clip(0, 255)).astype(np.uint8)[values])
    numbers = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    grey = ((numbers - start) * (255.0 / (white or 1))).clip(0, 255)
    return Image.fromarray(np.round(grey).astype(np.uint8))
