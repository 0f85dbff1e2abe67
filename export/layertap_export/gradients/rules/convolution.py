"""Convolutions. The backward half reads the same weights as the forward half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step
from layertap_export.graph.shapes.sizes import fixed
from layertap_export.graph.shapes.windows import Window


def conv(step: Step) -> Gradients:
    """The transposed convolution of g with the same weights.

    With strides of 1, that is a convolution with the reversed kernel. onnxruntime computes it in
    the layout of the forward half, which is faster, for depthwise convolutions several times. It
    reverses the kernel once, when it loads the file.
    """
    step.only(0)
    sizes = _kernel(step)
    window = Window.of(step.attributes, sizes[2:])
    group = step.attribute("group", 1)
    around = margins(window.fixed(step.dims[2:]))
    if around is not None:
        return [
            step.gradient.op(
                "Conv",
                _reversed(step, sizes, group),
                kernel_shape=list(window.kernel),
                dilations=list(window.dilations),
                group=group,
                pads=around,
            )
        ]
    return [spread(step, step.gradient, step.input(1), window, group)]


def _kernel(step: Step) -> list[int]:
    """The sizes of the weights."""
    sizes = fixed(step.build.dims(step.input(1)))
    if sizes is None:
        raise step.unsupported("with a kernel of free size")
    return sizes


def margins(window: Window | None) -> list[int] | None:
    """The padding with which a window of strides 1 restores the sizes of its input.

    `None` for other strides, and for padding that is not known or larger than the window.
    """
    if window is None or not window.dense:
        return None
    pads = [
        extent - 1 - pad
        for side in (window.begins, window.ends)
        for extent, pad in zip(window.extents, side, strict=True)
    ]
    return pads if min(pads) >= 0 else None


def _reversed(step: Step, sizes: Sequence[int], group: int) -> Value:
    """The kernel (out, in / group, ...) as (in, out / group, ...), its cells in reverse order."""
    build, kernel = step.build, step.input(1)
    outer, inner, *cells = sizes
    if group == 1:
        kernel = kernel.op("Transpose", perm=[1, 0, *range(2, len(sizes))])
    elif (inner, outer) != (1, group):  # not depthwise: there each group is a channel
        parts = [group, outer // group, inner, *cells]
        kernel = kernel.op("Reshape", build.int64(parts))
        kernel = kernel.op("Transpose", perm=[0, 2, 1, *range(3, len(parts))])
        kernel = kernel.op("Reshape", build.int64([group * inner, outer // group, *cells]))
    axes = [axis for axis, size in enumerate(cells, start=2) if size > 1]
    if not axes:
        return kernel
    count = len(axes)
    bounds = ([-1] * count, [-(2**63)] * count, axes, [-1] * count)
    return kernel.op("Slice", *map(build.int64, bounds))


def spread(step: Step, g: Value, kernel: Value, window: Window, group: int) -> Value:
    """The transposed convolution of g, in the sizes of x."""
    build, axes = step.build, window.axes
    attributes = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "group": group,
    }
    padded = window.fixed(step.dims[2:])
    behind = None if padded is None else _behind(step, padded)
    if padded is not None and behind is not None:
        return g.op(
            "ConvTranspose",
            kernel,
            pads=[*padded.begins, *(max(cells, 0) for cells in behind)],
            output_padding=[max(-cells, 0) for cells in behind],
            **attributes,
        )
    # A result that is large enough, cut to the sizes of x when the graph runs.
    full = g.op(
        "ConvTranspose",
        kernel,
        pads=[*(padded.begins if padded else [0] * len(axes)), *[0] * len(axes)],
        output_padding=[stride - 1 for stride in window.strides],
        **attributes,
    )
    sizes = build.sizes(step.x, axes)
    start = build.int64([0] * len(axes)) if padded else begins_of(step, window, sizes)
    return full.op("Slice", start, start + sizes, build.int64(axes))


def _behind(step: Step, window: Window) -> list[int] | None:
    """Per axis, how many cells the windows extend beyond the end of x, or less than 0."""
    cells = []
    outputs = step.build.dims(step.y)[2:]
    for axis, (size, count) in enumerate(zip(step.dims[2:], outputs, strict=True)):
        reach = (count - 1) * window.strides[axis] + window.extents[axis]
        beyond = reach - window.begins[axis] - size
        if not isinstance(beyond, int):
            return None
        cells.append(beyond)
    return cells


def begins_of(step: Step, window: Window, sizes: Value) -> Value:
    """The padding in front by `auto_pad`, computed when the graph runs."""
    build = step.build
    counts = build.sizes(step.y, window.axes)
    strides, extents = build.int64(window.strides), build.int64(window.extents)
    total = ((counts - build.int64([1])) * strides + extents - sizes).op("Max", build.int64([0]))
    half = total / build.int64([2])
    return half if window.same == "SAME_UPPER" else total - half


def conv_transpose(step: Step) -> Gradients:
    """The convolution of g with the same weights."""
    step.only(0)
    cells = _kernel(step)[2:]
    window = Window.of(step.attributes, cells)
    extra = step.attribute("output_padding") or [0] * len(cells)
    padded = window.fixed_spread(step.dims[2:], extra)
    if padded is None:
        raise step.unsupported("with padding that depends on a free size")
    return [
        step.gradient.op(
            "Conv",
            step.input(1),
            kernel_shape=list(padded.kernel),
            strides=list(padded.strides),
            dilations=list(padded.dilations),
            group=step.attribute("group", 1),
            pads=[*padded.begins, *padded.ends],
        )
    ]


RULES: Mapping[str, Rule] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
}
"""The rules of this theme, by operator."""
