"""Selecting elements by index: their gradients are added up at the elements they came from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step

from .scattering import added, scatter


def gather(step: Step) -> Gradients:
    """g added up at the indices along the axis."""
    step.only(0)
    build, axis, rank = step.build, step.axis(0), len(step.dims)
    indices = step.input(1)
    count = build.rank(indices)
    known = step.constant(1)
    if known is not None and known.size == 1:
        return [_put_back(step, axis, int(known.reshape(())), count)]
    # One row of g per index, added to rows of zeros: the axis has to be the first.
    total = rank - 1 + count
    picked = list(range(axis, axis + count))
    others = [i for i in range(total) if i not in picked]
    updates = step.gradient.op("Transpose", perm=[*picked, *others])
    shape = updates.shape().op("Slice", build.int64([count]), build.int64([total]))
    zeros = build.zeros(build.vector([build.size(step.x, axis), shape]), step.gradient.dtype)
    rows = indices.cast(TensorProto.INT64).op("Unsqueeze", build.int64([-1]))
    filled = zeros.op("ScatterND", rows, updates, reduction=added(build))
    back = np.argsort([axis, *(i for i in range(rank) if i != axis)]).tolist()
    return [filled.op("Transpose", perm=back)]


def _put_back(step: Step, axis: int, index: int, count: int) -> Value:
    """A single index selects a slice: pad the gradient with zeros."""
    build, g = step.build, step.gradient
    if count == 0:
        g = g.op("Unsqueeze", build.int64([axis]))
    elif count > 1:
        g = g.op("Squeeze", build.int64(range(axis, axis + count - 1)))
    size = build.size(step.x, axis)
    pads: list[Value | int] = [0] * (2 * len(step.dims))
    if isinstance(size, int):
        index %= size
        pads[axis], pads[axis + len(step.dims)] = index, size - 1 - index
    elif index >= 0:
        pads[axis], pads[axis + len(step.dims)] = index, size - build.int64([index + 1])
    else:
        pads[axis], pads[axis + len(step.dims)] = size + build.int64([index]), -1 - index
    return g.op("Pad", build.vector(pads))


def gather_elements(step: Step) -> Gradients:
    """g added up at the indices along the axis, element by element."""
    step.only(0)
    build, axis = step.build, step.axis(0)
    zeros = _zeros(step, axis)
    indices = step.input(1).op("Expand", step.gradient.shape())
    return [zeros.op("ScatterElements", indices, step.gradient, axis=axis, reduction=added(build))]


def _zeros(step: Step, axis: int) -> Value:
    """Zeros in the shape of x, with as many rows as g has."""
    build = step.build
    target = [build.size(step.x, other) for other in range(len(step.dims))]
    if axis != 0:
        target[0] = build.rows(step.gradient)
    return build.zeros(build.vector(target), step.gradient.dtype)


def gather_nd(step: Step) -> Gradients:
    """g added up at the indices."""
    step.only(0)
    build, batch = step.build, step.attribute("batch_dims", 0)
    if batch == 0:
        zeros = build.zeros(step.x.shape(), step.gradient.dtype)
        return [zeros.op("ScatterND", step.input(1), step.gradient, reduction=added(build))]
    if batch == 1:
        return [scatter(build, step.gradient, _flat_indices(step), step.x)]
    raise step.unsupported(f"with {batch} batch axes")


def _flat_indices(step: Step) -> Value:
    """Indices into the axes of a sample, as numbers of the sample's elements."""
    build, indices = step.build, step.input(1)
    last = build.rank(indices) - 1
    depth = build.dims(indices)[last]
    if not isinstance(depth, int):
        raise step.unsupported("with indices of free length")
    number: Value | None = None
    for column in range(depth):
        size = build.sizes(step.x, [column + 1])
        bounds = (build.int64([value]) for value in (column, column + 1, last))
        index = indices.op("Slice", *bounds)
        index = (
            index + (index < build.int64(0)).cast(size.dtype) * size
        )  # negative indices count from the end
        number = index if number is None else number * size + index
    assert number is not None
    # After the indexed axes, whole blocks are selected.
    block = build.count(step.x, range(depth + 1, len(step.dims)))
    width = build.int64(block) if isinstance(block, int) else block
    within = build.node("Range", build.int64(0), width, build.int64(1))
    samples = build.size(step.x, 0)
    starts = number.op("Reshape", build.vector([samples, -1, 1])) * width
    return (starts + within).op("Reshape", build.vector([samples, -1]))


def top(step: Step) -> Gradients:
    """Of TopK: g at the indices of the values."""
    axis = step.axis(-1)
    found = step.outputs[1]
    if found is None:
        raise step.unsupported("without indices")
    indices = found.op("Expand", step.gradient.shape())
    # No element is among the largest twice.
    return [_zeros(step, axis).op("ScatterElements", indices, step.gradient, axis=axis)]


def scatter_elements(step: Step) -> Gradients:
    """For the data g, but 0 where it was overwritten; for the updates g at their indices."""
    _check_reduction(step)
    axis, g, indices = step.axis(0), step.gradient, step.input(1)
    data = updates = None
    if step.wanted[0]:
        nothing = step.build.zeros(indices.shape(), g.dtype)
        kept = step.text("reduction", "none") == "add"
        data = g if kept else g.op("ScatterElements", indices, nothing, axis=axis)
    if step.wanted[2]:
        updates = g.op("GatherElements", indices, axis=axis)
    return [data, None, updates]


def scatter_nd(step: Step) -> Gradients:
    """For the data g, but 0 where it was overwritten; for the updates g at their indices."""
    _check_reduction(step)
    g, indices = step.gradient, step.input(1)
    data = updates = None
    if step.wanted[0]:
        nothing = step.build.zeros(step.input(2).shape(), g.dtype)
        kept = step.text("reduction", "none") == "add"
        data = g if kept else g.op("ScatterND", indices, nothing)
    if step.wanted[2]:
        updates = g.op("GatherND", indices)
    return [data, None, updates]


def _check_reduction(step: Step) -> None:
    reduction = step.text("reduction", "none")
    if reduction not in ("none", "add"):
        raise step.unsupported(f"of reduction {reduction!r}")


RULES: Mapping[str, Rule] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "TopK": top,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
"""The rules of this theme, by operator."""
