"""Recognises standard deviations: the root of a mean of squares plus an epsilon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx

from layertap.format.layer import Shape

from .formulas import Formulas
from .graph import attribute
from .operators import is_stop


class Deviation(NamedTuple):
    """The deviation of a tensor from its mean, or from 0: sqrt(mean((x - mean(x))^2) + epsilon)."""

    root: str
    """The deviation itself."""
    tensor: str
    centred: str
    """The tensor less its mean; empty if the deviation is that from 0, or if the mean in it is one
    through which no gradient flows. In a variance that makes no difference."""
    mean: str
    """Empty if the deviation is that from 0."""
    axes: tuple[int, ...]
    """In order. The mean keeps them, with size 1."""
    epsilon: float


def deviation(
    root: onnx.NodeProto, formulas: Formulas, shapes: Mapping[str, Shape]
) -> Deviation | None:
    """The deviation that a Sqrt ends, in float32; `None` if it ends something else."""
    total = formulas.maker(root.input[0], "Add")
    if total is None:
        return None
    for name, other in (total.input, reversed(total.input)):
        variance = formulas.maker(name, "ReduceMean")
        epsilon = formulas.values.get(formulas.source(other))
        axes = _axes(variance, formulas, shapes)
        if variance is not None and epsilon is not None and axes is not None:
            base = _squared(variance.input[0], formulas)
            if base is None or epsilon.dtype != np.float32 or epsilon.size != 1:
                return None
            found = Deviation(root.output[0], base, "", "", axes, float(epsilon.reshape(())))
            return _from_mean(found, formulas, shapes)
    return None


def _from_mean(found: Deviation, formulas: Formulas, shapes: Mapping[str, Shape]) -> Deviation:
    """The deviation from the mean, if what is squared is a tensor less its mean."""
    centred = formulas.maker(found.tensor, "Sub")
    if centred is None:
        return found
    tensor, subtracted = map(formulas.source, centred.input)
    stop = formulas.maker(subtracted, "Dropout")  # Keras stops the gradient of a mean
    stopped = stop is not None and is_stop(stop)
    behind = stop.input[0] if stop is not None and stopped else subtracted
    mean = formulas.maker(behind, "ReduceMean")
    if mean is None or formulas.source(mean.input[0]) != tensor:
        return found
    if _axes(mean, formulas, shapes) != found.axes:
        return found
    return found._replace(
        tensor=tensor, centred="" if stopped else centred.output[0], mean=mean.output[0]
    )


def _squared(name: str, formulas: Formulas) -> str | None:
    """The tensor of which a tensor is the square."""
    node = formulas.maker(name, "Mul", "Pow")
    if node is None:
        return None
    one, other = map(formulas.source, node.input)
    same = one == other if node.op_type == "Mul" else formulas.number(other) == 2.0
    return one if same else None


def _axes(
    node: onnx.NodeProto | None, formulas: Formulas, shapes: Mapping[str, Shape]
) -> tuple[int, ...] | None:
    """The axes of a ReduceMean that keeps them, in order; `None` if they are not known."""
    shape = None if node is None else shapes.get(node.input[0])
    if node is None or shape is None or attribute(node, "keepdims", 1) != 1:
        return None
    if len(node.input) > 1 and node.input[1]:
        cast = formulas.maker(node.input[1], "Cast")  # tf2onnx makes them int64
        name = formulas.source(cast.input[0] if cast is not None else node.input[1])
        value = formulas.values.get(name)
        axes = [] if value is None else value.reshape(-1).tolist()
    else:
        axes = list(attribute(node, "axes", ()))
    return tuple(sorted(axis % len(shape) for axis in axes)) or None
