"""Projections onto one principal component as nodes: those of `layertap.cam.projections`.

ONNX has no operator for eigenvectors. The largest one of a symmetric matrix without negative
eigenvalues is what is left of the matrix after it has been squared often: after k squarings the
others have shrunk by the 2^k-th power of the ratio of the eigenvalues. It is scaled in between.
"""

from __future__ import annotations

from onnx import TensorProto

from layertap_export.gradients.builder import Builder, Value

from .tensors import as_double, either, or_one, part, positions, reduced, reshaped

SQUARINGS = 26
"""How often: eigenvalues that are 1 : 1 - 1e-6 apart become 1 : 7e-30."""


def principal(build: Builder, maps: Value) -> Value:
    """The projection of each position onto the first principal component of all positions.

    Args:
        maps: `(n, h, w, c)`, float64.

    Returns:
        `(n, h, w)`.
    """
    rows = _centred(build, maps)
    columns = _turned(build, maps)
    sizes = rows.shape()
    positions, channels = (part(build, sizes, 0, at, at + 1) for at in (1, 2))
    fewer = (positions <= channels).op("Squeeze")
    # The smaller one of both matrices of products has the same eigenvalues.
    short = either(build, fewer, rows, columns, rank=3)  # (n, the smaller size, the other one)
    long = either(build, fewer, columns, rows, rank=3)
    vector = _vector(build, short.op("MatMul", long))
    other = long.op("MatMul", vector)
    length = reduced(build, "ReduceSum", other * other, [1]).op("Sqrt")
    return _signed(build, either(build, fewer, vector * length, other, rank=3), maps)


def kernel_principal(build: Builder, maps: Value) -> Value:
    """The projection of each position onto the first component of a kernel PCA; as `principal`."""
    products = _centred(build, maps).op("MatMul", _turned(build, maps))
    channels = as_double(part(build, maps.shape(), 0, 3, 4))
    kernel = (products / channels + 1.0).op("Tanh")
    size = as_double(part(build, kernel.shape(), 0, 1, 2))
    by_row, by_column = (reduced(build, "ReduceSum", kernel, [at]) / size for at in (2, 1))
    everything = reduced(build, "ReduceSum", by_row, [1]) / size
    centred = kernel + (everything - by_column - by_row)
    # The largest eigenvalue, not the one with the largest absolute value: none is below this.
    least = reduced(build, "ReduceMax", reduced(build, "ReduceSum", abs(centred), [2]), [1])
    identity = _identity(build, centred)
    vector = _vector(build, centred + identity * least)
    value = reduced(build, "ReduceSum", vector * centred.op("MatMul", vector), [1])
    return _signed(build, vector * value.op("Max", 0.0).op("Sqrt"), maps)


def _vector(build: Builder, matrix: Value) -> Value:
    """The eigenvector `(n, p, 1)` of the largest eigenvalue of a matrix `(n, p, p)` that has no
    negative one."""
    power = _to_one(build, matrix)
    for _ in range(SQUARINGS):
        power = _to_one(build, power.op("MatMul", power))
    # All columns are multiples of the vector; the longest one is not 0.
    lengths = reduced(build, "ReduceSum", power * power, [1])
    longest = lengths.equals(reduced(build, "ReduceMax", lengths, [2])).cast(TensorProto.DOUBLE)
    first = longest.op("CumSum", build.int64(2)).equals(1.0).cast(TensorProto.DOUBLE) * longest
    vector = power.op("MatMul", _upright(build, first))
    square = reduced(build, "ReduceSum", vector * vector, [1])
    return vector / or_one(square).op("Sqrt")


def _to_one(build: Builder, matrix: Value) -> Value:
    """A matrix divided by its largest absolute value."""
    largest = reduced(build, "ReduceMax", abs(matrix), [1, 2])
    return matrix / or_one(largest)


def _rows(build: Builder, maps: Value) -> tuple[Value, Value]:
    """Maps as `(n, h w, c)`, and the mean of each channel, `(n, 1, c)`."""
    shape = maps.shape()
    samples, channels = part(build, shape, 0, 0, 1), part(build, shape, 0, 3, 4)
    rows = reshaped(build, maps, samples, -1, channels)
    count = as_double(part(build, rows.shape(), 0, 1, 2))
    return rows, reduced(build, "ReduceSum", rows, [1]) / count


def _centred(build: Builder, maps: Value) -> Value:
    """Maps as `(n, h w, c)`; each channel has mean 0."""
    rows, mean = _rows(build, maps)
    return rows - mean


def _turned(build: Builder, maps: Value) -> Value:
    """The same as `(n, c, h w)`.

    The mean is subtracted after the Transpose: onnxruntime 1.15 fuses a Transpose and a MatMul of
    float64 into an operator that it lacks.
    """
    rows, mean = _rows(build, maps)
    return rows.op("Transpose", perm=[0, 2, 1]) - _upright(build, mean)


def _upright(build: Builder, row: Value) -> Value:
    """A row `(n, 1, k)` as a column `(n, k, 1)`."""
    samples = part(build, row.shape(), 0, 0, 1)
    return reshaped(build, row, samples, -1, 1)


def _identity(build: Builder, matrix: Value) -> Value:
    """The identity matrix in the size of `(n, p, p)`."""
    numbers = positions(build, part(build, matrix.shape(), 0, 1, 2))
    column = reshaped(build, numbers, -1, 1)
    return as_double(column.equals(numbers))


def _signed(build: Builder, projection: Value, maps: Value) -> Value:
    """The projection with the sign with which it goes along with the sum over the channels."""
    shape = part(build, maps.shape(), 0, 0, 3)
    plain = projection.op("Reshape", shape)
    sums = reduced(build, "ReduceSum", maps, [3]).op("Squeeze", build.int64([3]))
    along = reduced(build, "ReduceSum", plain * sums, [1, 2])
    return (along >= 0.0).where(plain, -plain)
