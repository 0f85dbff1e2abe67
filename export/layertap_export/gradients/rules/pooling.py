"""Pooling over windows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from onnx import helper

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step
from layertap_export.graph.shapes.sizes import Free
from layertap_export.graph.shapes.windows import Window

from .convolution import begins_of, margins, spread
from .scattering import ADDING, scatter


def _window(step: Step) -> Window:
    return Window.of(step.attributes, step.attribute("kernel_shape"))


# --- The maximum of a window ---------------------------------------------------------------------


def maximum(step: Step) -> Gradients:
    """g for the first maximum of each window, in row-major order; in volumes g for every maximum.

    Windows overlap, so several gradients may be added up at one element.
    """
    build, x, g = step.build, step.x, step.gradient
    if len(step.dims) == 5:  # as TensorFlow's MaxPool3DGrad has it
        return [_every_maximum(step)]
    if step.attribute("storage_order", 0):
        raise step.unsupported("with storage_order 1")
    indices = step.outputs[1] if len(step.outputs) > 1 else None
    if indices is None:
        indices = build.nodes("MaxPool", 2, x, **step.attributes)[1]
    # ONNX numbers the elements through the whole batch.
    count = build.count(x, range(1, len(step.dims)))
    sample = build.int64(count) if isinstance(count, int) else count
    within = indices.op("Mod", sample)
    if build.opset >= ADDING:
        return [scatter(build, g, _rows(step, within), x)]
    return [_in_phases(step, g, within)]


def _rows(step: Step, indices: Value) -> Value:
    return indices.op("Reshape", step.build.vector([step.build.rows(indices), -1]))


def _in_phases(step: Step, g: Value, indices: Value) -> Value:
    """The same without adding: windows that are far enough apart do not overlap."""
    window, int64 = _window(step), step.build.int64
    apart = [
        -(-extent // stride) for extent, stride in zip(window.extents, window.strides, strict=True)
    ]
    total: Value | None = None
    for phase in product(*map(range, apart)):
        ends = [2**63 - 1] * len(phase)
        bounds = [int64(numbers) for numbers in (phase, ends, window.axes, apart)]
        some = _rows(step, indices.op("Slice", *bounds))
        part = scatter(step.build, g.op("Slice", *bounds), some, step.x, unique=True)
        total = part if total is None else total + part
    assert total is not None
    return total


def _every_maximum(step: Step) -> Value:
    """g for every element that equals the maximum of its window, added up over the windows."""
    build, x, y, g, window = step.build, step.x, step.y, step.gradient, _window(step)
    if _tiles(step, window):
        return x.equals(_repeated(step, y, window)).masks(_repeated(step, g, window))
    channels = step.dims[1]
    if isinstance(channels, Free):
        raise step.unsupported("with a free number of channels")
    # For each cell of the window a tensor like y, which holds g where the maximum is there.
    around = _surrounded(step, window)
    counts = build.sizes(y, window.axes)
    parts = []
    for cell in product(*map(range, window.kernel)):
        start = build.int64([i * d for i, d in zip(cell, window.dilations, strict=True)])
        stop = start + (counts - build.int64([1])) * build.int64(window.strides) + build.int64([1])
        seen = around.op(
            "Slice", start, stop, build.int64(window.axes), build.int64(window.strides)
        )
        parts.append(seen.equals(y).masks(g).op("Unsqueeze", build.int64([2])))
    together = build.node("Concat", *parts, axis=2)
    shape = build.vector([-1, channels * len(parts), *(build.size(y, i) for i in window.axes)])
    kernel = np.tile(np.eye(len(parts)).reshape(-1, 1, *window.kernel), (channels, 1, 1, 1, 1))
    cells = build.constant(kernel.astype(helper.tensor_dtype_to_np_dtype(g.dtype)))
    return spread(step, together.op("Reshape", shape), cells, window, channels)


def _surrounded(step: Step, window: Window) -> Value:
    """x with the padding of the pooling, and enough at the end for all windows: lowest numbers."""
    build, fixed = step.build, window.fixed(step.dims[2:])
    sizes = build.sizes(step.x, window.axes)
    begins = build.int64(fixed.begins) if fixed else begins_of(step, window, sizes)
    room = [extent + stride for extent, stride in zip(window.extents, window.strides, strict=True)]
    pads = build.vector([0, 0, begins, 0, 0, *room])
    lowest = np.array(-np.inf, helper.tensor_dtype_to_np_dtype(step.x.dtype))
    return step.x.op("Pad", pads, build.constant(lowest))


# --- The mean of a window ------------------------------------------------------------------------


def average(step: Step) -> Gradients:
    """For each element, the sum of g / n over its windows, which have n elements."""
    window = _window(step)
    counted = bool(step.attribute("count_include_pad", 0))
    g, cells = step.gradient, float(np.prod(window.kernel))
    if window.ceil or (window.padded and not counted):
        g = g * (_shares(step, window, counted) * cells)
    # With strides of 1, the gradient is an average too.
    around = margins(window.fixed(step.dims[2:]))
    # onnxruntime needs padding smaller than the kernel, dilation not included.
    if around is not None and all(m < k for m, k in zip(around, window.kernel * 2, strict=True)):
        attributes = {"kernel_shape": list(window.kernel), "pads": around, "count_include_pad": 1}
        return [g.op("AveragePool", **attributes, **_dilated(window))]
    return [_repeated(step, g * (1 / cells), window)]


def _dilated(window: Window) -> Mapping[str, Any]:
    """The attribute `dilations`, which AveragePool has since opset 19, if it is needed."""
    dilated = any(dilation > 1 for dilation in window.dilations)
    return {"dilations": list(window.dilations)} if dilated else {}


def _shares(step: Step, window: Window, counted: bool) -> Value:
    """The weight of an element in the mean of its window, per window.

    That is 1 over the number of elements. Where padding is counted and windows extend beyond it,
    runtimes differ, so the pooling itself computes the weight, from a window of ones.
    """
    build = step.build
    sizes = [build.size(step.x, axis) for axis in window.axes]
    value = build.ones([1] * len(step.dims), step.x.dtype)
    ones = value.op("Expand", build.vector([1, 1, *sizes]))
    kernel = build.ones([1, 1, *window.kernel], step.x.dtype)
    fixed = window.fixed(step.dims[2:])
    if fixed is None:
        number = ones.op("Conv", kernel, auto_pad=window.same, strides=list(window.strides))
    else:
        # Windows that extend beyond the end need padding there; surplus windows are cut off.
        room = [extent - 1 if window.ceil else 0 for extent in window.extents]
        ends = [end + more for end, more in zip(fixed.ends, room, strict=True)]
        number = ones.op(
            "Conv",
            kernel,
            strides=list(window.strides),
            dilations=list(window.dilations),
            pads=[*fixed.begins, *ends],
        )
        if window.ceil:
            start = build.int64([0] * len(sizes))
            counts = build.sizes(step.y, window.axes)
            number = number.op("Slice", start, counts, build.int64(window.axes))
    if not (window.ceil and counted):
        return 1 / number
    return ones.op("AveragePool", **step.attributes) / number


def _repeated(step: Step, g: Value, window: Window) -> Value:
    """g, repeated for each element of its window."""
    build = step.build
    if _tiles(step, window):
        scales = build.constant(np.array([1, 1, *window.kernel], np.float32))
        return g.op(
            "Resize",
            None,
            scales,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    channels = step.dims[1]
    if isinstance(channels, Free):
        raise step.unsupported("with a free number of channels")
    kernel = build.ones([channels, 1, *window.kernel], g.dtype)
    return spread(step, g, kernel, window, channels)


def _tiles(step: Step, window: Window) -> bool:
    """Whether the windows neither overlap nor leave out an element of x."""
    return (
        window.kernel == window.strides
        and not window.padded
        and all(dilation == 1 for dilation in window.dilations)
        and all(
            count * size == whole
            for count, size, whole in zip(
                step.build.dims(step.y)[2:], window.kernel, step.dims[2:], strict=True
            )
        )
    )


# --- The norm of a window ------------------------------------------------------------------------


def norm(step: Step) -> Gradients:
    """Of LpPool: y = (sum of |x|^p)^(1/p): sign(x) |x|^(p - 1) times g y^(1 - p) of its windows."""
    p, window = step.attribute("p", 2), _window(step)
    x, y = step.x, step.y
    g = step.gradient / (y if p == 2 else y.op("Pow", p - 1.0)) if p != 1 else step.gradient
    slope = x if p == 2 else x.op("Sign") * x.op("Abs").op("Pow", p - 1.0)
    return [slope * _repeated(step, g, window)]


def unpool(step: Step) -> Gradients:
    """Of MaxUnpool: g at the positions that the values were put at."""
    step.only(0)
    build, indices = step.build, step.input(1)
    flat = build.int64([-1])
    picked = step.gradient.op("Reshape", flat).op("Gather", indices.op("Reshape", flat), axis=0)
    return [picked.op("Reshape", step.x.shape())]


RULES: Mapping[str, Rule] = {
    "MaxPool": maximum,
    "AveragePool": average,
    "LpPool": norm,
    "MaxUnpool": unpool,
}
"""The rules of this theme, by operator."""
