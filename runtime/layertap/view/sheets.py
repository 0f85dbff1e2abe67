"""Sheets: the feature maps of a layer for one sample of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layertap._engine.program import HasProgram, Program, program_of
from layertap.cam.axes import channels_last
from layertap.cam.patches import check_patches, folded
from layertap.cam.rollout import class_token
from layertap.errors import InputError, UsageError
from layertap.format.text import number_of, shape_text
from layertap.images.load import ImageSource

from .explained import image_of
from .pictures import contact_sheet

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap.format.layer import Attention, Layer


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
    shown = sheet_maps(program, row.name, str(row.tensor), values)
    if shown is None:
        raise UsageError(
            f"a sheet shows feature maps, which have four axes: samples, height, width and "
            f"channels. {row.name} has the shape {shape_text(np.shape(values))}."
        )
    maps = shown.values
    if len(maps) != 1:
        raise InputError(f"a sheet shows one sample, got {len(maps)}. Call sheet for each of them.")
    if image is None:
        image = image_of(program, inputs)
    return shown.drawn(maps[0], image if original else None, caption, options)


class SheetMaps(NamedTuple):
    """What a sheet of a layer shows."""

    values: NDArray[Any]
    """`(n, h, w, c)`: feature maps, or a map or matrix for each head of attention."""
    caption: str
    of_heads: bool = False
    """Whether the last axis is one of heads, which are drawn in their order."""

    def drawn(
        self,
        sample: NDArray[Any],
        image: ImageSource | None,
        caption: str | None,
        options: Mapping[str, Any],
    ) -> Image.Image:
        """The sheet of one sample `(h, w, c)`; the options are those of `contact_sheet`."""
        text = self.caption if caption is None else caption
        if self.of_heads and options.get("channels") is None:
            heads = sample.shape[-1]
            count = heads if options.get("count") is None else options["count"]
            if isinstance(count, int) and count > 0:
                options = {**options, "channels": range(min(heads, count))}
        return contact_sheet(sample, image=image, caption=text, **options)


def sheet_maps(program: Program, name: str, tensor: str, values: Any) -> SheetMaps | None:
    """The values of a tensor as maps: feature maps, patches of tokens, or attention by head.

    Args:
        program: says what the axes of its tensors mean.
        name: of the layer or output, for the caption.
        tensor: its name in the graph.
        values: of a batch.

    Returns:
        `None` if they are no maps.
    """
    row = next((layer for layer in program.layers if layer.tensor == tensor), None)
    if row is not None and row.attention is not None:
        return _by_head(name, row.attention, values)
    fold = None if row is None else folded(program, row)
    if fold is not None and np.ndim(values) == 3:
        maps = fold(values)
    elif np.ndim(values) == 4 and "C" in program.axes(tensor, 4):
        maps = channels_last(program, tensor, values)
    else:
        return None
    height, width, channels = maps.shape[1:]
    return SheetMaps(maps, f"{name}: {height} x {width}, {number_of(channels, 'channel')}")


def _by_head(name: str, attention: Attention, values: Any) -> SheetMaps | None:
    """Scores of attention as maps of the patches, or as matrices of queries by keys."""
    scores = np.asarray(values)
    scores = scores if attention.heads else scores[:, None]
    if np.ndim(scores) % 2 or np.ndim(scores) < 4:  # a reduction
        return None
    half = 2 + (np.ndim(scores) - 2) // 2
    queries, keys = math.prod(scores.shape[2:half]), math.prod(scores.shape[half:])
    scores = scores.reshape(*scores.shape[:2], queries, keys)
    heads = number_of(scores.shape[1], "head")
    if attention.grid is None:
        maps = np.moveaxis(scores, 1, -1)
        places = (
            f"queries 0 to {queries - 1} from top to bottom, keys 0 to {keys - 1} from left to "
            "right"
        )
        return SheetMaps(maps, f"{name}: {heads}; {places}", of_heads=True)
    (rows, columns), first = attention.grid, attention.first
    check_patches(name, keys, attention.grid, first)
    token = class_token(keys, rows * columns, first) if queries == keys else None
    seen = scores.mean(axis=2) if token is None else scores[:, :, token]
    patches = seen[:, :, first : first + rows * columns]
    maps = np.moveaxis(patches.reshape(*patches.shape[:2], rows, columns), 1, -1)
    reader = "all tokens, their mean," if token is None else f"token {token}"
    text = f"{name}: {heads}; what {reader} reads of {rows} x {columns} patches"
    return SheetMaps(maps, text, of_heads=True)
