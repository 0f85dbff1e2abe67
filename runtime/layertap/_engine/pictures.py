"""Pictures as inputs of a finished file, which prepares them itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layertap.errors import InputError, LayertapWarning
from layertap.format.text import shape_text

from .feeds import as_pixels, as_recipe, is_image, kind_text
from .on_device import on_host

if TYPE_CHECKING:
    from layertap.format.card import Finished
    from layertap.format.graph import TensorType
    from layertap.images.preprocessing import Preprocessing

CHANNELS = (1, 3, 4)
"""How many channels a picture may have: grey, RGB, or RGB and alpha."""

TOP = -1
"""The value of the input for the class that stands for the class with the highest score."""


def with_pictures(
    facts: Finished, given: Any, inputs: Mapping[str, TensorType], needed: Sequence[str]
) -> Mapping[str, Any]:
    """What a caller gives, by input name, with pictures as arrays of uint8.

    Args:
        facts: what the card says of a finished file.
        given: a value for the picture, or for the only input but the class; or a dict by input
            name. A picture is an image (see `feeds.is_image`), a batch with one of them, or, if the
            file takes several, a list of images of one size or a batch.
        inputs: all inputs of the file.
        needed: the inputs that the request reads.

    Raises:
        InputError: not a picture, or not as many as the file takes.
    """
    if isinstance(given, Mapping):
        values = dict(given)
    else:
        own = [name for name in inputs if name != facts.target]
        name = facts.image if facts.image is not None else own[0] if len(own) == 1 else None
        if name is None:
            raise InputError(
                f"the file has {len(own)} inputs: {', '.join(map(repr, own))}. Give a dict by "
                "input name."
            )
        values = {name: given}
    if facts.image in values:
        several = len(inputs[str(facts.image)].dims or ()) == 4
        values[str(facts.image)] = _picture(facts, values[str(facts.image)], several)
    if facts.target in needed:
        chosen = values.get(str(facts.target), TOP)
        values[str(facts.target)] = [chosen] if isinstance(chosen, Integral) else chosen
    return values


def check_classes(name: str, value: npt.NDArray[Any], classes: int | None, samples: int) -> None:
    """Check the classes that the heat maps should explain, `(1,)` or `(samples,)`.

    Args:
        name: the input for them.
        classes: the number of classes, if it is known.

    Raises:
        InputError: there is no such class, or there are not as many as samples.
    """
    if len(value) not in (1, samples):
        each = f", or one for each of {samples} samples" if samples > 1 else ""
        raise InputError(f"input {name!r} takes one class{each}, got {len(value)}.")
    wrong = value[(value < -classes) | (value >= classes)] if classes is not None else value[:0]
    if wrong.size:
        raise InputError(
            f"input {name!r}: class {wrong[0]} is out of range: the output has {classes}, 0 to "
            f"{(classes or 1) - 1}; {TOP} is the one with the highest score."
        )


def _picture(facts: Finished, value: Any, several: bool) -> npt.NDArray[np.uint8]:
    """One picture `(h, w, c)`, or several `(n, h, w, c)`, as uint8."""
    label = f"input {facts.image!r}"
    value = on_host(value)
    if is_image(value) and not (several and np.ndim(value) == 4):
        picture = _read(facts, value)
        return picture[None] if several else picture
    if isinstance(value, (list, tuple)) and value and all(map(is_image, value)):
        pictures = [_read(facts, one) for one in value]
        if len({picture.shape for picture in pictures}) > 1:
            shapes = ", ".join(shape_text(picture.shape) for picture in pictures[:3])
            raise InputError(f"{label}: pictures in one batch must have one size, got {shapes}.")
        value = np.stack(pictures)
    array = np.asarray(value)
    if array.ndim != 4 and not (array.ndim == 3 and not several):
        form = "pictures, (n, height, width, channels)" if several else "a picture"
        raise InputError(
            f"{label} takes {form}: a path, an image, or an array (height, width, channels) of "
            f"uint8, got {kind_text(value)}."
        )
    if array.shape[-1] not in CHANNELS:
        raise InputError(
            f"{label} takes pictures with 1, 3 or 4 channels, the last axis, got "
            f"{shape_text(array.shape)}."
        )
    if array.ndim == 4 and not several:
        if len(array) != 1:
            raise InputError(
                f"{label} takes one picture, (height, width, channels), got {len(array)}. Give "
                "them one by one; `layertap finish --batch` writes a file that takes several."
            )
        array = array[0]
    if array.dtype.kind == "f" and array.size and 0 < array.max() <= 1 and array.min() >= 0:
        raise InputError(
            f"{label} takes pixels from 0 to 255, got {array.dtype} from {array.min():g} to "
            f"{array.max():g}. The file prepares them itself; give the picture as it was read, or "
            "np.rint(x * 255).astype('uint8')."
        )
    return _levels(label, array)


def as_stored(facts: Finished) -> Preprocessing:
    """The recipe that reads a picture as the recipe inside the file does, and leaves the rest to
    it."""
    recipe = facts.preprocessing or {}
    return as_recipe({key: recipe[key] for key in ("color_mode", "depth") if key in recipe})


def _read(facts: Finished, image: Any) -> npt.NDArray[np.uint8]:
    """An image in its own size."""
    label = f"input {facts.image!r}"
    return _levels(label, as_stored(facts)(as_pixels(label, image)))


def _levels(label: str, pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Pixels as uint8.

    Raises:
        InputError: they are not from 0 to 255.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "biuf":
        raise InputError(f"{label}: expected pixels of dtype uint8, got {pixels.dtype}.")
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0, 0)
    if not (low >= 0 and high <= 255):
        raise InputError(
            f"{label} takes pixels from 0 to 255, got {low:g} to {high:g}. The file prepares them "
            'itself; grey of more than 8 bits needs "depth": "scale" in its recipe.'
        )
    levels: npt.NDArray[np.uint8] = np.rint(pixels).astype(np.uint8)
    if not np.array_equal(levels, pixels):
        warnings.warn(
            f"{label} takes pixels of 8 bits: an image with more was rounded to them.",
            LayertapWarning,
            stacklevel=2,
        )
    return levels
