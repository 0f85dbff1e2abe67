"""Moving elements without changing them: the gradient is moved back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import TensorProto

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step
from layertap_export.graph.shapes.output_sizes import slice_size
from layertap_export.graph.shapes.sizes import Free, fixed


def reshape(step: Step) -> Gradients:
    """g in the shape of x: of Reshape, Flatten, Squeeze and Unsqueeze."""
    return [step.build.shaped(step.gradient, step.x)]


def transpose(step: Step) -> Gradients:
    """g with the inverse permutation."""
    perm = step.attribute("perm") or list(range(len(step.dims)))[::-1]
    return [step.gradient.op("Transpose", perm=np.argsort(perm).tolist())]


def expand(step: Step) -> Gradients:
    """g summed over what was repeated."""
    step.only(0)
    return [step.build.summed(step.gradient, step.x, step.build.dims(step.y))]


def tile(step: Step) -> Gradients:
    """g summed over the repetitions: of an axis of n the elements i, i + n, i + 2 n, ..."""
    build, rank = step.build, len(step.dims)
    repeats = step.integers(1) or [None] * rank
    parts: list[Value | int] = []
    for axis, count in enumerate(repeats):
        if isinstance(count, int):
            parts.append(count)
        else:
            parts.append(step.input(1).op("Slice", build.int64([axis]), build.int64([axis + 1])))
        parts.append(build.size(step.x, axis))
    if repeats[0] == 1:
        parts[1] = -1  # there may be more rows than in x
    apart = step.gradient.op("Reshape", build.vector(parts))
    return [apart.op("ReduceSum", build.int64(range(0, 2 * rank, 2)), keepdims=0)]


# --- Joining and splitting -----------------------------------------------------------------------


def concat(step: Step) -> Gradients:
    """The slice of g at the position of the operand."""
    axis = step.axis(0, step.build.rank(step.y))
    operands = [step.input(index) for index in range(len(step.inputs))]
    parts = fixed(tuple(step.build.dims(value)[axis] for value in operands))
    if all(step.wanted) and parts is not None:
        sizes = step.build.int64(parts)
        return step.build.nodes("Split", len(parts), step.gradient, sizes, axis=axis)
    return [
        _between(step, axis, index) if wanted else None for index, wanted in enumerate(step.wanted)
    ]


def _between(step: Step, axis: int, index: int) -> Value:
    """The part of g that belongs to one operand of a Concat."""
    build = step.build
    start = build.int64([0])
    fixed = 0
    for value in step.inputs[:index]:
        assert value is not None
        size = build.dims(value)[axis]
        if isinstance(size, int):
            fixed += size
        else:
            start = start.op("Add", build.sizes(value, [axis]))
    size = build.dims(step.input(index))[axis]
    if start.name == build.int64([0]).name and isinstance(size, int):
        start, end = build.int64([fixed]), build.int64([fixed + size])
    else:
        start = start.op("Add", build.int64([fixed]))
        end = start.op("Add", build.sizes(step.input(index), [axis]))
    return step.gradient.op("Slice", start, end, build.int64([axis]))


def split(step: Step) -> Gradients:
    """The outputs' gradients, joined."""
    axis = step.axis(0)
    given = next(g for g in step.gradients if g is not None)
    parts = [
        g if g is not None else _nothing(step, given, value, axis)
        for g, value in zip(step.gradients, step.outputs, strict=True)
    ]
    return [step.build.node("Concat", *parts, axis=axis)]


def _nothing(step: Step, given: Value, like: Value | None, axis: int) -> Value:
    """Zeros for an output that the score does not depend on, with the other outputs' rows."""
    assert like is not None
    others = given.op("Slice", *map(step.build.int64, ([0], [1], [axis]))) * 0.0
    return step.build.spread(others, like, [axis])


def slice_(step: Step) -> Gradients:
    """g with zeros around it, and between its elements where there is a step."""
    step.only(0)
    rank, g = len(step.dims), step.gradient
    pads: list[Value | int] = [0] * (2 * rank)
    for index, axis in enumerate(_sliced(step)):
        bounds = _left_out(step, axis, index)
        if bounds is None:
            g = _put_back(step, g, axis, index)
        else:
            pads[axis], pads[axis + rank] = bounds
    return [g if pads == [0] * len(pads) else g.op("Pad", step.build.vector(pads))]


def _sliced(step: Step) -> list[int]:
    """The axes of a Slice, in its order, counted from the front."""
    if not step.has(3):
        count = step.build.dims(step.input(1))[0]
        if isinstance(count, Free):
            raise step.unsupported("of a number of axes that is not known")
        return list(range(count))
    axes = step.integers(3)
    if axes is None or not all(isinstance(axis, int) for axis in axes):
        raise step.unsupported("with computed axes")
    return [axis % len(step.dims) for axis in axes if isinstance(axis, int)]


def _left_out(step: Step, axis: int, index: int) -> tuple[int, int] | None:
    """How many elements of an axis a Slice left out before and after.

    `None` where that is not known, or there is a step.
    """
    bounds = [step.integers(number) for number in (1, 2, 4)]
    start, end = (None if given is None else given[index] for given in bounds[:2])
    stride = (bounds[2] or [None] * (index + 1))[index] if step.has(4) else 1
    size = step.dims[axis]
    if stride != 1 or not isinstance(start, int):
        return None
    count = slice_size(size, start, end, 1)
    if isinstance(size, Free) or not isinstance(count, int):
        # An axis of free size may be shorter than a Slice leaves out.
        return (0, 0) if start == 0 and count == size else None
    first = min(max(start + size if start < 0 else start, 0), size)
    return first, size - first - count


def _put_back(step: Step, g: Value, axis: int, index: int) -> Value:
    """g with its elements along an axis at the positions in x that a Slice took them from.

    The positions are the numbers of the elements, sliced in the same way; all others get a zero.
    """
    build, end = step.build, len(step.dims)
    size = build.size(step.x, axis)
    whole = build.int64(size) if isinstance(size, int) else size.op("Squeeze", build.int64([0]))
    numbers = build.node("Range", build.int64(0), whole, build.int64(1))
    start, stop = (_element(step, number, index) for number in (1, 2))
    stride = _element(step, 4, index) if step.has(4) else build.int64([1])
    taken = numbers.op("Slice", start, stop, build.int64([0]), stride)
    count = taken.shape()
    order = build.node(
        "Range", build.int64(0), count.op("Squeeze", build.int64([0])), build.int64(1)
    )
    # For each element of x, its number in g; that of the others is one zero at the end of g.
    origin = count.op("Expand", build.vector([size])).op("ScatterElements", taken, order, axis=0)
    pads = [0] * (2 * end)
    pads[axis + end] = 1
    return g.op("Pad", build.int64(pads)).op("Gather", origin, axis=axis)


def _element(step: Step, number: int, index: int) -> Value:
    """One element of an input that holds integers, an int64 vector of one."""
    int64 = step.build.int64
    values = step.input(number).cast(TensorProto.INT64)
    return values.op("Slice", int64([index]), int64([index + 1]), int64([0]))


# --- Padding -------------------------------------------------------------------------------------


def pad(step: Step) -> Gradients:
    """g without the padding; the gradients of repeated elements are added to the elements."""
    step.only(0)
    mode = step.text("mode", "constant")
    axes = step.axes(3) if step.has(3) else list(range(len(step.dims)))
    if axes is None:
        raise step.unsupported("with computed axes")
    pads = step.integers(1) or [None] * (2 * len(axes))
    g = step.gradient
    for index, axis in enumerate(axes):
        before, after = pads[index], pads[index + len(axes)]
        if isinstance(before, int) and isinstance(after, int):
            if before == after == 0:
                continue
            if mode != "constant":
                g = _folded(step, g, axis, _sources(step, mode, axis, before, after))
            else:
                g = _unpadded(step, g, axis, before, after)
        elif mode == "constant":
            g = _cropped(step, g, axis, index)
        else:
            raise step.unsupported(f"of mode {mode!r} with computed pads")
    return [g]


def _cropped(step: Step, g: Value, axis: int, index: int) -> Value:
    """g without the padding of an axis, which the graph computes."""
    build = step.build
    start = step.input(1).op("Slice", build.int64([index]), build.int64([index + 1]))
    return g.op("Slice", start, start + build.sizes(step.x, [axis]), build.int64([axis]))


def _unpadded(step: Step, g: Value, axis: int, before: int, after: int) -> Value:
    int64 = step.build.int64
    if before < 0 or after < 0:  # cropped: zeros are put back
        pads = [0] * (2 * len(step.dims))
        pads[axis], pads[axis + len(step.dims)] = max(-before, 0), max(-after, 0)
        g = g.op("Pad", int64(pads))
    if before > 0 or after > 0:
        end = -after if after > 0 else 2**63 - 1
        g = g.op("Slice", int64([max(before, 0)]), int64([end]), int64([axis]))
    return g


def _sources(step: Step, mode: str, axis: int, before: int, after: int) -> list[int]:
    """The index in x of each element of y along an axis."""
    size = step.dims[axis]
    if isinstance(size, Free):
        raise step.unsupported(f"of mode {mode!r} along an axis of free size")
    if mode not in _MODES:
        raise step.unsupported(f"of mode {mode!r}")
    numbers = np.pad(np.arange(size), (max(before, 0), max(after, 0)), _MODES[mode])  # type: ignore[call-overload]
    end = len(numbers) + min(after, 0)
    return [int(number) for number in numbers[max(-before, 0) : end]]


_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
"""numpy's names for ONNX's modes of padding."""


def _folded(step: Step, g: Value, axis: int, sources: Sequence[int]) -> Value:
    """g with its elements along an axis added up at their indices in x; runs are sliced at once."""
    int64, size = step.build.int64, step.dims[axis]
    assert isinstance(size, int)
    pads = len(step.dims)
    total: Value | None = None
    for start, end, first, backwards in _runs(sources):
        bounds = (end - 1, start - 1 if start else -(2**63), -1) if backwards else (start, end, 1)
        part = g.op("Slice", *(int64([number]) for number in (*bounds[:2], axis, bounds[2])))
        around = [0] * (2 * pads)
        around[axis], around[axis + pads] = first, size - first - (end - start)
        part = part.op("Pad", int64(around)) if any(around) else part
        total = part if total is None else total + part
    assert total is not None
    return total


def _runs(sources: Sequence[int]) -> list[tuple[int, int, int, bool]]:
    """Runs of consecutive numbers: start, end, the smallest number, and whether they decrease."""
    runs = []
    start = 0
    while start < len(sources):
        end = start + 1
        step = sources[end] - sources[start] if end < len(sources) else 0
        if step in (1, -1):
            while end < len(sources) and sources[end] - sources[end - 1] == step:
                end += 1
        runs.append((start, end, min(sources[start:end]), step == -1 and end - start > 1))
        start = end
    return runs


# --- Between channels and space ------------------------------------------------------------------


def depth_to_space(step: Step) -> Gradients:
    """g split into blocks again; in the mode CRD the channels are the outer axis."""
    block = step.attribute("blocksize")
    back = step.gradient.op("SpaceToDepth", blocksize=block)
    if step.text("mode", "DCR") == "DCR":
        return [back]
    channels = step.build.dims(step.y)[1]
    if isinstance(channels, Free):
        raise step.unsupported("of a free number of channels")
    sizes = [step.build.size(step.x, axis) for axis in (2, 3)]
    apart = back.op("Reshape", step.build.vector([-1, block * block, channels, *sizes]))
    swapped = apart.op("Transpose", perm=[0, 2, 1, 3, 4])
    return [step.build.shaped(swapped, step.x)]


def space_to_depth(step: Step) -> Gradients:
    """g with its blocks joined again."""
    return [step.gradient.op("DepthToSpace", blocksize=step.attribute("blocksize"), mode="DCR")]


def trilu(step: Step) -> Gradients:
    """The same triangle of g."""
    step.only(0)
    upper = step.attribute("upper", 1)
    return [step.gradient.op("Trilu", *step.inputs[1:], upper=upper)]


def reverse_sequence(step: Step) -> Gradients:
    """g reversed in the same way."""
    options = {name: step.attribute(name) for name in ("batch_axis", "time_axis")}
    given = {name: value for name, value in options.items() if value is not None}
    return [step.gradient.op("ReverseSequence", step.input(1), **given)]


RULES: Mapping[str, Rule] = {
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Expand": expand,
    "Tile": tile,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Trilu": trilu,
    "ReverseSequence": reverse_sequence,
}
"""The rules of this theme, by operator."""
