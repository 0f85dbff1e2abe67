"""The graph of a file, computed in float64 as it is written."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from layertap_export.graph.graph import leading_to

from .float64_operators import double, evaluator, in_double, tensor_in_double
from .written_file import WrittenFile

CONSTANTS = (math.pi, math.e, math.log(2), math.log(10), math.sqrt(2 / math.pi))
"""Constants that formulas of Keras have, as those of GELU."""

DIGITS = 6
"""Numbers of at most so many decimal digits are those of Keras's code."""


def in_float64(
    file: WrittenFile,
    tensors: Sequence[str],
    feeds: Mapping[str, NDArray[Any]],
    until: float,
    *,
    unrounded: bool = False,
) -> dict[str, NDArray[Any]]:
    """The values of tensors; empty if the reference evaluator cannot compute them in time.

    Args:
        file: the file.
        tensors: names of tensors in its graph.
        feeds: a value for each of the model's inputs.
        until: the value of `time.monotonic()` at which to give up.
        unrounded: read a number like 0.1, which float32 rounds, as that number.
    """
    graph = file.model.graph
    nodes, needed = leading_to(graph.node, tensors)
    weights = [file.loaded(x) for x in graph.initializer if x.name in needed]
    if unrounded:
        weights = [_unrounded(x) for x in weights]
    part = helper.make_graph(
        [in_double(node) for node in nodes],
        "part",
        [onnx.ValueInfoProto(name=name) for name in feeds if name in needed],
        [onnx.ValueInfoProto(name=name) for name in tensors],
        [tensor_in_double(x) for x in weights],
    )
    model = helper.make_model(part, opset_imports=file.model.opset_import, ir_version=8)
    given = {name: double(value) for name, value in feeds.items() if name in needed}
    try:
        found = evaluator(model, until).run(None, given)
    except Exception:  # noqa: BLE001 - it raises errors of any class, and TimeUp
        return {}
    return dict(zip(tensors, map(np.asarray, found), strict=True))


def _number(value: Any) -> float | None:
    """The number that was rounded to a value in float32; `None` if there is none that is likely: a
    short decimal, one over a whole number, a root of either, or one of `CONSTANTS`."""
    single = float(np.float32(value))
    size = abs(single)
    candidates = [float(f"{size:.{DIGITS - 1}e}"), *CONSTANTS]
    if 1e-6 < size < 1e6:
        candidates += [math.sqrt(round(size**2)), *(1 / x for x in _whole(size))]
    for number in candidates:
        if float(np.float32(number)) == size:
            return math.copysign(number, single)
    return None


def _whole(size: float) -> list[float]:
    """The nearest whole number to the inverse of a size, and the root of that to its square."""
    return [x for x in (round(1 / size), math.sqrt(round(size**-2))) if x]


def _unrounded(item: onnx.TensorProto) -> onnx.TensorProto:
    """A number in float64, as it was before it was rounded, if that can be told."""
    if item.data_type != onnx.TensorProto.FLOAT or np.prod(item.dims) != 1:
        return item
    value = numpy_helper.to_array(item)
    number = _number(value.ravel()[0])
    wide = value.astype(np.float64) if number is None else np.full(value.shape, number)
    return numpy_helper.from_array(wide, item.name)


def has_only_weights(file: WrittenFile, weights: Iterable[NDArray[Any]]) -> bool:
    """Whether a file has no weights that were computed from those of its model.

    It has one if fewer than half of a tensor's values are values of the model's weights, with or
    without their signs. (One of which some rows are wrong still counts as taken from the model.)
    Short decimal numbers count as numbers of Keras's code.
    """
    known = np.unique(np.concatenate([[0.0], *(np.abs(x).ravel() for x in weights)]))
    for item in _floats(file):
        value = numpy_helper.to_array(file.loaded(item))
        if value.size == 1 and _number(value.ravel()[0]) is not None:
            continue
        if _share(value, known) < 0.5:
            return False
    return True


def _floats(file: WrittenFile) -> Collection[onnx.TensorProto]:
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    items = file.model.graph.initializer
    return [x for x in items if x.data_type in kinds and np.prod(x.dims)]


def _share(value: NDArray[Any], known: NDArray[Any]) -> float:
    return float(np.isin(np.abs(value), known).mean())
