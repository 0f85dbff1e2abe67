"""Reductions over axes: each of the reduced elements gets a gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step


def _axes(step: Step) -> list[int]:
    """The axes that are reduced."""
    axes = step.axes()
    if not axes:
        return [] if step.attribute("noop_with_empty_axes", 0) else list(range(len(step.dims)))
    return axes


def _kept(step: Step, value: Value, axes: Sequence[int]) -> Value:
    """An output, or its gradient, with the reduced axes kept at size 1."""
    if step.attribute("keepdims", 1) or not axes:
        return value
    return value.op("Unsqueeze", step.build.int64(axes))


def _share(step: Step, gradient: Value, axes: Sequence[int]) -> Value:
    """The gradient divided by the number of elements along `axes`."""
    count = step.build.count(step.x, axes)
    if isinstance(count, int):
        return gradient * (1 / count)
    return gradient / count.cast(gradient.dtype)


def total(step: Step) -> Gradients:
    """Of ReduceSum: g for each element."""
    axes = _axes(step)
    return [step.build.spread(_kept(step, step.gradient, axes), step.x, axes)]


def mean(step: Step) -> Gradients:
    """g / n for each of n elements."""
    axes = _axes(step)
    share = _share(step, _kept(step, step.gradient, axes), axes)
    return [step.build.spread(share, step.x, axes)]


def extreme(step: Step) -> Gradients:
    """Of ReduceMax and ReduceMin: g, in equal shares for all elements that equal the result."""
    axes = _axes(step)
    return [_shared(step, _kept(step, step.y, axes), _kept(step, step.gradient, axes), axes)]


def _shared(step: Step, y: Value, g: Value, axes: Sequence[int]) -> Value:
    chosen = step.x.equals(y).cast(g.dtype)
    return chosen * (g / chosen.op("ReduceSum", step.build.int64(axes), keepdims=1))


def sum_of_squares(step: Step) -> Gradients:
    """2 g x."""
    return [_kept(step, step.gradient, _axes(step)) * (step.x * 2)]


def length(step: Step) -> Gradients:
    """Of ReduceL2: g x / y."""
    axes = _axes(step)
    return [(_kept(step, step.gradient, axes) / _kept(step, step.y, axes)) * step.x]


def absolute_total(step: Step) -> Gradients:
    """Of ReduceL1: g sign(x)."""
    return [_kept(step, step.gradient, _axes(step)) * step.x.op("Sign")]


def logarithm(step: Step) -> Gradients:
    """Of ReduceLogSum: y = log(sum(x)): g / sum(x), which is g exp(-y)."""
    axes = _axes(step)
    share = _kept(step, step.gradient * (-step.y).op("Exp"), axes)
    return [step.build.spread(share, step.x, axes)]


def logarithm_of_exponentials(step: Step) -> Gradients:
    """Of ReduceLogSumExp: g exp(x - y)."""
    axes = _axes(step)
    return [_kept(step, step.gradient, axes) * (step.x - _kept(step, step.y, axes)).op("Exp")]


def product(step: Step) -> Gradients:
    """g times the product of the other elements: y / x if none is 0. A single 0 gets the product of
    the others, and with several zeros all gradients are 0."""
    axes, x = _axes(step), step.x
    if not axes:
        return [step.gradient]
    none = x.equals(0.0)
    count = none.cast(x.dtype).op("ReduceSum", step.build.int64(axes), keepdims=1)
    filled = x + none.cast(x.dtype)  # 1 for 0
    if step.build.opset < 18:
        rest = filled.op("ReduceProd", axes=axes, keepdims=1)
    else:
        rest = filled.op("ReduceProd", step.build.int64(axes), keepdims=1)
    others = (count.equals(0.0) & ~none).masks(rest / filled)
    lone = (count.equals(1.0) & none).masks(rest)
    return [_kept(step, step.gradient, axes) * (others + lone)]


# --- Over all spatial axes -----------------------------------------------------------------------


def _spatial(step: Step) -> list[int]:
    return list(range(2, len(step.dims)))


def global_average(step: Step) -> Gradients:
    """g / n for each of n elements."""
    axes = _spatial(step)
    return [step.build.spread(_share(step, step.gradient, axes), step.x, axes)]


def global_maximum(step: Step) -> Gradients:
    """g, in equal shares for all elements that equal the maximum."""
    return [_shared(step, step.y, step.gradient, _spatial(step))]


def global_norm(step: Step) -> Gradients:
    """Of GlobalLpPool: y = sum(|x|^p)^(1/p): g sign(x) (|x| / y)^(p - 1)."""
    p = step.attribute("p", 2)
    if p == 2:
        return [(step.gradient / step.y) * step.x]
    return [step.gradient * step.x.op("Sign") * (step.x.op("Abs") / step.y).op("Pow", p - 1.0)]


# --- Along one axis ------------------------------------------------------------------------------


def cumulative_sum(step: Step) -> Gradients:
    """The cumulative sum of g from the other end."""
    back = step.gradient.op(
        "CumSum",
        step.input(1),
        exclusive=step.attribute("exclusive", 0),
        reverse=1 - step.attribute("reverse", 0),
    )
    return [back]


RULES: Mapping[str, Rule] = {
    "ReduceSum": total,
    "ReduceMean": mean,
    "ReduceMax": extreme,
    "ReduceMin": extreme,
    "ReduceSumSquare": sum_of_squares,
    "ReduceL2": length,
    "ReduceL1": absolute_total,
    "ReduceLogSum": logarithm,
    "ReduceLogSumExp": logarithm_of_exponentials,
    "ReduceProd": product,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_maximum,
    "GlobalLpPool": global_norm,
    "CumSum": cumulative_sum,
}
"""The rules of this theme, by operator."""
