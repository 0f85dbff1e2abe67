"""From a picture of bytes to the pixels that Keras's image loading returns, as nodes.

The steps are those of `layertap.images.load.load_image` for an array of uint8. A picture has 1
channel (grey), 3 (RGB) or 4 (with alpha); with another number of channels the graph fails.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from layertap.images.preprocessing import Preprocessing
from layertap_export.gradients.builder import Builder, Value

from .regions import Axis
from .resampling import filtered, nearest
from .tensors import either, part, reshaped, scalar


def pixels_of(
    build: Builder, picture: Value, recipe: Preprocessing, axes: tuple[Axis, Axis]
) -> Value:
    """Pixels `(n, h, w, c)`, uint8, of pictures `(n, height, width, channels)`, uint8.

    Args:
        axes: height and width, see `regions.seen`.
    """
    if recipe.size is None and recipe.shorter_side is None:
        return _coloured(build, picture, recipe)
    # Where the order makes no difference, what is cheaper comes first.
    if recipe.interpolation == "nearest" and not (recipe.color_mode == "rgba" and axes[0].cropped):
        return _coloured(build, nearest(build, picture, axes), recipe)
    if recipe.color_mode == "rgb":
        colours = _without_alpha(build, picture)
        return _in_rgb(build, filtered(build, colours, axes, recipe.interpolation))
    pixels = _coloured(build, picture, recipe)
    if recipe.interpolation == "nearest":
        return nearest(build, pixels, axes)
    if recipe.color_mode == "grayscale":
        return filtered(build, pixels, axes, recipe.interpolation)
    resized = _straight(
        build, filtered(build, _weighted(build, pixels), axes, recipe.interpolation)
    )
    # Weighting by alpha loses colours, and an image that has its size already is not resized. Then
    # `nearest` does no more than crop.
    same = scalar(build.node("And", *(one.pixels.equals(one.total) for one in axes)))
    return either(build, same, nearest(build, pixels, axes), resized, rank=4)


def _coloured(build: Builder, picture: Value, recipe: Preprocessing) -> Value:
    """The picture in the channels of the colour mode."""
    colours = _in_rgb(build, _without_alpha(build, picture))
    if recipe.color_mode == "rgb":
        return colours
    if recipe.color_mode == "rgba":
        shape = picture.shape()
        opaque = build.constant(np.array(255, np.uint8))
        full = opaque.op("Expand", build.vector([part(build, shape, 0, 0, 3), 1]))
        # The first channel after the colours: that of alpha, or else the opaque one.
        channels = part(build, shape, 0, 3, 4)
        both = build.node("Concat", picture, full, axis=3)
        alpha = both.op("Gather", build.int64([3]).op("Min", channels), axis=3)
        return build.node("Concat", colours, alpha, axis=3)
    # Pillow's luma, in units of 2^-16 (libImaging/Convert.c).
    weights = build.constant(np.array([[19595], [38470], [7471]], np.int32))
    shares = colours.cast(TensorProto.INT32) * reshaped(build, weights, 3)
    total = shares.op("ReduceSum", build.int64([3]), keepdims=1)
    return ((total + (1 << 15)) / (1 << 16)).cast(TensorProto.UINT8)


def _without_alpha(build: Builder, picture: Value) -> Value:
    """The first 1 or 3 channels; none, which stops the run, if there are not 1, 3 or 4."""
    channels = part(build, picture.shape(), 0, 3, 4)
    known = build.int64([1, 3, 4]).equals(channels).cast(TensorProto.INT64)
    valid = known.op("ReduceSum", build.int64([0]), keepdims=1)
    return part(build, picture, 3, 0, valid * 3)


def _in_rgb(build: Builder, colours: Value) -> Value:
    return colours.op("Expand", build.int64([1, 1, 1, 3]))


def _weighted(build: Builder, pixels: Value) -> Value:
    """Colours multiplied by alpha, as Pillow's mode RGBa has them."""
    wide = pixels.cast(TensorProto.INT32)
    colours, alpha = part(build, wide, 3, 0, 3), part(build, wide, 3, 3, 4)
    product = colours * alpha + 128
    product = (product / 256 + product) / 256
    return build.node("Concat", product, alpha, axis=3).cast(TensorProto.UINT8)


def _straight(build: Builder, pixels: Value) -> Value:
    """The reverse of `_weighted`, with Pillow's rounding."""
    wide = pixels.cast(TensorProto.INT32)
    colours, alpha = part(build, wide, 3, 0, 3), part(build, wide, 3, 3, 4)
    plain = alpha.equals(0) | alpha.equals(255)
    divided = (colours * 255 / alpha.op("Max", 1)).op("Min", 255)
    straight = plain.where(colours, divided)
    return build.node("Concat", straight, alpha, axis=3).cast(TensorProto.UINT8)
