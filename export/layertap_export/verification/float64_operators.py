"""Computing a graph in float64, with the `onnx` package's reference evaluator.

Some of its operators always compute in float32, or have another formula than the standard and
onnxruntime. The classes here replace them, and Conv, which is slow there. The rows of
`graph/operators.py` with `own_float64` name them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from layertap_export.graph.shapes.windows import Window

from .float64_recurrent import GRU, LSTM, RNN

Array = NDArray[Any]


class TimeUp(Exception):  # noqa: N818 - no error: what was computed so far counts
    """The time for an evaluation is over."""


def evaluator(model: onnx.ModelProto, until: float = math.inf) -> ReferenceEvaluator:
    """An evaluator that computes in the precision of its inputs.

    Args:
        model: the model.
        until: the value of `time.monotonic()` from which it starts no further node, and raises
            `TimeUp`.
    """
    made = ReferenceEvaluator(model, new_ops=list(REPLACEMENTS))
    for node in made.rt_nodes_:
        node.run = _timed(node.run, until)
    return made


def _timed(run: Callable[..., Any], until: float) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        if time.monotonic() > until:
            raise TimeUp
        return run(*args, **kwargs)

    return timed


NARROW_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
"""Element types that are replaced with float64."""


def tensor_in_double(item: onnx.TensorProto) -> onnx.TensorProto:
    """A weight in float64, if it has a narrower floating-point type."""
    if item.data_type not in NARROW_FLOATS:
        return item
    return numpy_helper.from_array(numpy_helper.to_array(item).astype(np.float64), item.name)


def double(value: Array) -> Array:
    """A value in float64, if it has a floating-point type."""
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def in_double(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy of a node that makes float64 instead of a narrower dtype."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in NARROW_FLOATS:
            attribute.i = TensorProto.DOUBLE
        elif attribute.name == "value" and attribute.t.data_type in NARROW_FLOATS:
            attribute.t.CopyFrom(tensor_in_double(attribute.t))
    return copy


def _window(kernel: Sequence[int], **attributes: Any) -> Window:
    """A window from the evaluator's arguments, many of which are `None`."""
    given = {name: value for name, value in attributes.items() if value is not None}
    if isinstance(given.get("auto_pad"), str):
        given["auto_pad"] = given["auto_pad"].encode()
    return Window.of(given, kernel)


def _cells(window: Window, counts: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """For each cell of the kernel, the slices of a padded tensor at that cell of all windows."""
    for cell in product(*map(range, window.kernel)):
        cells = (
            slice(at * dilation, at * dilation + (count - 1) * stride + 1, stride)
            for at, dilation, count, stride in zip(
                cell, window.dilations, counts, window.strides, strict=True
            )
        )
        yield (slice(None), slice(None), *cells)


class Conv(OpRun):
    """The sum, over the cells of the kernel, of a matrix product."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: Any = None,
        dilations: Any = None,
        group: Any = None,
        kernel_shape: Any = None,
        pads: Any = None,
        strides: Any = None,
    ) -> tuple[Array]:
        window = _window(
            w.shape[2:], auto_pad=auto_pad, dilations=dilations, pads=pads, strides=strides
        ).fixed(x.shape[2:])
        assert window is not None  # sizes are numbers here
        around = [(0, 0), (0, 0), *zip(window.begins, window.ends, strict=True)]
        padded = np.pad(x, around)
        counts = [int(size) for size in window.outputs(x.shape[2:]) if isinstance(size, int)]
        groups = group or 1
        y = np.zeros((len(x), len(w), *counts), x.dtype)
        parts = zip(
            np.split(padded, groups, 1), np.split(w, groups, 0), np.split(y, groups, 1), strict=True
        )
        for image, kernel, result in parts:
            weights = kernel.reshape(*kernel.shape[:2], -1)
            for index, cells in enumerate(_cells(window, counts)):
                taken = np.tensordot(weights[:, :, index], image[cells], (1, 1))
                result += np.moveaxis(taken, 0, 1)
        return (y if b is None else y + b.reshape(-1, *[1] * (x.ndim - 2)),)


class ConvTranspose(OpRun):
    """The transpose of Conv: each cell is spread over a window."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: Any = None,
        dilations: Any = None,
        group: Any = None,
        kernel_shape: Any = None,
        output_padding: Any = None,
        output_shape: Any = None,
        pads: Any = None,
        strides: Any = None,
    ) -> tuple[Array]:
        window = _window(
            w.shape[2:],
            auto_pad=auto_pad,
            dilations=dilations,
            pads=pads,
            strides=strides,
            output_shape=output_shape,
        )
        sizes = [int(size) for size in window.spread(x.shape[2:], output_padding)]  # type: ignore[arg-type]
        padded = window.fixed_spread(x.shape[2:], output_padding)
        assert padded is not None  # sizes are numbers here
        counts, groups = x.shape[2:], group or 1
        full = [
            max((count - 1) * stride + extent, begin + size)
            for count, stride, extent, begin, size in zip(
                counts, window.strides, window.extents, padded.begins, sizes, strict=True
            )
        ]
        y = np.zeros((len(x), w.shape[1] * groups, *full), x.dtype)
        parts = zip(
            np.split(x, groups, 1), np.split(w, groups, 0), np.split(y, groups, 1), strict=True
        )
        for image, kernel, result in parts:
            weights = kernel.reshape(*kernel.shape[:2], -1)
            for index, cells in enumerate(_cells(window, counts)):
                given = np.tensordot(weights[:, :, index], image, (0, 1))
                result[cells] += np.moveaxis(given, 0, 1)
        for axis, (begin, size) in enumerate(zip(padded.begins, sizes, strict=True), start=2):
            y = np.take(y, range(begin, begin + size), axis)
        return (y if b is None else y + b.reshape(-1, *[1] * (x.ndim - 2)),)


class Erf(OpRun):
    """The error function."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x)).astype(x.dtype),)


class Gelu(OpRun):
    """x times the normal distribution, or its approximation by tanh."""

    op_domain = ""

    def _run(self, x: Array, approximate: Any = None) -> tuple[Array]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        erf = np.vectorize(math.erf, otypes=[np.float64])
        return ((0.5 * x * (1 + erf(x / math.sqrt(2)))).astype(x.dtype),)


class Pad(OpRun):
    """Padding, and cropping by negative pads."""

    op_domain = ""

    def _run(
        self, x: Array, pads: Array, value: Any = None, axes: Any = None, mode: Any = None
    ) -> tuple[Array]:
        chosen = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
        around = [(0, 0)] * x.ndim
        kept = [slice(None)] * x.ndim
        for index, axis in enumerate(chosen):
            before, after = int(pads[index]), int(pads[index + len(chosen)])
            around[axis] = max(before, 0), max(after, 0)
            kept[axis] = slice(max(-before, 0), min(after, 0) or None)
        if mode in (None, "constant"):
            fill = 0 if value is None else np.ravel(value)[0]
            return (np.pad(x, around, constant_values=fill)[tuple(kept)],)
        return (np.pad(x, around, mode=mode)[tuple(kept)],)


def _normalised(x: Array, axes: Sequence[int], epsilon: float) -> Array:
    centred = x - x.mean(tuple(axes), keepdims=True)
    variance = np.square(centred).mean(tuple(axes), keepdims=True)
    return np.asarray(centred / np.sqrt(variance + epsilon))


class GroupNormalization(OpRun):
    """Scale and bias have one number per channel, or per group before opset 21."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        epsilon: Any = None,
        num_groups: Any = None,
        stash_type: Any = None,
    ) -> tuple[Array]:
        apart = x.reshape(len(x), num_groups, -1)
        n = _normalised(apart, [2], 1e-5 if epsilon is None else epsilon).reshape(x.shape)
        repeats = x.shape[1] // len(scale)
        shape = (-1, *[1] * (x.ndim - 2))
        return (
            n * np.repeat(scale, repeats).reshape(shape) + np.repeat(bias, repeats).reshape(shape),
        )


class MeanVarianceNormalization(OpRun):
    """x minus its mean, divided by its standard deviation plus 1e-9."""

    op_domain = ""

    def _run(self, x: Array, axes: Any = None) -> tuple[Array]:
        over = tuple(axes or (0, 2, 3))
        centred = x - x.mean(over, keepdims=True)
        return (centred / (np.sqrt(np.square(centred).mean(over, keepdims=True)) + 1e-9),)


class LpNormalization(OpRun):
    """x divided by the sum of its absolute values, or by its length."""

    op_domain = ""

    def _run(self, x: Array, axis: Any = None, p: Any = None) -> tuple[Array]:
        power = p or 2
        total = (np.abs(x) ** power).sum(-1 if axis is None else axis, keepdims=True)
        return (x / total ** (1 / power),)


class LRN(OpRun):
    """Channels divided by a function of the channels around them."""

    op_domain = ""

    def _run(
        self, x: Array, alpha: Any = None, beta: Any = None, bias: Any = None, size: Any = None
    ) -> tuple[Array]:
        lower, upper = (size - 1) // 2, size - 1 - (size - 1) // 2
        square = np.square(x)
        near = np.stack(
            [square[:, max(c - lower, 0) : c + upper + 1].sum(1) for c in range(x.shape[1])],
            axis=1,
        )
        below = (1.0 if bias is None else bias) + (1e-4 if alpha is None else alpha) / size * near
        return (x * below ** -(0.75 if beta is None else beta),)


class GlobalLpPool(OpRun):
    """(sum of |x|^p)^(1/p) over all spatial axes."""

    op_domain = ""

    def _run(self, x: Array, p: Any = None) -> tuple[Array]:
        axes = tuple(range(2, x.ndim))
        return ((np.abs(x) ** (p or 2)).sum(axes, keepdims=True) ** (1 / (p or 2)),)


REPLACEMENTS = (
    Conv,
    ConvTranspose,
    Erf,
    Gelu,
    Pad,
    GroupNormalization,
    MeanVarianceNormalization,
    LpNormalization,
    LRN,
    GlobalLpPool,
    LSTM,
    GRU,
    RNN,
)
"""The operators that replace those of the reference evaluator."""
