"""Functions of one tensor, element by element: g * f'(x)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step


def identity(step: Step) -> Gradients:
    """y = x; also a Dropout in inference."""
    return [step.gradient]


def cast(step: Step) -> Gradients:
    """y = x in another dtype."""
    return [step.gradient.cast(step.x.dtype)]


# --- Kinks ---------------------------------------------------------------------------------------


def relu(step: Step) -> Gradients:
    """g where y > 0, else 0."""
    return [(step.y > 0).masks(step.gradient)]


def leaky_relu(step: Step) -> Gradients:
    """g where x > 0, else alpha g."""
    alpha = step.attribute("alpha", 0.01)
    above = (step.x > 0).cast(step.x.dtype)
    return [step.gradient * (above * (1 - alpha) + alpha)]


def thresholded_relu(step: Step) -> Gradients:
    """g where x > alpha."""
    return [(step.x > step.attribute("alpha", 1.0)).masks(step.gradient)]


def clip(step: Step) -> Gradients:
    """g between the limits, which are included, as in `tf.clip_by_value`.

    With a lower limit of 0, and none or 6 above, it is a relu or relu6: the limits are excluded.
    """
    step.only(0)
    low, high = step.constant(1), step.constant(2)
    if low is not None and low == 0 and (not step.has(2) or high == 6):
        inside = step.y > 0
        return [((inside & (step.y < 6)) if high is not None else inside).masks(step.gradient)]
    g = step.gradient
    if step.has(1):
        g = (~(step.x < step.input(1))).masks(g)
    if step.has(2):
        g = (~(step.x > step.input(2))).masks(g)
    return [g]


def absolute(step: Step) -> Gradients:
    """g sign(x), which is 0 at 0."""
    return [step.gradient * step.x.op("Sign")]


def hard_sigmoid(step: Step) -> Gradients:
    """alpha g where 0 < y < 1."""
    inside = (step.y > 0) & (step.y < 1)
    return [inside.masks(step.gradient * step.attribute("alpha", 0.2))]


def hard_swish(step: Step) -> Gradients:
    """y = x h, h = clip(x/6 + 1/2, 0, 1): g (h + x/6 where 0 < h < 1)."""
    x = step.x
    h = (x * (1 / 6) + 0.5).op("Clip", 0.0, 1.0)
    return [step.gradient * (h + ((h > 0) & (h < 1)).masks(x * (1 / 6)))]


def shrink(step: Step) -> Gradients:
    """g where |x| > lambd."""
    return [(step.x.op("Abs") > step.attribute("lambd", 0.5)).masks(step.gradient)]


# --- Exponential linear units --------------------------------------------------------------------


def elu(step: Step) -> Gradients:
    """g where x >= 0, else g alpha exp(x), which is g (y + alpha)."""
    return [step.gradient * _bent(step, step.y + step.attribute("alpha", 1.0), 1.0)]


def celu(step: Step) -> Gradients:
    """g where x >= 0, else g exp(x / alpha), which is g (y / alpha + 1)."""
    slope = step.y * (1 / step.attribute("alpha", 1.0)) + 1
    return [step.gradient * _bent(step, slope, 1.0)]


def selu(step: Step) -> Gradients:
    """g gamma where x >= 0, else g gamma alpha exp(x), which is g (y + gamma alpha)."""
    alpha = step.attribute("alpha", 1.67326319217681884765625)
    gamma = step.attribute("gamma", 1.05070102214813232421875)
    return [step.gradient * _bent(step, step.y + alpha * gamma, gamma)]


def _bent(step: Step, below: Value, above: float) -> Value:
    """One slope where x < 0, another where x >= 0."""
    return (step.x < 0).masks(below - above) + above


# --- Smooth activations --------------------------------------------------------------------------


def sigmoid(step: Step) -> Gradients:
    """g y (1 - y)."""
    return [step.gradient * (step.y * (1 - step.y))]


def tanh(step: Step) -> Gradients:
    """g (1 - y^2)."""
    return [step.gradient * (1 - step.y * step.y)]


def softplus(step: Step) -> Gradients:
    """y = log(1 + exp(x)): g sigmoid(x)."""
    return [step.gradient * step.x.op("Sigmoid")]


def softsign(step: Step) -> Gradients:
    """y = x / (1 + |x|): g / (1 + |x|)^2."""
    below = step.x.op("Abs") + 1
    return [step.gradient / (below * below)]


def mish(step: Step) -> Gradients:
    """y = x t, t = tanh(softplus(x)): g (t + x (1 - t^2) sigmoid(x))."""
    x = step.x
    t = x.op("Softplus").op("Tanh")
    return [step.gradient * (t + x * (1 - t * t) * x.op("Sigmoid"))]


def gelu(step: Step) -> Gradients:
    """y = x P(x): g (P(x) + x p(x)), with P the normal distribution and p its density.

    Approximated by tanh: y = x (1 + t) / 2, where t = tanh(s (x + 0.044715 x^3)), s = sqrt(2 / pi).
    Source: Hendrycks, Gimpel: Gaussian Error Linear Units (GELUs), 2016, arXiv:1606.08415.
    """
    x = step.x
    if step.text("approximate", "none") == "tanh":
        scale = math.sqrt(2 / math.pi)
        t = ((x + x * x * x * 0.044715) * scale).op("Tanh")
        inner = (x * x * (3 * 0.044715) + 1) * scale
        return [step.gradient * ((t + 1) * 0.5 + x * 0.5 * (1 - t * t) * inner)]
    probability = ((x * math.sqrt(0.5)).op("Erf") + 1) * 0.5
    density = (x * x * -0.5).op("Exp") * (1 / math.sqrt(2 * math.pi))
    return [step.gradient * (probability + x * density)]


def erf(step: Step) -> Gradients:
    """g 2 / sqrt(pi) exp(-x^2)."""
    return [step.gradient * ((-(step.x * step.x)).op("Exp") * (2 / math.sqrt(math.pi)))]


# --- Powers and logarithms -----------------------------------------------------------------------


def exponential(step: Step) -> Gradients:
    """g y."""
    return [step.gradient * step.y]


def logarithm(step: Step) -> Gradients:
    """g / x."""
    return [step.gradient / step.x]


def square_root(step: Step) -> Gradients:
    """g / (2 y)."""
    return [step.gradient * 0.5 / step.y]


def reciprocal(step: Step) -> Gradients:
    """-g y^2."""
    return [-(step.gradient * (step.y * step.y))]


def negative(step: Step) -> Gradients:
    """-g."""
    return [-step.gradient]


# --- Trigonometry --------------------------------------------------------------------------------


def sine(step: Step) -> Gradients:
    """g cos(x)."""
    return [step.gradient * step.x.op("Cos")]


def cosine(step: Step) -> Gradients:
    """-g sin(x)."""
    return [-(step.gradient * step.x.op("Sin"))]


def tangent(step: Step) -> Gradients:
    """g (1 + y^2)."""
    return [step.gradient * (step.y * step.y + 1)]


def arc_sine(step: Step) -> Gradients:
    """g / sqrt(1 - x^2)."""
    return [step.gradient / (1 - step.x * step.x).op("Sqrt")]


def arc_cosine(step: Step) -> Gradients:
    """-g / sqrt(1 - x^2)."""
    return [-(step.gradient / (1 - step.x * step.x).op("Sqrt"))]


def arc_tangent(step: Step) -> Gradients:
    """g / (1 + x^2)."""
    return [step.gradient / (step.x * step.x + 1)]


def hyperbolic_sine(step: Step) -> Gradients:
    """g cosh(x)."""
    return [step.gradient * step.x.op("Cosh")]


def hyperbolic_cosine(step: Step) -> Gradients:
    """g sinh(x)."""
    return [step.gradient * step.x.op("Sinh")]


def area_sine(step: Step) -> Gradients:
    """Of asinh: g / sqrt(x^2 + 1)."""
    return [step.gradient / (step.x * step.x + 1).op("Sqrt")]


def area_cosine(step: Step) -> Gradients:
    """Of acosh: g / sqrt(x^2 - 1)."""
    return [step.gradient / (step.x * step.x - 1).op("Sqrt")]


def area_tangent(step: Step) -> Gradients:
    """Of atanh: g / (1 - x^2)."""
    return [step.gradient / (1 - step.x * step.x)]


RULES: Mapping[str, Rule] = {
    "Identity": identity,
    "Dropout": identity,
    "Cast": cast,
    "CastLike": cast,
    "Relu": relu,
    "LeakyRelu": leaky_relu,
    "ThresholdedRelu": thresholded_relu,
    "Clip": clip,
    "Abs": absolute,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Shrink": shrink,
    "Elu": elu,
    "Celu": celu,
    "Selu": selu,
    "Sigmoid": sigmoid,
    "Tanh": tanh,
    "Softplus": softplus,
    "Softsign": softsign,
    "Mish": mish,
    "Gelu": gelu,
    "Erf": erf,
    "Exp": exponential,
    "Log": logarithm,
    "Sqrt": square_root,
    "Reciprocal": reciprocal,
    "Neg": negative,
    "Sin": sine,
    "Cos": cosine,
    "Tan": tangent,
    "Asin": arc_sine,
    "Acos": arc_cosine,
    "Atan": arc_tangent,
    "Sinh": hyperbolic_sine,
    "Cosh": hyperbolic_cosine,
    "Asinh": area_sine,
    "Acosh": area_cosine,
    "Atanh": area_tangent,
}
"""The rules of this theme, by operator."""
