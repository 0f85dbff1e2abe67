"""The methods of heat maps as nodes: the formulas of `layertap.cam.methods`, in float64.

Each takes the activations `A` and the gradient `G`, `(n, h, w, c)`, and returns a map `(n, h, w)`.
Methods that run the network many times, such as once for each channel, cannot be part of one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from layertap.cam.methods import Method, find_method
from layertap.errors import UsageError
from layertap_export.gradients.builder import Builder, Value

from .projections import kernel_principal, principal
from .tensors import or_one, reduced

Formula: TypeAlias = Callable[[Builder, Value, Value], Value]

POSITIONS, CHANNELS = (1, 2), (3,)
"""Axes."""


def _gradcam(build: Builder, a: Value, g: Value) -> Value:
    return _summed(build, a * _over(build, g) / _positions(build, g))


def _gradcam_plus_plus(build: Builder, a: Value, g: Value) -> Value:
    active = g.equals(0.0).op("Not").cast(g.dtype)
    share = _ratio(active, _over(build, a) * g + 2.0)
    return _summed(build, a * _over(build, share * g.op("Max", 0.0)))


def _xgradcam(build: Builder, a: Value, g: Value) -> Value:
    return _summed(build, a * _ratio(_over(build, g * a), _over(build, a)))


def _layercam(build: Builder, a: Value, g: Value) -> Value:
    return _summed(build, g.op("Max", 0.0) * a)


def _hirescam(build: Builder, a: Value, g: Value) -> Value:
    return _summed(build, g * a)


def _elementwise(build: Builder, a: Value, g: Value) -> Value:
    return _summed(build, (g * a).op("Max", 0.0))


def _eigengradcam(build: Builder, a: Value, g: Value) -> Value:
    return principal(build, g * a)


def _over(build: Builder, maps: Value) -> Value:
    """The sum over all positions, `(n, 1, 1, c)`."""
    return reduced(build, "ReduceSum", maps, POSITIONS)


def _positions(build: Builder, maps: Value) -> Value:
    """The number of positions, float64."""
    size = maps.shape().op("Gather", build.int64(POSITIONS), axis=0)
    return size.op("ReduceProd", keepdims=0).cast(maps.dtype)


def _summed(build: Builder, weighted: Value) -> Value:
    """The sum over the channels, `(n, h, w)`."""
    return reduced(build, "ReduceSum", weighted, CHANNELS).op("Squeeze", build.int64(CHANNELS))


def _ratio(over: Value, under: Value) -> Value:
    """The quotient; 0 where the denominator is 0."""
    return under.equals(0.0).where(over.like(0.0), over / or_one(under))


WITH_GRADIENT: Mapping[str, Formula] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "xgradcam": _xgradcam,
    "layercam": _layercam,
    "hirescam": _hirescam,
    "gradcamelementwise": _elementwise,
    "eigengradcam": _eigengradcam,
}
"""By name, the methods that explain a class."""

WITHOUT_GRADIENT: Mapping[str, Callable[[Builder, Value], Value]] = {
    "eigencam": principal,
    "kpcacam": kernel_principal,
}
"""By name, the methods whose map is the same for every class."""


def chosen(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: there is none, or one graph cannot compute it.
    """
    method = find_method(name)
    known = (*WITH_GRADIENT, *WITHOUT_GRADIENT)
    if method.name not in known:
        why = "runs the network many times, which one graph cannot"
        if method.of_attention:
            why = "joins the scores of many layers, which a finished file does not"
        raise UsageError(f"{method.name} {why}. A finished file can have {', '.join(known)}.")
    return method
