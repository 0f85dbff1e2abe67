"""Sheets: the feature maps of a layer for one sample of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap._engine.program import HasProgram, Program, program_of
from layertap.cam.axes import channels_last
from layertap.errors import InputError, UsageError
from layertap.format.text import shape_text
from layertap.images.load import ImageSource

from .explained import image_of
from .pictures import contact_sheet

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap.format.layer import Layer


def sheet(
    model: HasProgram,
    inputs: Any,
    layer: str | int | Layer,
    *,
    image: ImageSource | None,
    original: bool,
    caption: str | None,
    preprocess: Recipe | None,
    **options: Any,
) -> Image.Image:
    """See `Model.sheet`; the other options are those of `contact_sheet`."""
    program = program_of(model)
    row = program.layer(layer)
    values = program.runner(program.request(row, None, True))(inputs, preprocess)
    maps = feature_maps(program, str(row.tensor), values)
    if maps is None:
        raise UsageError(
            f"a sheet shows feature maps, which have four axes: samples, height, width and "
            f"channels. {row.name} has the shape {shape_text(np.shape(values))}."
        )
    if len(maps) != 1:
        raise InputError(f"a sheet shows one sample, got {len(maps)}. Call sheet for each of them.")
    if image is None:
        image = image_of(program, inputs)
    text = sheet_caption(row.name, maps[0]) if caption is None else caption
    return contact_sheet(maps[0], image=image if original else None, caption=text, **options)


def feature_maps(program: Program, tensor: str, values: Any) -> NDArray[Any] | None:
    """The values of a tensor as feature maps `(n, h, w, c)`; `None` if they are none."""
    if np.ndim(values) == 4 and "C" in program.axes(tensor, 4):
        return channels_last(program, tensor, values)
    return None


def sheet_caption(name: str, maps: NDArray[Any]) -> str:
    """The layer, and the size of its maps `(h, w, c)`."""
    height, width, channels = maps.shape
    noun = "channel" if channels == 1 else "channels"
    return f"{name}: {height} x {width}, {channels:,} {noun}"
