"""Changing the size of images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from layertap_export.gradients.builder import Value
from layertap_export.gradients.step import Gradients, Rule, Step

KEPT = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a")
"""Attributes of a Resize that apply to each axis separately."""


def resize(step: Step) -> Gradients:
    """y = M x along each axis that is resized: M' g.

    The matrix M is the same Resize of the unit matrix.
    """
    step.only(0)
    _check(step)
    axes = step.attribute("axes") or range(len(step.dims))
    g = step.gradient
    sizes = step.build.dims(step.y)
    for index, axis in enumerate(axes):
        axis %= len(step.dims)
        if step.dims[axis] != sizes[axis]:
            g = _along(step, g, axis, index)
    return [g]


def _check(step: Step) -> None:
    mode = step.text("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_crop_and_resize":
        raise step.unsupported(f"with coordinate_transformation_mode {mode!r}")
    policy = step.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise step.unsupported(f"with keep_aspect_ratio_policy {policy!r}")


def _along(step: Step, g: Value, axis: int, index: int) -> Value:
    """M' g along one axis."""
    rank = len(step.dims)
    matrix = _matrix(step, axis, index)
    if axis == rank - 1:
        return g.op("MatMul", matrix)
    if axis == rank - 2:
        return matrix.op("Transpose", perm=[1, 0]).op("MatMul", g)
    perm = [*(other for other in range(rank) if other != axis), axis]
    back = [perm.index(other) for other in range(rank)]
    return g.op("Transpose", perm=perm).op("MatMul", matrix).op("Transpose", perm=back)


def _matrix(step: Step, axis: int, index: int) -> Value:
    """M of one axis, `(size in y, size in x)`."""
    build, x = step.build, step.x
    cells = build.vector([build.size(x, axis)])
    zero = build.zeros(build.vector([cells, cells]), x.dtype)
    image = zero.op("EyeLike").op("Reshape", build.vector([1, 1, cells, cells]))
    attributes = {name: step.attributes[name] for name in KEPT if name in step.attributes}
    for name in ("exclude_outside", "antialias"):
        if step.attribute(name, 0):
            attributes[name] = step.attribute(name)
    if step.has(2):
        scale = step.input(2).op("Slice", build.int64([index]), build.int64([index + 1]))
        one = build.constant(np.ones(1, np.float32))
        scales = build.node("Concat", one, one, scale, one, axis=0)
        resized = image.op("Resize", None, scales, **attributes)
    else:
        whole = build.vector([1, 1, build.size(step.y, axis), cells])
        resized = image.op("Resize", None, None, whole, **attributes)
    return resized.op("Reshape", build.vector([-1, cells]))


RULES: Mapping[str, Rule] = {
    "Resize": resize,
}
"""The rules of this theme, by operator."""
