"""The discrete Fourier transform of complex numbers, each a pair of real numbers."""

from __future__ import annotations

from collections.abc import Mapping

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step

AXIS_BY_INPUT = 20
"""The opset from which on DFT takes its axis as an input."""


def transform(step: Step) -> Gradients:
    """F^H g, where F is the matrix of the transform: n times its inverse.

    For the inverse, which is F^H / n, it is F g / n. A real input gets the real part of that. The
    half of the spectrum that a one-sided transform leaves out counts as 0.
    """
    step.only(0)
    axis, inverse = _axis(step), bool(step.attribute("inverse", 0))
    parts, onesided = step.dims[-1], bool(step.attribute("onesided", 0))
    if parts not in (1, 2):
        raise step.unsupported("of an input with a last axis of free size")
    if onesided and inverse:
        raise step.unsupported("of a one-sided spectrum")
    if step.has(1):
        (given,) = step.integers(1) or [None]
        if given is None or given != step.dims[axis]:
            raise step.unsupported("that truncates or pads its input")
    count = step.build.count(step.x, [axis])
    length = step.build.int64(count) if isinstance(count, int) else count
    factor = count if isinstance(count, int) else count.cast(step.gradient.dtype)
    found = _dft(step, length if onesided else None, axis, inverse=not inverse)
    found = found / factor if inverse else found * factor
    return [found if parts == 2 else found.op("Slice", *map(step.build.int64, ([0], [1], [-1])))]


def _axis(step: Step) -> int:
    if step.build.opset < AXIS_BY_INPUT:
        return step.axis(1)
    if not step.has(2):
        return len(step.dims) - 2
    (axis,) = step.integers(2) or [None]
    if not isinstance(axis, int):
        raise step.unsupported("with a computed axis")
    return axis % len(step.dims)


def _dft(step: Step, length: Value | None, axis: int, *, inverse: bool) -> Value:
    """The transform of the gradient, padded with zeros to a length."""
    if step.build.opset < AXIS_BY_INPUT:
        return step.gradient.op("DFT", length, axis=axis, inverse=int(inverse))
    return step.gradient.op("DFT", length, step.build.int64(axis), inverse=int(inverse))


RULES: Mapping[str, Rule] = {
    "DFT": transform,
}
"""The rules of this theme, by operator."""
