"""The scalings of recipes as nodes, bit for bit: see `layertap.images.preprocessing`."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike
from onnx import TensorProto

from layertap.errors import UsageError
from layertap.format.recipe import CAFFE_MEAN, TORCH_MEAN, TORCH_STD
from layertap.images.preprocessing import (
    ImageNet,
    PerChannel,
    Preprocessing,
    Rescale,
    Samplewise,
    Standardize,
)
from layertap_export.gradients.builder import Builder, Value

from .pairwise import pairwise_sum
from .tensors import as_double, part, reshaped


def scaled(build: Builder, pixels: Value, recipe: Preprocessing) -> Value:
    """Pixels `(n, h, w, c)`, uint8, scaled: float32.

    Raises:
        UsageError: the scaling cannot be computed by a graph in the same order as by numpy.
    """
    scaling = recipe.scaling
    if isinstance(scaling, Standardize):
        centred = as_double(pixels) - _constant(build, scaling.mean, np.float64)
        divided = centred / _constant(build, scaling.std, np.float64)
        return divided.cast(TensorProto.FLOAT)
    values = pixels.cast(TensorProto.FLOAT)
    if isinstance(scaling, Rescale):
        product = values * _constant(build, scaling.scale, np.float32)
        return product + _constant(build, scaling.offset, np.float32)
    if isinstance(scaling, ImageNet):
        return _imagenet(build, values, scaling)
    if isinstance(scaling, Samplewise):
        return _samplewise(build, values, scaling, recipe)
    return values


def _constant(build: Builder, numbers: PerChannel, dtype: DTypeLike) -> Value:
    """A number, or a number for each channel, which is the last axis."""
    return build.constant(np.asarray(numbers, dtype))


def _imagenet(build: Builder, values: Value, scaling: ImageNet) -> Value:
    if scaling.mode == "tf":
        return values / 127.5 - 1.0
    if scaling.mode == "torch":
        mean, std = (_constant(build, x, np.float32) for x in (TORCH_MEAN, TORCH_STD))
        return (values / 255.0 - mean) / std
    return values.op("Gather", build.int64([2, 1, 0]), axis=3) - _constant(
        build, CAFFE_MEAN, np.float32
    )


def check_scaling(recipe: Preprocessing) -> None:
    """Check that a graph can compute the scaling of a recipe in the same order as numpy.

    Raises:
        UsageError: it cannot.
    """
    if isinstance(recipe.scaling, Samplewise) and recipe.size is None:
        raise UsageError(
            'the scaling "samplewise" adds up the pixels in an order that depends on their number, '
            'so a finished file needs a "size" in the preprocessing.'
        )


def _samplewise(build: Builder, values: Value, scaling: Samplewise, recipe: Preprocessing) -> Value:
    check_scaling(recipe)
    assert recipe.size is not None
    height, width = recipe.size
    count = height * width * recipe.channel_count
    rows = reshaped(build, values, -1, count)
    centred = rows - _mean(build, rows, count)
    again = centred - _mean(build, centred, count)
    deviation = _mean(build, again * again, count).op("Sqrt")
    result = centred / (deviation + scaling.epsilon)
    return reshaped(build, result, part(build, values.shape(), 0, 0, 1), height, width, -1)


def _mean(build: Builder, rows: Value, count: int) -> Value:
    """numpy divides in float64, and rounds to float32."""
    total = pairwise_sum(build, rows, count)
    return (as_double(total) / float(count)).cast(TensorProto.FLOAT)
