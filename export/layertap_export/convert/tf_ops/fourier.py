"""Discrete Fourier transforms, and complex numbers as far as these need them.

onnxruntime computes no complex numbers. Here a complex tensor is a real one with one more axis,
the last one, that holds the real and the imaginary part, as ONNX's DFT has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .elementwise import arctan2
from .expressions import Handler, NoWayError, Value, joined, stacked, take_over

COMPLEX_OPERATIONS = frozenset(
    "Angle Complex ComplexAbs Conj Imag Real "
    "FFT FFT2D FFT3D IFFT IFFT2D IFFT3D RFFT RFFT2D RFFT3D IRFFT IRFFT2D IRFFT3D".split()
)
"""TensorFlow operations that may touch complex numbers."""


def real(x: Value) -> Value:
    return x.take(0, -1)


def imaginary(x: Value) -> Value:
    return x.take(1, -1)


def complex_of(x: Value, y: Value) -> Value:
    return stacked([x, y], -1)


def absolute(x: Value) -> Value:
    return (x * x).reduce("Sum", -1).op("Sqrt")


def angle(x: Value) -> Value:
    return arctan2(imaginary(x), real(x))


def conjugate(x: Value) -> Value:
    return x * x.like([1, -1])


def transform(axes: int, inverse: bool = False) -> Handler:
    """FFT, FFT2D, ...: over the last axes of a complex tensor."""

    def build(x: Value) -> Value:
        rank = x.rank - 1
        for axis in range(rank - axes, rank):
            x = _dft(x, axis, inverse)
        return x

    return _handler(build)


def real_transform(axes: int) -> Handler:
    """RFFT, ...: of a real tensor, cut or filled up with zeros; half of the last axis remains."""

    def build(x: Value, lengths: Value) -> Value:
        rank = x.rank
        x = x.unsqueeze(-1)
        for index, axis in enumerate(range(rank - axes, rank)):
            x = _of_length(x, axis, _length(lengths, index))
        x = _dft(x, rank - 1, onesided=True)
        for axis in range(rank - axes, rank - 1):
            x = _dft(x, axis)
        return x

    return _handler(build)


def real_inverse(axes: int) -> Handler:
    """IRFFT, ...: the other half of the last axis is the conjugate of the one that is given."""

    def build(x: Value, lengths: Value) -> Value:
        rank = x.rank - 1
        last = rank - 1
        for index, axis in enumerate(range(rank - axes, last)):
            x = _dft(_of_length(x, axis, _length(lengths, index)), axis, inverse=True)
        length = _length(lengths, axes - 1)
        two = x.sizes(2)[0]
        half = length / two + 1
        x = _of_length(x, last, half)
        # Places 1 to length - half, the last one first.
        mirrored = x.cut(last, 1, length - half + 1)
        backwards = mirrored.op("Slice", *x.sizes([-1], [-(2**31)], [last], [-1]))
        return real(_dft(joined([x, conjugate(backwards)], last), last, inverse=True))

    return _handler(build)


def _handler(build: Any) -> Handler:
    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        if graph.opset < 17:
            raise NoWayError("ONNX has the Fourier transform from opset 17 on")
        take_over(graph, node, build)

    return handler


def _length(lengths: Value, index: int) -> Value:
    """One of the lengths that an operation is given, as a scalar of int64."""
    known = lengths.constant
    if known is not None:
        return lengths.new(int(known[index]), np.int64)
    return lengths.cast(np.int64).take(index, 0)


def _of_length(x: Value, axis: int, length: Value) -> Value:
    """`x` cut to a length along an axis, or filled up with zeros."""
    shape, known = x.shape, length.constant
    if shape is not None and known is not None and shape[axis] == int(known):
        return x
    missing = (length - x.size(axis)).op("Max", 0).reshape(1)
    (none,) = x.sizes([0])
    ends = [none] * axis + [missing] + [none] * (x.rank - axis - 1)
    padded = x.op("Pad", joined([none] * x.rank + ends, 0))
    return padded.cut(axis, 0, length)


def _dft(x: Value, axis: int, inverse: bool = False, onesided: bool = False) -> Value:
    """onnxruntime's transform is exact for powers of two; for other lengths it loses digits
    (1e-4 at 1000), so that these are computed in float64."""
    dtype, shape, rank = x.dtype, x.shape, x.rank
    length = None if shape is None else shape[axis]
    doubled = dtype == np.float32 and (length is None or length & (length - 1) != 0)
    x = x.cast(np.float64) if doubled else x
    if axis == 0:  # ONNX takes the first axis for the batch
        x = x.unsqueeze(0)
    x = x.op("DFT", axis=axis + (axis == 0), inverse=int(inverse), onesided=int(onesided))
    x = x.squeeze(0) if axis == 0 else x
    assert x.rank == rank
    return x.cast(dtype) if doubled else x
