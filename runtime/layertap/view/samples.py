"""The samples of a page: what the model is fed, and a picture to look at."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from layertap._engine.feeds import as_recipe, is_image
from layertap.extract.batched import many
from layertap.extract.images import color_picture, find_images
from layertap.images.load import image_name

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap._engine.program import Program
    from layertap.images.preprocessing import Preprocessing

LONGEST_SIDE = 512
"""Pixels of the longer side of a picture; larger ones are shrunk."""

LOSSLESS_BYTES = 60_000
"""A picture that takes more than this as PNG is stored as JPEG."""


class Sample(NamedTuple):
    """One sample."""

    name: str
    inputs: Any
    """As `Model.activations` takes them, for one sample."""
    picture: Image.Image | None
    """The image as the model sees it, before its values are scaled."""
    recipe: Preprocessing | None = None
    """For the image, instead of the card's."""


def samples_of(program: Program, inputs: Any, preprocess: Recipe | None) -> list[Sample]:
    """The samples among the inputs of `Model.view`."""
    if inputs is None or (isinstance(inputs, (list, tuple)) and not inputs):
        return []
    parts = _parts(program, inputs)
    given_recipe = None if preprocess is None else as_recipe(preprocess)
    recipe = program.preprocessing if given_recipe is None else given_recipe
    images = [
        part[0] if _takes_images(program) and isinstance(part, list) and is_image(part[0]) else None
        for part in parts
    ]
    names = short_names([image_name(x) if x is not None else "" for x in images])
    return [
        Sample(
            name or f"sample {at}",
            part,
            None if image is None else picture_of(image, recipe),
            given_recipe,
        )
        for at, (part, image, name) in enumerate(zip(parts, images, names, strict=True))
    ]


def _parts(program: Program, inputs: Any) -> list[Any]:
    """The inputs of each sample."""
    names = list(program.graph.inputs)
    if program.picture_input is not None:
        if _is_folder(inputs):
            inputs = find_images(inputs)
        return [[one] for one in ([inputs] if is_image(inputs) else inputs)]
    array = isinstance(inputs, np.ndarray)
    if isinstance(inputs, (list, tuple)) and len(inputs) == len(names) > 1:
        inputs = dict(zip(names, inputs, strict=True))
    if array and len(names) == 1 and (not _takes_images(program) or inputs.ndim == 4):
        inputs = {names[0]: inputs}
    if isinstance(inputs, Mapping):
        return _rows(inputs)
    if is_image(inputs) and (array or not _is_folder(inputs)):
        inputs = [inputs]
    given = many(program, inputs, 1)
    return [part for part, _ in given.parts] if given else [inputs]


def _rows(given: Mapping[str, Any]) -> list[Any]:
    """Each row of arrays by name; all at once if they do not have the same number of rows."""
    lengths = {name: len(value) for name, value in given.items() if np.ndim(value)}
    if len({*lengths.values()}) != 1:
        return [given]
    return [
        {name: value[at : at + 1] if name in lengths else value for name, value in given.items()}
        for at in range(max(lengths.values()))
    ]


def _takes_images(program: Program) -> bool:
    if program.picture_input is not None:
        return True
    inputs = list(program.graph.inputs.values())
    return len(inputs) == 1 and (inputs[0].dims is None or len(inputs[0].dims) == 4)


def _is_folder(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and os.path.isdir(path)


def short_names(paths: Sequence[str]) -> list[str]:
    """The names of files, without folders where that tells them apart."""
    names = [os.path.basename(path) or path for path in paths]
    if len({*names}) == len(names) or not all(paths):
        return names
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    try:
        root = os.path.commonpath(folders)
    except ValueError:  # several drives
        return names
    return [os.path.relpath(os.path.abspath(path), root).replace(os.sep, "/") for path in paths]


def picture_of(source: Any, recipe: Preprocessing | None) -> Image.Image:
    """An image with the size and the part that the model sees."""
    if recipe is None:
        return color_picture(source)
    return color_picture(
        source,
        size=recipe.size,
        interpolation=recipe.interpolation,
        keep_aspect_ratio=recipe.keep_aspect_ratio,
        shorter_side=recipe.shorter_side,
    )


def picture_of_input(values: Any) -> Image.Image | None:
    """An input `(c, h, w)` as a picture, from its smallest value to its largest; `None` if it has
    neither one nor three channels."""
    if values.ndim != 3 or len(values) not in (1, 3) or values.dtype.kind not in "fiub":
        return None
    numbers = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = numbers.min(), numbers.max()
    shares = (numbers - low) / (high - low) if high > low else np.zeros_like(numbers)
    pixels = np.round(np.moveaxis(shares, 0, -1) * 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if len(values) == 1 else pixels)


def as_uri(picture: Image.Image) -> str:
    """A picture as a `data:` address: PNG, or JPEG if that would be large."""
    longest = max(picture.size)
    if longest > LONGEST_SIDE:
        size = [max(1, round(side * LONGEST_SIDE / longest)) for side in picture.size]
        picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    if picture.mode == "RGB":
        pixels = np.asarray(picture)
        if (pixels == pixels[..., :1]).all():
            picture = Image.fromarray(pixels[..., 0])
    data, kind = _encoded(picture, "PNG"), "png"
    if len(data) > LOSSLESS_BYTES:
        data, kind = _encoded(picture, "JPEG", quality=88), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(picture: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()
