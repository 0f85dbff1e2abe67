"""Sizes of outputs where ONNX's shape inference leaves them open.

The rows of `graph/operators.py` name these functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from .node_facts import NodeFacts
from .sizes import Free, Size, fixed, product, quotient

OutputSizes: TypeAlias = "Sequence[Size | None] | None"
"""Sizes of the axes of the outputs; `None` for an axis, or all of them, that is not known."""


def conv(node: NodeFacts) -> OutputSizes:
    dims, kernel = node.dims(0), node.dims(1)
    cells = fixed(kernel)
    if dims is None or cells is None:
        return None
    return (dims[0], cells[0], *node.window(cells[2:]).outputs(dims[2:]))


def pool(node: NodeFacts) -> OutputSizes:
    dims = node.dims(0)
    if dims is None:
        return None
    return (*dims[:2], *node.window(node.attribute("kernel_shape")).outputs(dims[2:]))


def conv_transpose(node: NodeFacts) -> OutputSizes:
    dims, kernel = node.dims(0), node.dims(1)
    cells = fixed(kernel)
    if dims is None or cells is None:
        return None
    sizes = node.window(cells[2:]).spread(dims[2:], node.attribute("output_padding"))
    return (dims[0], cells[1] * node.attribute("group", 1), *sizes)


def reshape(node: NodeFacts) -> OutputSizes:
    dims, target = node.dims(0), node.integers(1)
    if target is None:
        return None
    sizes: list[Size | None] = list(target)
    if not node.attribute("allowzero", 0):
        for axis, size in enumerate(sizes):
            if isinstance(size, int) and size == 0:
                sizes[axis] = dims[axis] if dims is not None and axis < len(dims) else None
    if -1 in sizes:
        at = sizes.index(-1)
        others = [size for axis, size in enumerate(sizes) if axis != at]
        sizes[at] = None
        if dims is not None and None not in others:
            rest = product(size for size in others if size is not None)
            sizes[at] = quotient(product(dims), rest)
    return sizes


def flatten(node: NodeFacts) -> OutputSizes:
    dims = node.dims()
    if dims is None:
        return None
    axis = node.attribute("axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    return (product(dims[:axis]), product(dims[axis:]))


def concat(node: NodeFacts) -> OutputSizes:
    parts = [node.dims(index) for index in range(node.input_count)]
    known = [dims for dims in parts if dims is not None]
    if not known or len(known) < len(parts):
        return None
    axis = node.attribute("axis") % len(known[0])
    sizes: list[Size | None] = list(known[0])
    total: Size = 0
    for dims in known:
        total = total + dims[axis]
    sizes[axis] = total
    return sizes


def slice_(node: NodeFacts) -> OutputSizes:
    dims, starts, ends = node.dims(0), node.integers(1), node.integers(2)
    if dims is None or starts is None or ends is None:
        return None
    axes = node.value(3) if node.input_count > 3 else np.arange(len(starts))
    steps = node.value(4) if node.input_count > 4 else np.ones(len(starts), np.int64)
    if axes is None or steps is None:
        return None
    sizes: list[Size | None] = list(dims)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        sizes[int(axis)] = slice_size(dims[int(axis)], start, end, int(step))
    return sizes


def slice_size(size: Size, start: Size | None, end: Size | None, step: int) -> Size | None:
    """How many elements of an axis a Slice takes; `None` where that is not known."""
    if start is None or end is None:
        return None
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        stop = None if step < 0 and end < -size else end
        return len(range(*slice(start, stop, step).indices(size)))
    if step != 1 or (isinstance(start, int) and start < -1 and isinstance(size, Free)):
        return None  # the axis may be shorter than the Slice would take
    if isinstance(start, int) and start < 0:
        start = size + start
    if isinstance(end, int) and end < 0:
        end = size + end
    elif isinstance(end, int) and end >= 2**31 - 1:
        end = size
    if isinstance(end, int) and isinstance(size, Free):
        return None  # the axis may be shorter
    count = end - start
    return max(count, 0) if isinstance(count, int) else count


def split(node: NodeFacts) -> OutputSizes:
    dims = node.dims()
    if dims is None or node.input_count > 1:
        return None
    axis = node.attribute("axis", 0)
    sizes: list[Size | None] = list(dims)
    sizes[axis] = dims[axis] // node.output_count
    return sizes


def pad(node: NodeFacts) -> OutputSizes:
    dims, pads = node.dims(0), node.integers(1)
    if dims is None or pads is None or node.input_count > 3:
        return None
    rank = len(dims)
    return [
        None
        if None in (before := pads[axis], after := pads[axis + rank])
        else size + before + after
        for axis, size in enumerate(dims)
    ]


def expand(node: NodeFacts) -> OutputSizes:
    dims, target = node.dims(0), node.integers(1)
    if dims is None or target is None:
        return None
    rank = max(len(dims), len(target))
    left = (1,) * (rank - len(dims)) + dims
    right = (1,) * (rank - len(target)) + tuple(target)
    return [_broadcast(*pair) for pair in zip(left, right, strict=True)]


def _broadcast(left: Size, right: Size | None) -> Size | None:
    if left == right or right == 1:
        return left
    if left == 1:
        return right
    return next((size for size in (left, right) if isinstance(size, int)), None)


def tile(node: NodeFacts) -> OutputSizes:
    dims, repeats = node.dims(0), node.integers(1)
    if dims is None or repeats is None:
        return None
    return [
        None if count is None else size * count for size, count in zip(dims, repeats, strict=True)
    ]


def constant_of_shape(node: NodeFacts) -> OutputSizes:
    target = node.integers()
    return None if target is None else list(target)


def resize(node: NodeFacts) -> OutputSizes:
    dims = node.dims()
    if dims is None:
        return None
    sizes = node.integers(3) if node.input_count > 3 else None
    axes = node.attribute("axes") or range(len(dims))
    found: list[Size | None] = list(dims)
    if sizes is not None:
        for axis, size in zip(axes, sizes, strict=True):
            found[axis] = size
        return found
    scales = node.value(2) if node.input_count > 2 else None
    if scales is None:
        return None
    for axis, scale in zip(axes, scales.tolist(), strict=True):
        size = dims[axis]
        found[axis] = math.floor(size * scale) if isinstance(size, int) else None
        if isinstance(size, Free) and float(scale).is_integer():
            found[axis] = size * int(scale)
    return found


def space_to_depth(node: NodeFacts) -> OutputSizes:
    dims, block = node.dims(), node.attribute("blocksize")
    if dims is None:
        return None
    return (dims[0], dims[1] * block**2, dims[2] // block, dims[3] // block)


def depth_to_space(node: NodeFacts) -> OutputSizes:
    dims, block = node.dims(), node.attribute("blocksize")
    if dims is None:
        return None
    return (dims[0], dims[1] // block**2, dims[2] * block, dims[3] * block)
