"""Normalisations, and softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step


def _total(step: Step, value: Value, axes: Sequence[int]) -> Value:
    return value.op("ReduceSum", step.build.int64(axes), keepdims=1)


def _mean(step: Step, value: Value, axes: Sequence[int]) -> Value:
    if step.build.opset < 18:
        return value.op("ReduceMean", axes=list(axes), keepdims=1)
    return value.op("ReduceMean", step.build.int64(axes), keepdims=1)


def softmax(step: Step) -> Gradients:
    """y (g - sum(g y))."""
    axis = step.axis(-1)
    g, y = step.gradient, step.y
    return [y * (g - _total(step, g * y, [axis]))]


def log_softmax(step: Step) -> Gradients:
    """g - exp(y) sum(g)."""
    axis = step.axis(-1)
    g = step.gradient
    return [g - step.y.op("Exp") * _total(step, g, [axis])]


def batch(step: Step) -> Gradients:
    """Of BatchNormalization in inference: g scale / sqrt(variance + epsilon), per channel."""
    step.only(0)
    if step.attribute("training_mode", 0):
        raise step.unsupported("in training mode")
    scale, variance = step.input(1), step.input(4)
    slope = scale.cast(variance.dtype) / (variance + step.attribute("epsilon", 1e-5)).op("Sqrt")
    shape = step.build.int64([1, -1] + [1] * (len(step.dims) - 2))
    return [step.gradient * slope.op("Reshape", shape).cast(step.gradient.dtype)]


def _normalised(
    step: Step, x: Value, g: Value, axes: Sequence[int], epsilon: float
) -> tuple[Value, Value]:
    """For n = (x - mean) r, r = 1 / sqrt(variance + epsilon): n, and the gradient of x.

    r (g - mean(g) - n mean(g n)), where g is the gradient of n.
    """
    centred = x - _mean(step, x, axes)
    deviation = (_mean(step, centred * centred, axes) + epsilon).op("Sqrt")
    n = centred / deviation
    back = g - _mean(step, g, axes) - n * _mean(step, g * n, axes)
    return n, back / deviation


def layer(step: Step) -> Gradients:
    """y = n scale + bias over the axes from `axis` on."""
    g, axis = step.gradient, step.axis(-1)
    axes = list(range(axis, len(step.dims)))
    epsilon = step.attribute("epsilon", 1e-5)
    n, back = _normalised(step, step.x, g * step.input(1), axes, epsilon)
    summed = step.build.summed
    return [
        back if step.wanted[0] else None,
        summed(g * n, step.input(1), step.dims) if step.wanted[1] else None,
        summed(g, step.input(2), step.dims) if step.has(2) and step.wanted[2] else None,
    ]


def instance(step: Step) -> Gradients:
    """y = n scale + bias per sample and channel."""
    step.only(0)
    axes = list(range(2, len(step.dims)))
    shape = step.build.int64([1, -1] + [1] * len(axes))
    g = step.gradient * step.input(1).op("Reshape", shape)
    return [_normalised(step, step.x, g, axes, step.attribute("epsilon", 1e-5))[1]]


def group(step: Step) -> Gradients:
    """y = n scale + bias per sample and group of channels.

    Scale has one number per group up to opset 20, and one per channel since opset 21.
    """
    step.only(0)
    build, groups = step.build, step.attribute("num_groups")
    channels = step.dims[1]
    if not isinstance(channels, int):
        raise step.unsupported("with a free number of channels")
    apart = build.int64([0, groups, -1])
    g, scale = step.gradient, step.input(1)
    if build.opset < 21:
        g = g.op("Reshape", apart) * scale.op("Reshape", build.int64([1, -1, 1]))
    else:
        shape = build.int64([1, -1] + [1] * (len(step.dims) - 2))
        g = (g * scale.op("Reshape", shape)).op("Reshape", apart)
    x = step.x.op("Reshape", apart)
    back = _normalised(step, x, g, [2], step.attribute("epsilon", 1e-5))[1]
    return [build.shaped(back, step.x)]


def mean_variance(step: Step) -> Gradients:
    """Of MeanVarianceNormalization: n over `axes`, with an epsilon of 1e-9 in the deviation."""
    axes = sorted(axis % len(step.dims) for axis in step.attribute("axes", [0, 2, 3]))
    x, g = step.x, step.gradient
    centred = x - _mean(step, x, axes)
    root = _mean(step, centred * centred, axes).op("Sqrt")
    below = root + 1e-9
    n = centred / below
    # n = c / (r + e), and the derivative of the deviation is c / r.
    slope = centred / root
    back = g - _mean(step, g, axes) - slope * _mean(step, g * n, axes)
    return [back / below]


def length(step: Step) -> Gradients:
    """Of LpNormalization: y = x / |x|, |x| the sum of absolute values (p = 1) or the length."""
    axis, x, g = step.axis(-1), step.x, step.gradient
    if step.attribute("p", 2) == 1:
        norm = _total(step, x.op("Abs"), [axis])
        slope = x.op("Sign")
    else:
        norm = _total(step, x * x, [axis]).op("Sqrt")
        slope = step.y
    return [(g - slope * _total(step, g * step.y, [axis])) / norm]


def local_response(step: Step) -> Gradients:
    """Of LRN: y = x d^-beta, d = bias + alpha / size * (sum of x^2 over near channels).

    g d^-beta - 2 alpha beta / size x (sum of g y / d over the channels that x is near to).
    """
    build, x, g = step.build, step.x, step.gradient
    size, beta = step.attribute("size"), step.attribute("beta", 0.75)
    alpha, bias = step.attribute("alpha", 1e-4), step.attribute("bias", 1.0)
    lower, upper = (size - 1) // 2, size - 1 - (size - 1) // 2
    channels = build.size(x, 1)

    def near(value: Value, before: int, after: int) -> Value:
        """Sums over channels, which are the rows of an image for that."""
        rows = value.op("Reshape", build.vector([build.rows(value), 1, channels, -1]))
        mean = rows.op(
            "AveragePool",
            kernel_shape=[size, 1],
            pads=[before, 0, after, 0],
            count_include_pad=1,
        )
        return build.shaped(mean, x) * float(size)

    d = near(x * x, lower, upper) * (alpha / size) + bias
    shared = near(g * step.y / d, upper, lower)
    return [g * d.op("Pow", -beta) - x * shared * (2 * alpha * beta / size)]


def root_mean_square(step: Step) -> Gradients:
    """Of RMSNormalization: y = n scale, n = x / r, r = sqrt(mean(x^2) + epsilon)."""
    axes = list(range(step.axis(-1), len(step.dims)))
    x, g = step.x, step.gradient
    r = (_mean(step, x * x, axes) + step.attribute("epsilon", 1e-5)).op("Sqrt")
    n, inner = x / r, g * step.input(1)
    back = (inner - n * _mean(step, inner * n, axes)) / r if step.wanted[0] else None
    scale = step.build.summed(g * n, step.input(1), step.dims) if step.wanted[1] else None
    return [back, scale]


RULES: Mapping[str, Rule] = {
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "BatchNormalization": batch,
    "LayerNormalization": layer,
    "InstanceNormalization": instance,
    "GroupNormalization": group,
    "MeanVarianceNormalization": mean_variance,
    "LpNormalization": length,
    "LRN": local_response,
    "RMSNormalization": root_mean_square,
}
"""The rules of this theme, by operator."""
