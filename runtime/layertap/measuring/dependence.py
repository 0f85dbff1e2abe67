"""Which positions of its inputs an ONNX operator reads for a position of its output.

The operators: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layertap.format.operators import BROADCAST, ELEMENTWISE, REDUCTIONS

from .links import (
    REPEATED,
    SAME,
    BothWays,
    Link,
    Mapped,
    Picked,
    Positions,
    Regrouped,
    Spread,
    Upto,
    Whole,
    Windows,
)

Array = NDArray[Any]
Shape = tuple[int, ...]


class UnknownReadsError(Exception):
    """It is not known which positions an operator reads; the text says why."""


class Part(NamedTuple):
    """How some axes of an input follow from some axes of the output."""

    outs: tuple[int, ...]
    ins: tuple[int, ...]
    link: Link


class Op(NamedTuple):
    """One node as it ran."""

    kind: str
    reads: Sequence[str]
    """Inputs by position; empty for one that is left out."""
    writes: Sequence[str]
    numbers: Mapping[str, tuple[int, ...]]
    """Attributes that are integers."""
    texts: Mapping[str, str]
    """Attributes that are texts."""
    shapes: Mapping[str, Shape]
    """Of all tensors, by name."""
    values: Mapping[str, Array]
    """Of the inputs in `controls`, by name."""
    opset: int

    def number(self, name: str, default: int) -> int:
        """An attribute that is one integer."""
        values = self.numbers.get(name)
        return values[0] if values else default

    def shape(self, at: int) -> Shape:
        """The shape of an input."""
        return self.shapes[self.reads[at]]

    def out(self, at: int = 0) -> Shape:
        """The shape of an output."""
        return self.shapes[self.writes[at]]

    def control(self, at: int) -> Array | None:
        """The value of an input in `controls`; `None` if it is left out."""
        return self.values[self.reads[at]] if self.has(at) else None

    def has(self, at: int) -> bool:
        """Whether an input is given."""
        return len(self.reads) > at and bool(self.reads[at])

    def integers(self, attribute: str, at: int) -> tuple[int, ...] | None:
        """Integers that were an attribute and became an input."""
        if attribute in self.numbers:
            return self.numbers[attribute]
        value = self.control(at)
        return None if value is None else tuple(int(x) for x in np.ravel(value))


Reads = Iterable[tuple[int, list[Part]]]
"""For inputs by position, the parts that all their axes are in. Inputs that are not among them,
but whose values depend on the model's input, are read as a whole."""


def controls(kind: str) -> Sequence[int]:
    """The inputs of an operator that decide which positions it reads."""
    return _CONTROLS.get(kind, (1,) if kind.startswith("Reduce") else ())


def keeps_shape(kind: str) -> bool:
    """Whether the result of an operator has the shape of its first input."""
    return _RULES.get(kind) is _same or kind in _NORMALISING


def reads_of(op: Op, output: int) -> Reads:
    """What an operator reads for one of its outputs.

    Raises:
        UnknownReadsError: it is not known.
    """
    rule = _RULES.get(op.kind)
    if rule is None:
        raise UnknownReadsError("which is not one that layertap knows the reads of")
    return rule(op, output)


def everything(shape: Shape) -> list[Part]:
    """All positions of an input."""
    return [Part((), tuple(range(len(shape))), Whole(*shape))]


def _same_axes(rank: int, but: Mapping[int, Link] | None = None) -> list[Part]:
    """Each axis is linked to itself, some in a way of their own."""
    return [Part((at,), (at,), (but or {}).get(at, SAME)) for at in range(rank)]


def _whole(shape: Shape, axes: Iterable[int]) -> list[Part]:
    """Each axis is linked to itself, but some are read as a whole."""
    chosen = [at % len(shape) for at in axes]
    return _same_axes(len(shape), {at: Whole(shape[at]) for at in chosen})


# --- Single elements ------------------------------------------------------------------------------


def _same(op: Op, output: int) -> Reads:
    yield 0, _same_axes(len(op.shape(0)))


def _broadcast(op: Op, output: int) -> Reads:
    out = op.out()
    for at, name in enumerate(op.reads):
        if name:
            yield at, _aligned(op.shapes[name], out)


def _aligned(shape: Shape, out: Shape) -> list[Part]:
    """Axes aligned at the last one; those of size 1 are repeated."""
    parts = []
    for axis, size in enumerate(shape):
        other = axis + len(out) - len(shape)
        repeated = size == 1 and out[other] != 1
        parts.append(Part((other,), (axis,), REPEATED if repeated else SAME))
    return parts


def _expand(op: Op, output: int) -> Reads:
    yield 0, _aligned(op.shape(0), op.out())


# --- Windows --------------------------------------------------------------------------------------


class _Window(NamedTuple):
    """The window of a convolution or pooling along one axis of the space."""

    axis: int
    size: int
    """Of the input."""
    out: int
    """Of the output."""
    length: int
    stride: int
    dilation: int
    pad: int
    """Positions that are added before the first one."""
    added: int
    """Positions that a transposed convolution adds behind the last one."""


def _windows_of(op: Op) -> list[_Window]:
    shape, out = op.shape(0), op.out()
    lengths = op.numbers.get("kernel_shape") or op.shape(1)[2:]
    count = len(lengths)

    def per_axis(name: str, default: int) -> tuple[int, ...]:
        return op.numbers.get(name, (default,) * count)[:count]

    each = zip(
        shape[2:],
        out[2:],
        lengths,
        per_axis("strides", 1),
        per_axis("dilations", 1),
        per_axis("pads", 0),
        per_axis("output_padding", 0),
        strict=True,
    )
    return [_Window(axis, *values) for axis, values in enumerate(each, 2)]


def _windows(op: Op, output: int) -> Reads:
    """Convolutions and poolings: samples, channels, space."""
    shape, same = op.shape(0), op.texts.get("auto_pad", "")
    links: dict[int, Link] = {}
    if "Conv" in op.kind:
        links[1] = Whole(shape[1])
    for one in _windows_of(op):
        start = one.pad
        if same.startswith("SAME"):
            extent = (one.out - 1) * one.stride + (one.length - 1) * one.dilation + 1
            start = (max(extent - one.size, 0) + (same == "SAME_LOWER")) // 2
        links[one.axis] = Windows(one.size, one.length, one.stride, one.dilation, -start)
    yield 0, _same_axes(len(shape), links)


def _transposed(op: Op, output: int) -> Reads:
    shape, same = op.shape(0), op.texts.get("auto_pad", "")
    links: dict[int, Link] = {1: Whole(shape[1])}
    for one in _windows_of(op):
        start = one.pad
        if same.startswith("SAME") or "output_shape" in op.numbers:
            full = one.stride * (one.size - 1) + one.added + (one.length - 1) * one.dilation + 1
            total = full - one.out
            start = total // 2 if same == "SAME_UPPER" else total - total // 2
        links[one.axis] = Spread(one.size, one.length, one.stride, one.dilation, -start)
    yield 0, _same_axes(len(shape), links)


def _blocks(op: Op, output: int) -> Reads:
    shape, block = op.shape(0), op.number("blocksize", 1)
    kind = Spread if op.kind == "DepthToSpace" else Windows
    space = {at: kind(shape[at], block, block) for at in (2, 3)}
    yield 0, _same_axes(4, {1: Whole(shape[1]), **space})


# --- Resizing, padding, slicing -------------------------------------------------------------------


def _resize(op: Op, output: int) -> Reads:
    shape, out = op.shape(0), op.out()
    if op.texts.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise UnknownReadsError("whose region is computed")
    axes = [at % len(shape) for at in op.numbers.get("axes", range(len(shape)))]
    at_scales = 1 if op.kind == "Upsample" or op.opset < 11 else 2
    scales = op.control(at_scales)
    known = {}
    if scales is not None and scales.size == len(axes) and not op.has(3):
        known = dict(zip(axes, map(float, scales), strict=True))
    links = {
        at: _resized(op, shape[at], out[at], known.get(at, out[at] / shape[at]))
        for at in axes
        if shape[at] != out[at] or known.get(at, 1.0) != 1.0
    }
    yield 0, _same_axes(len(shape), links)


def _resized(op: Op, size: int, out: int, scale: float) -> Link:
    mode = op.texts.get("mode", "nearest")
    oldest = op.kind == "Upsample" or op.opset < 11
    how = op.texts.get("coordinate_transformation_mode", "asymmetric" if oldest else "half_pixel")
    rounding = op.texts.get("nearest_mode", "floor" if oldest else "round_prefer_floor")
    wide = op.number("antialias", 0) and scale < 1 and mode != "nearest"

    def beyond(at: Positions) -> Positions:
        x = np.round(_source(how, at, size, out, scale), 6)
        if mode == "nearest":
            return _ROUNDINGS[rounding](x).astype(np.int64)[..., None]
        if wide:
            support = (2 if mode == "cubic" else 1) / scale
            first, end = np.floor(x + 1 - support), np.floor(x + 1 + support)
            taps = first[..., None] + np.arange(int(np.ceil(2 * support)) + 1)
            return np.where(taps < end[..., None], taps, first[..., None]).astype(np.int64)
        least, most = np.floor(x), np.ceil(x)
        found = [least, most]
        if mode == "cubic":
            between = most - least  # no other position counts where this one is hit
            found += [least - between, most + between]
        return np.stack(found, axis=-1).astype(np.int64)

    def read(at: Positions) -> Positions:
        found = beyond(at)
        return found if wide else np.clip(found, 0, size - 1)

    return Mapped(size, read, beyond)


def _source(how: str, at: Positions, size: int, out: int, scale: float) -> NDArray[np.float64]:
    """Where positions of the output lie in the input."""
    if how == "asymmetric":
        return np.asarray(at / scale)
    if how == "align_corners":
        return np.asarray(at * ((size - 1) / (out - 1) if out > 1 else 0.0))
    if how == "pytorch_half_pixel" and out == 1:
        return np.zeros(np.shape(at))
    offset = 0.0
    if how == "half_pixel_symmetric":
        offset = size / 2 * (1 - out / (scale * size))
    return np.asarray(offset + (at + 0.5) / scale - 0.5)


_ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _pad(op: Op, output: int) -> Reads:
    shape = op.shape(0)
    pads = op.integers("pads", 1) or ()
    given = op.control(3)
    axes = [int(at) % len(shape) for at in (range(len(shape)) if given is None else given)]
    begins = dict(zip(axes, pads[: len(axes)], strict=True))
    mode = op.texts.get("mode", "constant")
    yield (
        0,
        _same_axes(len(shape), {at: _padded(mode, shape[at], n) for at, n in begins.items()}),
    )


def _padded(mode: str, size: int, begin: int) -> Link:
    if mode == "constant":
        return Windows(size, 1, start=-begin)

    def read(at: Positions) -> Positions:
        x = at - begin
        if mode == "edge":
            x = np.clip(x, 0, size - 1)
        elif mode == "wrap":
            x = x % size
        else:
            period = max(2 * (size - 1), 1)
            x = np.abs(x) % period
            x = np.where(x >= size, period - x, x)
        return np.asarray(x)[:, None]

    return Mapped(size, read, lambda at: (at - begin)[..., None])


def _slice(op: Op, output: int) -> Reads:
    shape = op.shape(0)
    starts, ends = op.integers("starts", 1) or (), op.integers("ends", 2) or ()
    axes = op.integers("axes", 3) or tuple(range(len(starts)))
    steps = op.integers("steps", 4) or (1,) * len(starts)
    links: dict[int, Link] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis % len(shape)]
        first, _, _ = slice(start, end, step).indices(size)
        links[axis % len(shape)] = Windows(size, 1, step, 1, first)
    yield 0, _same_axes(len(shape), links)


def _split(op: Op, output: int) -> Reads:
    shape = op.shape(0)
    axis = op.number("axis", 0) % len(shape)
    start = sum(op.out(at)[axis] for at in range(output))
    yield 0, _same_axes(len(shape), {axis: Windows(shape[axis], 1, start=start)})


def _concat(op: Op, output: int) -> Reads:
    rank = len(op.out())
    axis, start = op.number("axis", 0) % rank, 0
    for at, name in enumerate(op.reads):
        size = op.shapes[name][axis]
        yield at, _same_axes(rank, {axis: _shifted(size, start)})
        start += size


def _shifted(size: int, start: int) -> Link:
    """Part of an axis. Beyond its ends are other tensors, so that there is no size."""
    return Mapped(size, lambda at: (at - start)[:, None])


def _tile(op: Op, output: int) -> Reads:
    shape, out = op.shape(0), op.out()
    repeated = {at: size for at, size in enumerate(shape) if size != out[at]}
    links = {at: _repeated(size) for at, size in repeated.items()}
    yield 0, _same_axes(len(shape), links)


def _repeated(size: int) -> Link:
    if size == 1:
        return REPEATED
    return Mapped(size, lambda at: (at % size)[:, None])


def _gather(op: Op, output: int) -> Reads:
    shape, picked = op.shape(0), op.shape(1)
    axis = op.number("axis", 0) % len(shape)
    indices = op.values.get(op.reads[1])
    middle = tuple(range(axis, axis + len(picked)))
    parts = [Part((at,), (at,), SAME) for at in range(axis)]
    parts += [Part((at - 1 + len(picked),), (at,), SAME) for at in range(axis + 1, len(shape))]
    if indices is None:
        yield 0, [*parts, Part(middle, (axis,), Whole(shape[axis]))]
        yield 1, [Part((at + axis,), (at,), SAME) for at in range(len(picked))]
        return
    if len(picked) > 1:
        raise UnknownReadsError("whose indices have several axes")
    link: Link
    if not picked:
        link = Picked(shape[axis], int(indices))
    else:
        link = _looked_up(shape[axis], np.asarray(indices, np.int64) % shape[axis])
    yield 0, [*parts, Part(middle, (axis,), link)]


def _looked_up(size: int, indices: Positions) -> Link:
    steps = np.unique(np.diff(indices))
    if len(steps) == 1:
        return Windows(size, 1, int(steps[0]), 1, int(indices[0]))
    return Mapped(size, lambda at: indices[at][:, None])


# --- Moving axes ----------------------------------------------------------------------------------


def _transpose(op: Op, output: int) -> Reads:
    rank = len(op.shape(0))
    perm = op.numbers.get("perm") or tuple(reversed(range(rank)))
    yield 0, [Part((at,), (axis,), SAME) for at, axis in enumerate(perm)]


def _reshape(op: Op, output: int) -> Reads:
    """Axes of the same size at the same place stay; the others are joined and split."""
    shape, out = op.shape(0), op.out()
    parts = []
    at = to = 0
    while at < len(shape) or to < len(out):
        if at < len(shape) and to < len(out) and shape[at] == out[to]:
            parts.append(Part((to,), (at,), SAME))
            at, to = at + 1, to + 1
        elif at < len(shape) and shape[at] == 1:
            parts.append(Part((), (at,), Whole(1)))
            at += 1
        elif to < len(out) and out[to] == 1:
            to += 1
        else:
            end, stop = _group(shape, out, at, to)
            link = Regrouped(shape[at:end])
            parts.append(Part(tuple(range(to, stop)), tuple(range(at, end)), link))
            at, to = end, stop
    yield 0, parts


def _group(shape: Shape, out: Shape, at: int, to: int) -> tuple[int, int]:
    """The ends of the fewest axes from `at` and `to` on that have as many positions together."""
    end, stop = at + 1, to + 1
    while (own := math.prod(shape[at:end])) != (other := math.prod(out[to:stop])):
        if own < other:
            end += 1
        else:
            stop += 1
    return end, stop


# --- Sums over axes -------------------------------------------------------------------------------


def _reduce(op: Op, output: int) -> Reads:
    shape = op.shape(0)
    axes: Sequence[int] | None
    if op.kind.startswith("Arg"):
        axes = (op.number("axis", 0),)
    else:
        axes = op.integers("axes", 1)
        if not axes:
            axes = () if op.number("noop_with_empty_axes", 0) else range(len(shape))
    gone = {at % len(shape) for at in axes}
    kept = [at for at in range(len(shape)) if at not in gone or op.number("keepdims", 1)]
    whole = [Part((), (at,), Whole(shape[at])) for at in sorted(gone)]
    yield 0, whole + [Part((to,), (at,), SAME) for to, at in enumerate(kept) if at not in gone]


def _over_axis(default: int) -> Callable[[Op, int], Reads]:
    """Every position along one axis reads all of them."""

    def rule(op: Op, output: int) -> Reads:
        yield 0, _whole(op.shape(0), [op.number("axis", default)])

    return rule


def _softmax(op: Op, output: int) -> Reads:
    if op.opset >= 13:
        return _over_axis(-1)(op, output)
    return _from_axis(1)(op, output)


def _from_axis(default: int) -> Callable[[Op, int], Reads]:
    """Every position along an axis, and the axes after it, reads all of them."""

    def rule(op: Op, output: int) -> Reads:
        shape = op.shape(0)
        first = op.number("axis", default) % len(shape)
        if output:  # mean and deviation
            raise UnknownReadsError("of which an output is read that is no result")
        yield 0, _whole(shape, range(first, len(shape)))

    return rule


def _mean_variance(op: Op, output: int) -> Reads:
    yield 0, _whole(op.shape(0), op.numbers.get("axes", (0, 2, 3)))


def _over_space(op: Op, output: int) -> Reads:
    """A pooling or normalisation of each channel over the space."""
    shape = op.shape(0)
    yield 0, _whole(shape, range(2, len(shape)))


def _over_channels(op: Op, output: int) -> Reads:
    yield 0, _whole(op.shape(0), [1])


def _running(op: Op, output: int) -> Reads:
    rank = len(op.shape(0))
    axis = int(np.ravel(op.values[op.reads[1]])[0]) % rank
    yield 0, _same_axes(rank, {axis: Upto(reverse=bool(op.number("reverse", 0)))})


# --- Products -------------------------------------------------------------------------------------


def _matmul(op: Op, output: int) -> Reads:
    first, second, out = op.shape(0), op.shape(1), op.out()
    before = len(out) - (len(first) > 1) - (len(second) > 1)
    """Axes of the result before those of the matrices."""
    for at, shape in enumerate((first, second)):
        summed = len(shape) - (1 if at == 0 or len(shape) == 1 else 2)
        parts = [Part((), (summed,), Whole(shape[summed]))]
        if len(shape) > 1:
            to, kept = (before, -2) if at == 0 else (len(out) - 1, -1)
            parts.append(Part((to,), (len(shape) + kept,), SAME))
            parts += _aligned(shape[:-2], out[:before])
        yield at, parts


def _gemm(op: Op, output: int) -> Reads:
    for at, attribute in enumerate(("transA", "transB")):
        kept = at ^ op.number(attribute, 0)
        summed = op.shape(at)[1 - kept]
        yield at, [Part((at,), (kept,), SAME), Part((), (1 - kept,), Whole(summed))]
    if op.has(2):
        yield 2, _aligned(op.shape(2), op.out())


def _einsum(op: Op, output: int) -> Reads:
    terms, _, result = op.texts.get("equation", "").replace(" ", "").partition("->")
    if not result or "." in terms:
        raise UnknownReadsError("whose equation leaves axes open")
    for at, term in enumerate(terms.split(",")):
        shape = op.shape(at)
        yield (
            at,
            [
                Part((result.index(letter),), (axis,), SAME)
                if letter in result
                else Part((), (axis,), Whole(shape[axis]))
                for axis, letter in enumerate(term)
            ],
        )


def _recurrent(op: Op, output: int) -> Reads:
    """X is (time, samples, features), Y has the directions behind the time."""
    shape = op.shape(0)
    if op.number("layout", 0):
        raise UnknownReadsError("with the samples before the time")
    direction = op.texts.get("direction", "forward")
    time = Part((), (0,), Whole(shape[0]))  # for the last state
    if output == 0 and direction == "bidirectional":
        time = Part((0, 1), (0,), BothWays())
    elif output == 0:
        time = Part((0,), (0,), Upto(reverse=direction == "reverse"))
    samples = 2 if output == 0 else 1
    yield 0, [time, Part((samples,), (1,), SAME), Part((), (2,), Whole(shape[2]))]


SIZES_ONLY = frozenset({"Shape", "Size", "ConstantOfShape", "EyeLike"}) | {
    f"Random{kind}Like" for kind in ("Normal", "Uniform")
}
"""Operators that read the sizes of a tensor, and not its values."""

_CONTROLS: dict[str, Sequence[int]] = {
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Pad": (1, 3),
    "Slice": (1, 2, 3, 4),
    "CumSum": (1,),
    "Expand": (1,),
    "Reshape": (1,),
    "Tile": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}

_NORMALISING = (
    "CumSum GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax "
    "LpNormalization MeanVarianceNormalization Softmax"
).split()
"""Operators that read several elements for each, and keep the shape."""

_RULES: dict[str, Callable[[Op, int], Reads]] = {
    **dict.fromkeys((*ELEMENTWISE, "BatchNormalization"), _same),
    **dict.fromkeys(BROADCAST, _broadcast),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool", "LpPool"), _windows),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _over_space),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten"), _reshape),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("TopK", "LpNormalization"), _over_axis(-1)),
    "ConvTranspose": _transposed,
    "Expand": _expand,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Tile": _tile,
    "Gather": _gather,
    "Transpose": _transpose,
    "LayerNormalization": _from_axis(-1),
    "InstanceNormalization": _over_space,
    "GroupNormalization": _from_axis(1),
    "MeanVarianceNormalization": _mean_variance,
    "LRN": _over_channels,
    "CumSum": _running,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
}
