"""Elementwise functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .expressions import (
    Handler,
    UnsupportedUseError,
    Value,
    attribute,
    formula,
    numpy_dtype,
    replace_node,
)


def erfc(x: Value) -> Value:
    """erfc(x) = 1 - erf(x); TensorFlow's exact `gelu` uses it."""
    return 1 - x.op("Erf")


def expm1(x: Value) -> Value:
    """expm1(x) = tanh(x / 2) (exp(x) + 1), which loses no digits near 0 as exp(x) - 1 would."""
    return (x / 2).op("Tanh") * (x.op("Exp") + 1)


def log(x: Value) -> Value:
    """The natural logarithm, also of float16, which tf2onnx does not support."""
    return x.op("Log")


def log1p(x: Value) -> Value:
    """log1p(x) = x log(u) / (u - 1) with the rounded value u of 1 + x; x if u is 1.

    Rounding affects log(u) and u - 1 equally. Source: Goldberg, What Every Computer Scientist
    Should Know About Floating-Point Arithmetic, ACM Computing Surveys 23 (1991), theorem 4.
    """
    u = x + 1
    rounded = u - 1
    unchanged = rounded.equals(0) | x.op("IsInf", detect_negative=0)
    return unchanged.where(x, u.op("Log") * (x / unchanged.where(1, rounded)))


def xlogy(x: Value, y: Value) -> Value:
    """x log(y), which is 0 where x is 0."""
    return x.equals(0).where(0, x * y.op("Log"))


def xlog1py(x: Value, y: Value) -> Value:
    """x log1p(y), which is 0 where x is 0."""
    return x.equals(0).where(0, x * log1p(y))


def xdivy(x: Value, y: Value) -> Value:
    """x / y, which is 0 where x is 0."""
    return x.equals(0).where(0, x / y)


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
"""Coefficients of numerators and denominators of AS 241's PPND16, constant term first."""


def erfinv(x: Value) -> Value:
    """erfinv(x) = the standard normal quantile of (x + 1) / 2, divided by the square root of 2.

    Source: Wichura, Algorithm AS 241: The Percentage Points of the Normal Distribution, Applied
    Statistics 37 (1988), 477-484; relative error about 1e-16.
    """

    def ratio(argument: Value, region: str) -> Value:
        numerator, denominator = QUANTILE[region]
        return argument.polynomial(numerator) / argument.polynomial(denominator)

    q = x / 2
    distance = abs(q)
    centre = q * ratio(0.180625 - q * q, "centre")
    r = (-(0.5 - distance).op("Log")).op("Sqrt")
    tail = (r <= 5).where(ratio(r - 1.6, "tail"), ratio(r - 5, "far tail"))
    # For x = -1 and x = 1 the ratio is infinity divided by infinity.
    tail = (distance.equals(0.5)).where(math.inf, tail) * x.op("Sign")
    return (distance <= 0.425).where(centre, tail) * math.sqrt(0.5)


I0_BELOW = (1, 3.5156229, 3.0899424, 1.2067492, 0.2659732, 0.0360768, 0.0045813)
"""Coefficients for |x| < 3.75 (9.8.1)."""
I0_ABOVE = (
    *(0.39894228, 0.01328592, 0.00225319, -0.00157565, 0.00916281),
    *(-0.02057706, 0.02635537, -0.01647633, 0.00392377),
)
"""Coefficients for |x| >= 3.75 (9.8.2)."""


def bessel_i0(x: Value) -> Value:
    """The modified Bessel function of the first kind and order 0, with an error of at most 2e-7.

    Source: Abramowitz, Stegun: Handbook of Mathematical Functions (1964), 9.8.1 and 9.8.2.
    """
    magnitude = abs(x)
    t = magnitude / 3.75
    below = (t * t).polynomial(I0_BELOW)
    safe = (t < 1).where(1, t)
    above = magnitude.op("Exp") / (safe * 3.75).op("Sqrt") * (1 / safe).polynomial(I0_ABOVE)
    return (t < 1).where(below, above)


def floor_div(x: Value, y: Value) -> Value:
    """The quotient rounded down; ONNX rounds quotients of integers towards zero."""
    if x.dtype.kind == "f":
        return (x / y).op("Floor")
    if x.dtype.kind == "u":
        return x / y
    quotient = x / y
    inexact = ~(quotient * y).equals(x)
    rounded_up = inexact & (x < 0).op("Xor", y < 0)
    return rounded_up.where(quotient - 1, quotient)


def floor_mod(x: Value, y: Value) -> Value:
    """The remainder with the sign of the divisor, like Python's `%`."""
    if x.dtype.kind != "f":
        return x.op("Mod", y)
    remainder = x.op("Mod", y, fmod=1)
    wrong_sign = ~remainder.equals(0) & (remainder < 0).op("Xor", y < 0)
    return wrong_sign.where(remainder + y, remainder)


def next_after(x: Value, y: Value) -> Value:
    """The next float after x towards y: x ± (phi |x| + eta), rounded, with phi = u (1 + 2 u).

    u is half the distance from 1 to the next larger float, eta the smallest positive float.
    Source: Rump, Zimmermann, Boldo, Melquiond: Computing predecessor and successor in rounding to
    nearest, BIT Numerical Mathematics 49 (2009), 419-431, algorithm 2.
    """
    limits = np.finfo(x.dtype)
    u = float(limits.eps) / 2
    step = abs(x) * (u * (1 + 2 * u)) + float(limits.smallest_subnormal)
    return x.equals(y).where(y, (y > x).where(x + step, x - step))


def comparison(compare: Callable[[Value, Value], Value]) -> Handler:
    """A handler for a comparison of two numbers. tf2onnx compares integers as float32.

    Here integers are compared as int64. One of the operands may be the iteration number of a loop,
    which is an int64 in ONNX whatever its dtype in TensorFlow.
    """

    def exact(x: Value) -> Value:
        return x.cast(np.int64) if x.dtype.kind in "iu" and x.dtype != np.uint64 else x

    return formula(lambda x, y: compare(exact(x), exact(y)))


def select(condition: Value, x: Value, y: Value) -> Value:
    """For each element, x or y. (tf2onnx multiplies by 1 and 0, which turns infinity into NaN.)"""
    return condition.where(x, y)


def arctan2(y: Value, x: Value) -> Value:
    """The angle of the point (x, y), computed for its mirror image in the first octant."""
    steep = abs(y) > abs(x)
    larger = steep.where(abs(y), abs(x))
    angle = (steep.where(abs(x), abs(y)) / larger.equals(0).where(1, larger)).op("Atan")
    angle = steep.where(math.pi / 2 - angle, angle)
    angle = _negative(x).where(math.pi - angle, angle)
    return _negative(y).where(-angle, angle)


def _negative(x: Value) -> Value:
    """Whether the sign bit is set, also that of minus zero: its reciprocal is minus infinity."""
    return (x < 0) | (x.equals(0) & ((1 / x) < 0))


def bitcast(graph: Any, node: Any, name: str, args: Any) -> None:
    """The bits of a float as an integer, if only the sign bit is read, as in `signbit`.

    Raises:
        UnsupportedUseError: other bits are read too, which ONNX cannot do.
    """
    dtype = numpy_dtype(attribute(node, "type"))
    if dtype.kind != "i":
        raise UnsupportedUseError("the bits of a tensor cannot be read as another type")
    sign_bit = np.iinfo(dtype).min
    for reader in graph.find_output_consumers(node.output[0]):
        masks = [x.get_tensor_value() for x in reader.inputs if x.is_const()]
        if reader.type != "BitwiseAnd" or masks != [sign_bit]:
            raise UnsupportedUseError("the bits of a tensor cannot be read as another type")

    def build(x: Value) -> Value:
        return _negative(x).where(x.const(sign_bit, dtype), x.const(0, dtype))

    replace_node(graph, node, build)
