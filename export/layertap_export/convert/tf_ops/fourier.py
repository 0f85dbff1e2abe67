"""Discrete Fourier transforms, and the operations on complex numbers that they need.

onnxruntime does not support complex numbers. Here a complex tensor is a real tensor with an
additional last axis for the real and the imaginary part, as in ONNX's DFT.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .elementwise import arctan2
from .expressions import Handler, UnsupportedUseError, Value, concat, replace_node, stack

COMPLEX_OPERATIONS = frozenset(
    "Angle Complex ComplexAbs Conj Imag Real "
    "FFT FFT2D FFT3D IFFT IFFT2D IFFT3D RFFT RFFT2D RFFT3D IRFFT IRFFT2D IRFFT3D".split()
)
"""The TensorFlow operations that may have complex inputs or outputs."""


def real(x: Value) -> Value:
    return x.take(0, -1)


def imaginary(x: Value) -> Value:
    return x.take(1, -1)


def complex_of(x: Value, y: Value) -> Value:
    return stack([x, y], -1)


def absolute(x: Value) -> Value:
    return (x * x).reduce("Sum", -1).op("Sqrt")


def angle(x: Value) -> Value:
    return arctan2(imaginary(x), real(x))


def conjugate(x: Value) -> Value:
    return x * x.like([1, -1])


def transform(axes: int, inverse: bool = False) -> Handler:
    """A handler for FFT, FFT2D, ...: over the last axes of a complex tensor."""

    def build(x: Value) -> Value:
        rank = x.rank - 1
        for axis in range(rank - axes, rank):
            x = _dft(x, axis, inverse)
        return x

    return _handler(build)


def real_transform(axes: int) -> Handler:
    """A handler for RFFT, ...: of a real tensor, truncated or padded with zeros; the result has
    half of the last axis."""

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
    """A handler for IRFFT, ...: the missing half of the last axis is the conjugate of the other."""

    def build(x: Value, lengths: Value) -> Value:
        rank = x.rank - 1
        last = rank - 1
        for index, axis in enumerate(range(rank - axes, last)):
            x = _dft(_of_length(x, axis, _length(lengths, index)), axis, inverse=True)
        length = _length(lengths, axes - 1)
        two = x.int64s(2)[0]
        half = length / two + 1
        x = _of_length(x, last, half)
        # Elements 1 to length - half, in reverse order.
        mirrored = x.slice(last, 1, length - half + 1)
        reverse = mirrored.op("Slice", *x.int64s([-1], [-(2**31)], [last], [-1]))
        return real(_dft(concat([x, conjugate(reverse)], last), last, inverse=True))

    return _handler(build)


def _handler(build: Any) -> Handler:
    def handler(graph: Any, node: Any, name: str, args: Any) -> None:
        if graph.opset < 17:
            raise UnsupportedUseError(
                f"the Fourier transform needs opset 17 or newer, and this export has {graph.opset}"
            )
        replace_node(graph, node, build)

    return handler


def _length(lengths: Value, index: int) -> Value:
    """An element of the operation's input of lengths, as a scalar of int64."""
    constant = lengths.constant
    if constant is not None:
        return lengths.const(int(constant[index]), np.int64)
    return lengths.cast(np.int64).take(index, 0)


def _of_length(x: Value, axis: int, length: Value) -> Value:
    """`x` truncated to a length along an axis, or padded with zeros."""
    shape, constant = x.shape, length.constant
    if shape is not None and constant is not None and shape[axis] == int(constant):
        return x
    missing = (length - x.size(axis)).op("Max", 0).reshape(1)
    (zero,) = x.int64s([0])
    ends = [zero] * axis + [missing] + [zero] * (x.rank - axis - 1)
    padded = x.op("Pad", concat([zero] * x.rank + ends, 0))
    return padded.slice(axis, 0, length)


def _dft(x: Value, axis: int, inverse: bool = False, onesided: bool = False) -> Value:
    """A transform along one axis of a complex tensor.

    onnxruntime's DFT is accurate to float32 for powers of two only. For other lengths it loses
    digits (its error is 1e-4 of the scale at 1000), so these are computed in float64.
    """
    dtype, shape, rank = x.dtype, x.shape, x.rank
    length = None if shape is None else shape[axis]
    in_float64 = dtype == np.float32 and (length is None or length & (length - 1) != 0)
    x = x.cast(np.float64) if in_float64 else x
    if axis == 0:  # in ONNX the first axis is the batch
        x = x.unsqueeze(0)
    x = x.op("DFT", axis=axis + (axis == 0), inverse=int(inverse), onesided=int(onesided))
    x = x.squeeze(0) if axis == 0 else x
    assert x.rank == rank
    return x.cast(dtype) if in_float64 else x
