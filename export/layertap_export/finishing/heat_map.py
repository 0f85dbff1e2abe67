"""A heat map in the size of the picture, as nodes: the steps of `layertap.cam.heat_maps`.

Where only a part of the picture is given to the network (a recipe that crops), the map covers that
part, and is 0 elsewhere.
"""

from __future__ import annotations

from onnx import TensorProto

from layertap_export.gradients.builder import Builder, Value

from .regions import Axis
from .tensors import as_double, part, positions, reduced, reshaped


def finished(build: Builder, maps: Value, axes: tuple[Axis, Axis]) -> Value:
    """Maps `(n, h, w)`, float64, as maps `(n, height, width)` from 0 to 1, float32."""
    maps = maps.op("Max", 0.0)
    shape = maps.shape()
    high = _interpolation(build, axes[0], part(build, shape, 0, 1, 2), (-1, 1))
    wide = _interpolation(build, axes[1], part(build, shape, 0, 2, 3), (1, -1))
    large = high.op("MatMul", maps.op("MatMul", wide))
    peak = reduced(build, "ReduceMax", large, [1, 2])
    return (large / (peak > 0.0).where(peak, 1.0)).cast(TensorProto.FLOAT)


def _interpolation(build: Builder, axis: Axis, cells: Value, form: tuple[int, int]) -> Value:
    """A matrix that interpolates between the cells of a map along one axis.

    Args:
        form: the shape of a vector of pixels in it: `(-1, 1)` for `(pixels, cells)`, or `(1, -1)`
            for `(cells, pixels)`. It is not transposed, because onnxruntime 1.15 fuses a Transpose
            and a MatMul of float64 into an operator that it lacks.
    """
    count = as_double(axis.count)
    centres = reshaped(build, as_double(positions(build, axis.pixels)), *form) + 0.5
    seen = (centres - as_double(axis.start)) * as_double(axis.total) / as_double(axis.length)
    seen = seen - as_double(axis.first)
    last = as_double(cells - build.int64([1]))
    place = (seen * (as_double(cells) / count) - 0.5).op("Max", 0.0).op("Min", last)
    numbers = reshaped(build, as_double(positions(build, cells)), *reversed(form))
    share = (1.0 - abs(place - numbers)).op("Max", 0.0)
    inside = (seen >= 0.0) & (seen <= count)
    return inside.cast(TensorProto.DOUBLE) * share
