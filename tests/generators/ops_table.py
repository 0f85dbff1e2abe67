"""Every function of `keras.ops` that takes tensors, for the tests of the exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Spec = tuple[tuple[int | None, ...], str]
"""Shape, without the batch axis, and dtype of an input."""


@dataclass(frozen=True)
class Op:
    """One way of calling one function."""

    call: Callable[..., Any]
    """From `keras.ops` and the symbolic inputs to a tensor or several."""
    inputs: tuple[Spec, ...]
    free: tuple[int, ...] = ()
    """Axes of the inputs (batch axis not counted) that are left free in the second export."""
    batch: int | None = None
    """A fixed batch size, where Keras itself wants one."""
    inside: bool = False
    """Whether it is called inside a layer, where Keras takes it on symbolic tensors only there."""


ROWS: Spec = ((5, 6), "float32")
VECTOR: Spec = ((6,), "float32")
SQUARE: Spec = ((4, 4), "float32")
IMAGE: Spec = ((12, 10, 3), "float32")
WAVE: Spec = ((64,), "float32")
INTEGERS: Spec = ((5, 6), "int32")
LONGS: Spec = ((5, 6), "int64")
BOOLS: Spec = ((5, 6), "bool")


def rows(call: Callable[..., Any]) -> Op:
    return Op(call, (ROWS,), (0,))


def inside(call: Callable[..., Any]) -> Op:
    return Op(call, (ROWS,), (0,), inside=True)


def two(call: Callable[..., Any]) -> Op:
    return Op(call, (ROWS, ROWS), (0,))


def integers(call: Callable[..., Any]) -> Op:
    return Op(call, (INTEGERS,), (0,))


def two_integers(call: Callable[..., Any]) -> Op:
    return Op(call, (INTEGERS, INTEGERS), (0,))


def bools(call: Callable[..., Any]) -> Op:
    return Op(call, (BOOLS,), (0,))


def two_bools(call: Callable[..., Any]) -> Op:
    return Op(call, (BOOLS, BOOLS), (0,))


def square(call: Callable[..., Any]) -> Op:
    return Op(call, (SQUARE,))


def image(call: Callable[..., Any]) -> Op:
    return Op(call, (IMAGE,), (0, 1))


def wave(call: Callable[..., Any]) -> Op:
    return Op(call, (WAVE,), (0,))


AFFINE = (0.9, 0.1, 0.5, -0.1, 1.1, -0.5, 0.001, 0.0)
"""A projective transform, as `keras.ops.image.affine_transform` takes it."""


FAR = (1.9, 0.3, -9.3, -0.4, 1.7, -7.1, 0.0, 0.0)
"""One that looks far beyond the image."""


def nans(o: Any, x: Any) -> Any:
    """`x` with NaN where it is over a half."""
    return o.where(x > 0.5, float("nan"), x)


UNARY = (
    "abs absolute all any arcsin arccos arcsinh arctan arctanh cbrt ceil conj conjugate copy cos "
    "cosh deg2rad elu celu erf erfc erfinv exp exp2 expm1 fabs floor gelu glu hard_shrink "
    "hard_sigmoid hard_silu hard_swish hard_tanh i0 imag real isfinite isinf isnan isneginf "
    "isposinf isreal leaky_relu log_sigmoid log_softmax negative nan_to_num ones_like zeros_like "
    "rad2deg reciprocal relu relu6 round selu sigmoid sign signbit silu sin sinc sinh "
    "soft_shrink softmax softplus softsign sparse_plus sparse_sigmoid sparsemax square "
    "squareplus squeeze stop_gradient swish tan tanh tanh_shrink trunc logsumexp angle sort "
    "argsort argmax argmin amax amin max min mean median std var sum prod ptp count_nonzero "
    "cumsum cumprod diff flip fliplr ravel transpose normalize empty_like nanargmax nanargmin "
    "nancumprod nancumsum nanmax nanmean nanmedian nanmin nanprod nanstd nansum nanvar "
    "layer_normalization rms_normalization"
).split()
"""Functions of one tensor of floats, called without anything else."""

BINARY = (
    "add arctan2 divide divide_no_nan equal floor_divide fmax fmin fmod greater greater_equal "
    "hypot isclose ldexp less less_equal logaddexp logaddexp2 logical_and logical_or logical_xor "
    "maximum minimum mod multiply nextafter not_equal subtract true_divide heaviside allclose "
    "append cross dot"
).split()
"""Functions of two tensors of floats of one shape, called without anything else."""

OPS: Mapping[str, Op] = {
    **{name: rows(lambda o, x, name=name: getattr(o, name)(x)) for name in UNARY},
    **{
        name: two(lambda o, x, y, name=name: getattr(o, name)(x, y))
        for name in BINARY
        if name not in ("cross", "dot", "ldexp")
    },
    # --- elementwise, where the range matters
    "arccosh": rows(lambda o, x: o.arccosh(x + 2.5)),
    "log": rows(lambda o, x: o.log(x + 1.5)),
    "log10": rows(lambda o, x: o.log10(x + 1.5)),
    "log2": rows(lambda o, x: o.log2(x + 1.5)),
    "log1p": rows(lambda o, x: o.log1p(x * 1e-4)),
    "log1p wide": rows(lambda o, x: o.log1p(x * 0.999)),
    "expm1 small": rows(lambda o, x: o.expm1(x * 1e-4)),
    "expm1 wide": rows(lambda o, x: o.expm1(x * 80)),
    "erfinv edges": rows(lambda o, x: o.erfinv(o.round(x))),
    "erfc wide": rows(lambda o, x: o.erfc(x * 5)),
    "gelu exact": rows(lambda o, x: o.gelu(x * 5, approximate=False)),
    "celu alpha": rows(lambda o, x: o.celu(x, 0.4)),
    "logaddexp far": two(lambda o, x, y: o.logaddexp(x * 100, y * 100)),
    "power": two(lambda o, x, y: o.power(x + 1.5, y)),
    "power scalar": rows(lambda o, x: o.power(x, 2)),
    "rsqrt": rows(lambda o, x: o.rsqrt(x + 1.5)),
    "sqrt": rows(lambda o, x: o.sqrt(x + 1.5)),
    "clip": rows(lambda o, x: o.clip(x, -0.25, 0.5)),
    "threshold": rows(lambda o, x: o.threshold(x, 0.2, -1.0)),
    "round decimals": rows(lambda o, x: o.round(x, 2)),
    "round halves": rows(lambda o, x: o.round(o.floor(x * 6) / 2)),
    "cast": rows(lambda o, x: o.cast(x * 10, "int32")),
    "cast bool": rows(lambda o, x: o.cast(x, "bool")),
    "saturate_cast": rows(lambda o, x: o.saturate_cast(x * 1000, "uint8")),
    "full_like": rows(lambda o, x: o.full_like(x, 3)),
    "polar": two(lambda o, x, y: o.real(o.polar(o.abs(x), y))),
    "nan_to_num nan": rows(lambda o, x: o.nan_to_num(nans(o, x), nan=7.0)),
    "isnan nan": rows(lambda o, x: o.isnan(nans(o, x))),
    "ldexp": Op(lambda o, x, y: o.ldexp(x, y), (ROWS, INTEGERS), (0,)),
    "where": two(lambda o, x, y: o.where(x > y, x, y)),
    "where one": rows(lambda o, x: o.where(x > 0, x, 0.0)),
    "select": two(lambda o, x, y: o.select([x > 0.5, y > 0], [x, y], -1)),
    "squareplus b": rows(lambda o, x: o.squareplus(x, b=1)),
    "sign integers": integers(lambda o, x: o.sign(x - 3)),
    "heaviside zero": two(lambda o, x, y: o.heaviside(o.round(x), y)),
    "nextafter up": two(lambda o, x, y: o.nextafter(x, y + 2)),
    "floor_divide negative": two(lambda o, x, y: o.floor_divide(x * 10, y)),
    "mod negative": two(lambda o, x, y: o.mod(x * 10, y)),
    # --- integers and bools
    "abs integers": integers(lambda o, x: o.abs(x - 5)),
    "add integers": two_integers(lambda o, x, y: o.add(x, y)),
    "multiply integers": two_integers(lambda o, x, y: o.multiply(x, y)),
    "divide integers": two_integers(lambda o, x, y: o.divide(x, y + 1)),
    "floor_divide integers": two_integers(lambda o, x, y: o.floor_divide(x - 5, y + 1)),
    "mod integers": two_integers(lambda o, x, y: o.mod(x - 5, y + 1)),
    "fmod integers": two_integers(lambda o, x, y: o.fmod(x - 5, y + 1)),
    "power integers": two_integers(lambda o, x, y: o.power(x, o.mod(y, 3))),
    "maximum integers": two_integers(lambda o, x, y: o.maximum(x, y)),
    "minimum integers": two_integers(lambda o, x, y: o.minimum(x, y)),
    "clip integers": integers(lambda o, x: o.clip(x, 2, 5)),
    "equal integers": two_integers(lambda o, x, y: o.equal(x, y)),
    "less integers": two_integers(lambda o, x, y: o.less(x, y)),
    "sum integers": integers(lambda o, x: o.sum(x, axis=1)),
    "mean integers": integers(lambda o, x: o.mean(x, axis=1)),
    "max integers": integers(lambda o, x: o.max(x, axis=2)),
    "cumsum integers": integers(lambda o, x: o.cumsum(x, axis=1)),
    "prod integers": integers(lambda o, x: o.prod(x, axis=2)),
    "sort integers": integers(lambda o, x: o.sort(x)),
    "gcd": Op(lambda o, x, y: o.gcd(x, y), (INTEGERS, INTEGERS), batch=2),
    "lcm": Op(lambda o, x, y: o.lcm(x, y + 1), (INTEGERS, INTEGERS), batch=2),
    "bitwise_and": two_integers(lambda o, x, y: o.bitwise_and(x, y)),
    "bitwise_or": two_integers(lambda o, x, y: o.bitwise_or(x, y)),
    "bitwise_xor": two_integers(lambda o, x, y: o.bitwise_xor(x, y)),
    "bitwise_not": integers(lambda o, x: o.bitwise_not(x)),
    "bitwise_invert": integers(lambda o, x: o.bitwise_invert(x)),
    "bitwise_left_shift": two_integers(lambda o, x, y: o.bitwise_left_shift(x, y % 8)),
    "bitwise_right_shift": two_integers(lambda o, x, y: o.bitwise_right_shift(x * 100, y % 8)),
    "left_shift": two_integers(lambda o, x, y: o.left_shift(x, y % 8)),
    "right_shift": two_integers(lambda o, x, y: o.right_shift(x * 100, y % 8)),
    "right_shift negative": two_integers(lambda o, x, y: o.right_shift(x * -100, y % 8)),
    "logical_not": bools(lambda o, x: o.logical_not(x)),
    "logical_and bools": two_bools(lambda o, x, y: o.logical_and(x, y)),
    "logical_xor bools": two_bools(lambda o, x, y: o.logical_xor(x, y)),
    "any bools": bools(lambda o, x: o.any(x, axis=1)),
    "all bools": bools(lambda o, x: o.all(x, axis=-1, keepdims=True)),
    "sum bools": bools(lambda o, x: o.sum(x, axis=1)),
    # --- reductions with axes
    **{
        f"{name} axis": rows(lambda o, x, name=name: getattr(o, name)(x, axis=1))
        for name in (
            "all any amax amin argmax argmin argsort sort count_nonzero cumsum cumprod diff flip "
            "logsumexp max mean median min norm prod ptp std sum var softmax log_softmax average "
            "nanargmax nanargmin nancumprod nancumsum nanmax nanmean nanmin nanprod nanstd "
            "nansum nanvar normalize sparsemax layer_normalization rms_normalization"
        ).split()
    },
    **{
        f"{name} kept": rows(lambda o, x, name=name: getattr(o, name)(x, axis=-1, keepdims=True))
        for name in (
            "all any amax amin argmax argmin logsumexp max mean median min norm prod ptp std sum "
            "var"
        ).split()
    },
    **{
        f"{name} with nan": rows(lambda o, x, name=name: getattr(o, name)(nans(o, x), axis=-1))
        for name in (
            "nanargmax nanargmin nancumprod nancumsum nanmax nanmean nanmin nanprod nanstd "
            "nansum nanvar"
        ).split()
    },
    "average": rows(lambda o, x: o.average(x)),
    "average weights": two(lambda o, x, y: o.average(x, axis=1, weights=y + 2)),
    "max initial": rows(lambda o, x: o.max(x, axis=1, initial=0.5)),
    "moments": rows(lambda o, x: o.moments(x, axes=[1])),
    "norm": rows(lambda o, x: o.norm(x, axis=-1)),
    "norm one": rows(lambda o, x: o.norm(x, ord=1, axis=-1)),
    "norm infinite": rows(lambda o, x: o.norm(x, ord=float("inf"), axis=-1)),
    "norm matrix": rows(lambda o, x: o.norm(x, ord="fro", axis=(1, 2))),
    "normalize order": rows(lambda o, x: o.normalize(x, order=3)),
    "quantile": rows(lambda o, x: o.quantile(x, 0.3, axis=-1)),
    "quantile many": rows(lambda o, x: o.quantile(x, [0.1, 0.5], axis=1, method="nearest")),
    "percentile": rows(lambda o, x: o.percentile(x, 30, axis=-1)),
    "nanquantile": rows(lambda o, x: o.nanquantile(nans(o, x), 0.3)),
    "nanpercentile": rows(lambda o, x: o.nanpercentile(nans(o, x), 30)),
    "trapezoid": rows(lambda o, x: o.trapezoid(x)),
    "trapezoid along": Op(
        lambda o, x, y: o.trapezoid(x, y, axis=1), (ROWS, ROWS), (0,), inside=True
    ),
    "bincount": integers(lambda o, x: o.bincount(x[:, 0], minlength=12)),
    "correlate": two(lambda o, x, y: o.correlate(x[0, 0], y[0, 0], mode="same")),
    # --- shapes and places
    "array_split": rows(lambda o, x: o.array_split(x, 4, axis=-1)),
    "broadcast_to": Op(lambda o, x: o.broadcast_to(o.mean(x, axis=0), (3, 5, 6)), (ROWS,)),
    "concatenate": two(lambda o, x, y: o.concatenate([x, y], axis=1)),
    "append axis": Op(lambda o, x, y: o.append(x, y, axis=1), (ROWS, ROWS)),
    "cross": Op(lambda o, x, y: o.cross(x, y), (((5, 3), "float32"), ((5, 3), "float32")), (0,)),
    "cdist": Op(lambda o, x, y: o.cdist(x, y), (ROWS, ((4, 6), "float32")), (0,)),
    "cond": inside(lambda o, x: o.cond(o.sum(x) > 0, lambda: x * 2, lambda: x - 1)),
    "depth_to_space": Op(lambda o, x: o.depth_to_space(x, 2), (((4, 5, 8), "float32"),), (0, 1)),
    "space_to_depth": Op(lambda o, x: o.space_to_depth(x, 2), (((4, 6, 3), "float32"),)),
    "diag": square(lambda o, x: o.diag(x[0], k=1)),
    "diagflat": square(lambda o, x: o.diagflat(x[0, 0])),
    "diagonal": rows(lambda o, x: o.diagonal(x, axis1=1, axis2=2)),
    "diff twice": rows(lambda o, x: o.diff(x, n=2, axis=1)),
    "dot": Op(lambda o, x, y: o.dot(x, o.transpose(y)), (VECTOR, VECTOR)),
    "dot matrix": rows(lambda o, x: o.dot(x, o.ones((6, 3)))),
    "dsplit": rows(lambda o, x: o.dsplit(x, 3)),
    "dstack": two(lambda o, x, y: o.dstack([x, y])),
    "einsum": two(lambda o, x, y: o.einsum("bij,bkj->bik", x, y)),
    "einsum three": two(lambda o, x, y: o.einsum("bij,bkj,bkl->bil", x, y, x)),
    "einsum trace": square(lambda o, x: o.einsum("bii->b", x)),
    "expand_dims": rows(lambda o, x: o.expand_dims(x, (1, -1))),
    "extract_sequences": wave(lambda o, x: o.extract_sequences(x, 16, 8)),
    "flipud": rows(lambda o, x: o.flipud(x)),
    "fold": Op(lambda o, x: o.fold(x, (6, 5), (2, 2), stride=1), (((12, 20), "float32"),)),
    "unfold": Op(lambda o, x: o.unfold(x, (2, 3), padding=1), (((3, 6, 5), "float32"),), batch=2),
    "get_item": rows(lambda o, x: o.get_item(x, (slice(None), slice(1, 4), -1))),
    "get_item reversed": rows(lambda o, x: x[:, ::-1, 1::2]),
    "get_item ellipsis": rows(lambda o, x: x[..., None, -2:]),
    "hsplit": Op(lambda o, x: o.hsplit(x, 5), (ROWS,)),
    "hstack": two(lambda o, x, y: o.hstack([x, y])),
    "in_top_k": Op(
        lambda o, t, x: o.in_top_k(t[:, 0], x, 3), (((1,), "int32"), ((12,), "float32"))
    ),
    "inner": two(lambda o, x, y: o.inner(x, y)),
    "linspace": two(lambda o, x, y: o.linspace(x, y, 7, axis=-1)),
    "logspace": two(lambda o, x, y: o.logspace(x, y, 5)),
    "geomspace": two(lambda o, x, y: o.geomspace(x + 2, y + 2, 5)),
    "matmul": two(lambda o, x, y: o.matmul(x, o.transpose(y, (0, 2, 1)))),
    "matmul integers": Op(lambda o, x, y: o.matmul(x, y), (((4, 4), "int32"), ((4, 4), "int32"))),
    "meshgrid": Op(lambda o, x, y: o.meshgrid(x[0], y[0]), (VECTOR, VECTOR)),
    "moveaxis": rows(lambda o, x: o.moveaxis(x, 2, 1)),
    "multi_hot": integers(lambda o, x: o.multi_hot(x, 10)),
    "one_hot": integers(lambda o, x: o.one_hot(x, 8)),
    "one_hot axis": integers(lambda o, x: o.one_hot(x, 10, axis=1)),
    "nonzero": rows(lambda o, x: o.nonzero(x > 0)),
    "outer": two(lambda o, x, y: o.outer(x[0, 0], y[0, 1])),
    "pad": rows(lambda o, x: o.pad(x, ((0, 0), (1, 2), (3, 0)), constant_values=2.0)),
    "pad reflect": rows(lambda o, x: o.pad(x, ((0, 0), (1, 2), (3, 0)), mode="reflect")),
    "pad symmetric": rows(lambda o, x: o.pad(x, ((0, 0), (1, 2), (3, 0)), mode="symmetric")),
    "rearrange": Op(lambda o, x: o.rearrange(x, "b r (c d) -> b (r d) c", d=2), (ROWS,), batch=2),
    "repeat": rows(lambda o, x: o.repeat(x, 3, axis=1)),
    "repeat each": rows(lambda o, x: o.repeat(x, [1, 0, 2, 1, 3, 1], axis=2)),
    "reshape": Op(lambda o, x: o.reshape(x, (-1, 3, 10)), (ROWS,)),
    "reshape back": rows(lambda o, x: o.reshape(x, (-1, 6, 1))),
    "roll": rows(lambda o, x: o.roll(x, 2, axis=1)),
    "roll flat": rows(lambda o, x: o.roll(x, 2)),
    "rot90": rows(lambda o, x: o.rot90(x, axes=(1, 2))),
    "scatter": Op(lambda o, i, v: o.scatter(i, v, (10,)), (((1,), "int32"), ((), "float32"))),
    "scatter_update": rows(
        lambda o, x: o.scatter_update(x, [[0, 1, 2], [0, 3, 4]], o.convert_to_tensor([5.0, 6.0]))
    ),
    "searchsorted": rows(
        lambda o, x: o.searchsorted(o.convert_to_tensor([-0.5, 0.0, 0.5]), o.ravel(x))
    ),
    "searchsorted right": rows(
        lambda o, x: o.searchsorted(
            o.convert_to_tensor([-1.0, 0.0, 1.0]), o.ravel(o.round(x)), side="right"
        )
    ),
    "digitize": rows(lambda o, x: o.digitize(x, np.array([-0.5, 0.0, 0.5]))),
    "digitize edges": rows(lambda o, x: o.digitize(o.round(x), np.array([-1.0, 0.0, 1.0]))),
    **{
        f"segment_{name}": Op(
            lambda o, x, i, name=name: getattr(o, f"segment_{name}")(x, i[:, 0], num_segments=10),
            (VECTOR, ((1,), "int32")),
        )
        for name in ("max", "min", "prod", "sum")
    },
    "slice": rows(lambda o, x: o.slice(x, (0, 1, 2), (1, 3, 4))),
    "slice_update": two(lambda o, x, y: o.slice_update(x, (0, 1, 2), y[:1, :3, :4])),
    "split": rows(lambda o, x: o.split(x, 3, axis=-1)),
    "split at": rows(lambda o, x: o.split(x, [1, 4], axis=-1)),
    "stack": two(lambda o, x, y: o.stack([x, y], axis=-1)),
    "swapaxes": rows(lambda o, x: o.swapaxes(x, 1, 2)),
    "squeeze one": Op(lambda o, x: o.squeeze(x[:, :1], axis=1), (ROWS,)),
    "take": rows(lambda o, x: o.take(x, [3, 0, -1], axis=2)),
    "take by tensor": Op(lambda o, x, i: o.take(x, i % 6, axis=1), (VECTOR, ((2,), "int32"))),
    "take_along_axis": Op(
        lambda o, x, i: o.take_along_axis(x, i % 6, axis=-1), (ROWS, INTEGERS), (0,)
    ),
    "tensordot": two(lambda o, x, y: o.tensordot(x, y, axes=[[2], [2]])),
    "tile": rows(lambda o, x: o.tile(x, (1, 2, 3))),
    "top_k": rows(lambda o, x: o.top_k(x, 3)),
    "trace": square(lambda o, x: o.trace(x, axis1=1, axis2=2)),
    "transpose axes": rows(lambda o, x: o.transpose(x, (2, 0, 1))),
    "tril": rows(lambda o, x: o.tril(x, 1)),
    "triu": rows(lambda o, x: o.triu(x, -1)),
    "unique": Op(lambda o, x: o.unique(x), (((6,), "int32"),)),
    "unravel_index": Op(lambda o, x: o.unravel_index(x, (3, 4)), (((6,), "int32"),), batch=2),
    "unstack": rows(lambda o, x: o.unstack(x, axis=2)),
    "vander": rows(lambda o, x: o.vander(x[0, 0], 4)),
    "vdot": two(lambda o, x, y: o.vdot(x, y)),
    "vsplit": Op(lambda o, x: o.vsplit(o.reshape(x, (30, -1)), 3), (ROWS,)),
    "vstack": two(lambda o, x, y: o.vstack([x, y])),
    "shape": Op(lambda o, x: x * o.shape(x)[1], (ROWS,)),
    "size": rows(lambda o, x: x * o.cast(o.size(x), "float32")),
    "convert_to_tensor": rows(lambda o, x: o.convert_to_tensor(x) + 1),
    "array": rows(lambda o, x: o.array(x) + 1),
    "view_as_real": two(lambda o, x, y: o.view_as_real(o.polar(o.abs(x), y))),
    # --- networks
    "adaptive_average_pool": Op(lambda o, x: o.adaptive_average_pool(x, (3, 4)), (IMAGE,)),
    "adaptive_max_pool": Op(lambda o, x: o.adaptive_max_pool(x, (3, 4)), (IMAGE,)),
    "average_pool": image(lambda o, x: o.average_pool(x, 2)),
    "max_pool": image(lambda o, x: o.max_pool(x, 3, 2, "same")),
    "batch_normalization": rows(
        lambda o, x: o.batch_normalization(x, o.ones(6) * 0.2, o.ones(6) * 2, axis=-1)
    ),
    "binary_crossentropy": two(lambda o, x, y: o.binary_crossentropy(o.round(x), o.sigmoid(y))),
    "binary_crossentropy logits": two(
        lambda o, x, y: o.binary_crossentropy(o.round(x), y, from_logits=True)
    ),
    "categorical_crossentropy": two(
        lambda o, x, y: o.categorical_crossentropy(o.softmax(x), o.softmax(y))
    ),
    "sparse_categorical_crossentropy": Op(
        lambda o, t, y: o.sparse_categorical_crossentropy(t[:, 0], o.softmax(y)),
        (((1,), "int32"), ((12,), "float32")),
    ),
    "conv": image(lambda o, x: o.conv(x, o.ones((3, 3, 3, 2)) * 0.1, padding="same")),
    "conv of inputs": Op(lambda o, x, w: o.conv(x, w[0]), (IMAGE, ((3, 3, 3, 2), "float32"))),
    "conv_transpose": Op(
        lambda o, x: o.conv_transpose(x, o.ones((3, 3, 2, 3)) * 0.1, 2, padding="same"),
        (IMAGE,),
        (0, 1),
        inside=True,
    ),
    "depthwise_conv": image(lambda o, x: o.depthwise_conv(x, o.ones((3, 3, 3, 2)) * 0.1)),
    "separable_conv": image(
        lambda o, x: o.separable_conv(x, o.ones((3, 3, 3, 2)) * 0.1, o.ones((1, 1, 6, 4)) * 0.1)
    ),
    "dot_product_attention": Op(
        lambda o, x, y: o.dot_product_attention(x, y, y, is_causal=True),
        (((5, 2, 4), "float32"), ((5, 2, 4), "float32")),
        (0,),
    ),
    "ctc_decode": Op(
        lambda o, y: o.ctc_decode(y, o.ones((2,), "int32") * 5), (((5, 12), "float32"),), batch=2
    ),
    "psnr": two(lambda o, x, y: o.psnr(x, y, 2.0)),
    # --- signals
    "fft": Op(lambda o, x, y: o.fft((x, y)), (WAVE, WAVE)),
    "fft2": Op(lambda o, x, y: o.fft2((x, y)), (SQUARE, SQUARE)),
    "ifft2": Op(lambda o, x, y: o.ifft2((x, y)), (SQUARE, SQUARE)),
    "rfft": wave(lambda o, x: o.rfft(x)),
    "rfft cut": wave(lambda o, x: o.rfft(x, 50)),
    "rfft padded": wave(lambda o, x: o.rfft(x, 100)),
    "irfft": Op(lambda o, x, y: o.irfft((x, y)), (((33,), "float32"), ((33,), "float32")), (0,)),
    "irfft odd": Op(lambda o, x, y: o.irfft((x, y), 47), (WAVE, WAVE), (0,)),
    "stft": wave(lambda o, x: o.stft(x, 16, 8, 32)),
    "istft": wave(lambda o, x: o.istft(o.stft(x, 16, 8, 32), 16, 8, 32)),
    # --- linear algebra
    **{
        name: square(lambda o, x, name=name: getattr(o, name)(x + 3 * o.eye(4)))
        for name in ("det", "slogdet")
    },
    # --- control flow
    "switch": rows(lambda o, x: o.switch(1, [lambda y: y, lambda y: y * 2], x)),
    "switch by tensor": rows(
        lambda o, x: o.switch(o.cast(o.sum(x) > 0, "int32"), [lambda y: y + 1, lambda y: y * 2], x)
    ),
    "while_loop": rows(
        lambda o, x: o.while_loop(lambda y: o.max(y) < 9, lambda y: (y * 2 + 0.5,), (x,))
    ),
    "fori_loop": rows(lambda o, x: o.fori_loop(0, 3, lambda i, y: y * 2, x)),
    "map": rows(lambda o, x: o.map(lambda y: y * 2, x)),
    "vectorized_map": rows(lambda o, x: o.vectorized_map(lambda y: y * 2, x)),
    "custom_gradient": inside(
        lambda o, x: o.custom_gradient(lambda y: (y * 2, lambda *a, upstream=None: upstream))(x)
    ),
    # --- images
    "image.affine_transform": image(lambda o, x: o.image.affine_transform(x, np.array(AFFINE))),
    **{
        f"image.affine_transform {mode} {interpolation}": image(
            lambda o, x, mode=mode, interpolation=interpolation: o.image.affine_transform(
                x, np.array(FAR), interpolation, mode, fill_value=0.25
            )
        )
        for mode in ("constant", "nearest", "wrap", "reflect")
        for interpolation in ("bilinear", "nearest")
    },
    "image.crop_images": image(
        lambda o, x: o.image.crop_images(x, 1, 2, target_height=8, target_width=7)
    ),
    "image.extract_patches": image(lambda o, x: o.image.extract_patches(x, (3, 2))),
    "image.extract_patches strides": image(
        lambda o, x: o.image.extract_patches(x, 3, strides=2, padding="same")
    ),
    "image.extract_patches_3d": Op(
        lambda o, x: o.image.extract_patches_3d(x, (2, 2, 2)), (((4, 6, 4, 2), "float32"),)
    ),
    "image.gaussian_blur": image(lambda o, x: o.image.gaussian_blur(x)),
    "image.hsv_to_rgb": image(lambda o, x: o.image.hsv_to_rgb(o.abs(x))),
    "image.map_coordinates": Op(
        lambda o, x: o.image.map_coordinates(
            x[0, :, :, 0], o.convert_to_tensor([[0.5, 3.2], [1.5, 7.7]]), order=1
        ),
        (IMAGE,),
    ),
    "image.pad_images": image(lambda o, x: o.image.pad_images(x, 1, 2, 3, 4)),
    "image.perspective_transform": image(
        lambda o, x: o.image.perspective_transform(
            x,
            o.convert_to_tensor([[[0.0, 0], [0, 9], [11, 0], [11, 9]]]),
            o.convert_to_tensor([[[1.0, 1], [0, 8], [10, 0], [11, 9]]]),
        )
    ),
    "image.resize": image(lambda o, x: o.image.resize(x, (7, 9))),
    "image.rgb_to_grayscale": image(lambda o, x: o.image.rgb_to_grayscale(x)),
    "image.rgb_to_hsv": image(lambda o, x: o.image.rgb_to_hsv(o.abs(x))),
    "image.scale_and_translate": image(
        lambda o, x: o.image.scale_and_translate(
            x[0],
            (7, 9, 3),
            o.convert_to_tensor([0.7, 0.8]),
            o.convert_to_tensor([0.5, 0.25]),
            (0, 1),
            "linear",
        )
    ),
    "image.sobel_edges": image(lambda o, x: o.image.sobel_edges(x)),
    "image.ssim": Op(lambda o, x, y: o.image.ssim(x, y, filter_size=5), (IMAGE, IMAGE)),
}

UNSUPPORTED = (
    "these TensorFlow operations cannot be converted to ONNX: {}. {}Export a model that ends "
    "before them."
)
MATRICES = "ONNX has no matrix factorisations. "
LOOPS = "tf2onnx does not support this form of loop or condition. "
COMPLEX = (
    "layer {!r} uses the TensorFlow operation {} on numbers of type complex64, which onnxruntime "
    "does not compute. Work with real and imaginary parts in separate tensors, or export a "
    "model that ends before it."
)

REFUSED: Mapping[str, tuple[Op, str]] = {
    **{
        name: (
            square(lambda o, x, name=name: getattr(o, name)(x + 3 * o.eye(4))),
            UNSUPPORTED.format(f"{operation} (layer {name!r})", MATRICES),
        )
        for name, operation in {
            "inv": "MatrixInverse",
            "logdet": "Cholesky",
            "pinv": "Svd",
            "qr": "Qr",
            "matrix_rank": "Svd",
            "svd": "Svd",
            "eigh": "SelfAdjointEigV2",
            "cholesky": "Cholesky",
            "cholesky_inverse": "MatrixTriangularSolve",
        }.items()
    },
    "eig": (square(lambda o, x: o.eig(x)), COMPLEX.format("eig", "Eig")),
    "lstsq": (
        square(lambda o, x: o.lstsq(x[0] + 3 * o.eye(4), x[0])),
        UNSUPPORTED.format("Svd (layer 'lstsq')", MATRICES),
    ),
    "solve": (
        square(lambda o, x: o.solve(x + 3 * o.eye(4), x)),
        UNSUPPORTED.format("MatrixSolve (layer 'solve')", MATRICES),
    ),
    "solve_triangular": (
        square(lambda o, x: o.solve_triangular(o.tril(x) + 3 * o.eye(4), x, lower=True)),
        UNSUPPORTED.format("MatrixTriangularSolve (layer 'solve_triangular')", MATRICES),
    ),
    "norm nuclear": (
        rows(lambda o, x: o.norm(x, ord="nuc", axis=(1, 2))),
        UNSUPPORTED.format("Svd (layer 'norm')", MATRICES),
    ),
    "view": (
        rows(lambda o, x: o.view(x, "int32")),
        UNSUPPORTED.format(
            "Bitcast (layer 'view': the bits of a tensor cannot be read as another type)", ""
        ),
    ),
    "scan": (
        rows(lambda o, x: o.scan(lambda c, y: (c + y, c * y), x[0], x)),
        UNSUPPORTED.format("While (layer 'scan': not as it is used here)", LOOPS),
    ),
    "associative_scan": (
        Op(lambda o, x: o.associative_scan(lambda a, b: a + b, x, axis=1), (ROWS,)),
        UNSUPPORTED.format(
            "Concat (layer 'associative_scan': not as it is used here), "
            "Gather (layer 'associative_scan': not as it is used here)",
            "",
        ),
    ),
    "image.elastic_transform": (
        Op(lambda o, x: o.image.elastic_transform(x, seed=1), (IMAGE,)),
        "layer 'elastic_transform' draws random numbers (StatelessRandomNormalV2) in inference "
        "too, so its results cannot be compared with Keras. Export a model that ends before it, or "
        "that takes the random numbers as an input.",
    ),
}
"""What cannot be exported, and the whole message."""

DIFFERENT: Mapping[str, Op] = {
    "ctc_loss": Op(
        lambda o, t, y: o.ctc_loss(t, y, o.ones((2,), "int32") * 2, o.ones((2,), "int32") * 5),
        (((2,), "int32"), ((5, 12), "float32")),
        batch=2,
    ),
}
"""What tf2onnx converts into something else, so that verification refuses it."""

KERAS_REFUSES: Mapping[str, Op] = {
    "argpartition": Op(lambda o, x: o.sort(o.argpartition(x, 2)[..., :2]), (ROWS,), batch=3),
    "corrcoef": Op(lambda o, x: o.corrcoef(x[0]), (SQUARE,), batch=2),
    "histogram": rows(lambda o, x: o.histogram(o.ravel(x), bins=5, range=(-1, 1))),
    "isin": Op(lambda o, x: o.isin(x, o.convert_to_tensor([1, 2, 5])), (INTEGERS,), batch=2),
    "kron": Op(lambda o, x: o.kron(x, x), (VECTOR,), batch=2),
    "lu_factor": square(lambda o, x: o.lu_factor(x)),
    "vectorize": inside(lambda o, x: o.vectorize(lambda y: y * 2)(x)),
    "view_as_complex": two(lambda o, x, y: o.real(o.view_as_complex(o.stack([x, y], -1)))),
}
"""What Keras itself cannot build, trace or run in a model on TensorFlow."""

WITHOUT_TENSORS = (
    "arange bartlett blackman convert_to_numpy dtype empty eye full hamming hanning identity "
    "is_tensor jvp kaiser ndim ones tri zeros"
).split()
"""Functions that make tensors out of numbers, ask something about a tensor, or differentiate."""
