"""Functions of single elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .expressions import Handler, NoWayError, Value, attribute, formula, numpy_dtype, take_over


def erfc(x: Value) -> Value:
    """erfc(x) = 1 - erf(x); TensorFlow's exact `gelu` uses it."""
    return 1 - x.op("Erf")


def expm1(x: Value) -> Value:
    """expm1(x) = tanh(x / 2) (exp(x) + 1), which loses no digits near 0 as exp(x) - 1 would."""
    return (x / 2).op("Tanh") * (x.op("Exp") + 1)


def log(x: Value) -> Value:
    """The natural logarithm, of float16 too, which tf2onnx refuses."""
    return x.op("Log")


def log1p(x: Value) -> Value:
    """log1p(x) = x log(u) / (u - 1) with u = 1 + x as it was rounded; x where u is 1.

    Rounding spoils log(u) and u - 1 alike. Source: Goldberg, What Every Computer Scientist Should
    Know About Floating-Point Arithmetic, ACM Computing Surveys 23 (1991), theorem 4.
    """
    above = x + 1
    unlike = above - 1
    plain = unlike.equals(0) | x.op("IsInf", detect_negative=0)
    return plain.where(x, above.op("Log") * (x / plain.where(1, unlike)))


QUANTILE = {
    "centre": (
        (
            3.3871328727963666080e0,
            1.3314166789178437745e2,
            1.9715909503065514427e3,
            1.3731693765509461125e4,
            4.5921953931549871457e4,
            6.7265770927008700853e4,
            3.3430575583588128105e4,
            2.5090809287301226727e3,
        ),
        (
            1.0,
            4.2313330701600911252e1,
            6.8718700749205790830e2,
            5.3941960214247511077e3,
            2.1213794301586595867e4,
            3.9307895800092710610e4,
            2.8729085735721942674e4,
            5.2264952788528545610e3,
        ),
    ),
    "tail": (
        (
            1.42343711074968357734e0,
            4.63033784615654529590e0,
            5.76949722146069140550e0,
            3.64784832476320460504e0,
            1.27045825245236838258e0,
            2.41780725177450611770e-1,
            2.27238449892691845833e-2,
            7.74545014278341407640e-4,
        ),
        (
            1.0,
            2.05319162663775882187e0,
            1.67638483018380384940e0,
            6.89767334985100004550e-1,
            1.48103976427480074590e-1,
            1.51986665636164571966e-2,
            5.47593808499534494600e-4,
            1.05075007164441684324e-9,
        ),
    ),
    "far tail": (
        (
            6.65790464350110377720e0,
            5.46378491116411436990e0,
            1.78482653991729133580e0,
            2.96560571828504891230e-1,
            2.65321895265761230930e-2,
            1.24266094738807843860e-3,
            2.71155556874348757815e-5,
            2.01033439929228813265e-7,
        ),
        (
            1.0,
            5.99832206555887937690e-1,
            1.36929880922735805310e-1,
            1.48753612908506148525e-2,
            7.86869131145613259100e-4,
            1.84631831751005468180e-5,
            1.42151175831644588870e-7,
            2.04426310338993978564e-15,
        ),
    ),
}
"""Numerators and denominators of AS 241's PPND16, constant term first."""


def erfinv(x: Value) -> Value:
    """erfinv(x) = the normal distribution's quantile of (x + 1) / 2, divided by the root of 2.

    Source: Wichura, Algorithm AS 241: The Percentage Points of the Normal Distribution, Applied
    Statistics 37 (1988), 477-484; relative error about 1e-16.
    """

    def ratio(argument: Value, where: str) -> Value:
        over, under = QUANTILE[where]
        return argument.polynomial(over) / argument.polynomial(under)

    from_half = x / 2
    distance = abs(from_half)
    centre = from_half * ratio(0.180625 - from_half * from_half, "centre")
    tail = (-(0.5 - distance).op("Log")).op("Sqrt")
    outside = (tail <= 5).where(ratio(tail - 1.6, "tail"), ratio(tail - 5, "far tail"))
    # At the very ends the ratio is infinite by infinite.
    outside = (distance.equals(0.5)).where(math.inf, outside) * x.op("Sign")
    return (distance <= 0.425).where(centre, outside) * math.sqrt(0.5)


SMALL_I0 = (1, 3.5156229, 3.0899424, 1.2067492, 0.2659732, 0.0360768, 0.0045813)
LARGE_I0 = (
    *(0.39894228, 0.01328592, 0.00225319, -0.00157565, 0.00916281),
    *(-0.02057706, 0.02635537, -0.01647633, 0.00392377),
)


def bessel_i0(x: Value) -> Value:
    """The modified Bessel function of the first kind and order 0, within 2e-7 of its value.

    Source: Abramowitz, Stegun: Handbook of Mathematical Functions (1964), 9.8.1 and 9.8.2.
    """
    size = abs(x)
    part = size / 3.75
    small = (part * part).polynomial(SMALL_I0)
    safe = (part < 1).where(1, part)
    large = size.op("Exp") / (safe * 3.75).op("Sqrt") * (1 / safe).polynomial(LARGE_I0)
    return (part < 1).where(small, large)


def floor_div(x: Value, y: Value) -> Value:
    """The quotient rounded down; ONNX rounds that of integers towards zero."""
    if x.dtype.kind == "f":
        return (x / y).op("Floor")
    if x.dtype.kind == "u":
        return x / y
    quotient = x / y
    uneven = ~(quotient * y).equals(x)
    below = uneven & (x < 0).op("Xor", y < 0)
    return below.where(quotient - 1, quotient)


def floor_mod(x: Value, y: Value) -> Value:
    """The remainder with the sign of the divisor, as Python's `%`."""
    if x.dtype.kind != "f":
        return x.op("Mod", y)
    remainder = x.op("Mod", y, fmod=1)
    other_side = ~remainder.equals(0) & (remainder < 0).op("Xor", y < 0)
    return other_side.where(remainder + y, remainder)


def next_after(x: Value, y: Value) -> Value:
    """The neighbour of x on the side of y: x ± (phi |x| + eta), phi = u (1 + 2 u), rounded.

    u is half the distance of 1 from its neighbour above, eta the smallest number over 0.
    Source: Rump, Zimmermann, Boldo, Melquiond: Computing predecessor and successor in rounding to
    nearest, BIT Numerical Mathematics 49 (2009), 419-431, algorithm 2.
    """
    limits = np.finfo(x.dtype)
    u = float(limits.eps) / 2
    step = abs(x) * (u * (1 + 2 * u)) + float(limits.smallest_subnormal)
    return x.equals(y).where(y, (y > x).where(x + step, x - step))


def comparison(compare: Callable[[Value, Value], Value]) -> Handler:
    """A comparison of two numbers; tf2onnx compares whole ones as float32.

    They are compared as int64 here: ONNX counts the rounds of a loop in it, whatever TensorFlow
    does.
    """

    def exact(x: Value) -> Value:
        return x.cast(np.int64) if x.dtype.kind in "iu" and x.dtype != np.uint64 else x

    return formula(lambda x, y: compare(exact(x), exact(y)))


def select(condition: Value, x: Value, y: Value) -> Value:
    """By element x or y. (tf2onnx multiplies with 1 and 0, which leaves NaN and infinity.)"""
    return condition.where(x, y)


def arctan2(y: Value, x: Value) -> Value:
    """The angle of the point (x, y): of its mirror image in the first eighth, turned back."""
    steep = abs(y) > abs(x)
    longer = steep.where(abs(y), abs(x))
    angle = (steep.where(abs(x), abs(y)) / longer.equals(0).where(1, longer)).op("Atan")
    angle = steep.where(math.pi / 2 - angle, angle)
    angle = _negative(x).where(math.pi - angle, angle)
    return _negative(y).where(-angle, angle)


def _negative(x: Value) -> Value:
    """Whether the sign bit is set: of minus zero too, whose reciprocal is minus infinity."""
    return (x < 0) | (x.equals(0) & ((1 / x) < 0))


def bitcast(graph: Any, node: Any, name: str, args: Any) -> None:
    """The bits of a float as an integer, where only the sign bit is looked at, as in `signbit`.

    Raises:
        NoWayError: the other bits are wanted too, and ONNX has no way to them.
    """
    dtype = numpy_dtype(attribute(node, "type"))
    if dtype.kind != "i":
        raise NoWayError("the bits of a tensor cannot be read as another type")
    sign_bit = np.iinfo(dtype).min
    for reader in graph.find_output_consumers(node.output[0]):
        masks = [x.get_tensor_value() for x in reader.inputs if x.is_const()]
        if reader.type != "BitwiseAnd" or masks != [sign_bit]:
            raise NoWayError("the bits of a tensor cannot be read as another type")

    def build(x: Value) -> Value:
        return _negative(x).where(x.new(sign_bit, dtype), x.new(0, dtype))

    take_over(graph, node, build)
