"""How far a quantised file is from the file that it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

import layertap
from layertap._engine.program import program_of
from layertap._engine.session import plain_session
from layertap.comparing.golden import largest
from layertap.comparing.measures import difference, scaled
from layertap.format.card import TensorInfo
from layertap_export.graph.graph import (
    attribute,
    input_types,
    is_standard,
    makers,
    subgraph,
)
from layertap_export.graph.operators import views

from .user_samples import UserBatch

Sample = Mapping[str, NDArray[Any]]
"""One sample of each input of a model, by name, with its axis of samples."""

Rows: TypeAlias = "Sequence[Mapping[str, NDArray[Any]]]"
"""By batch, the outputs by name."""

AT_ONCE = 8
"""How many samples are run at once."""

RESERVE = 0.75
"""The share of a budget that is used for an output whose scores are not compared: other samples
than those that were seen may be further apart."""

MOST_LAYERED = 4
"""On how many samples all layers are compared. Outputs are compared on all samples."""

MOST_ALONE = 2
"""On how many samples it is measured what each layer does alone."""


def samples(batches: Iterable[UserBatch], inputs: Sequence[TensorInfo]) -> list[dict[str, Any]]:
    """The user's batches as single samples, where the model takes any number of them."""
    names = [info.name for info in inputs]
    free = all(info.shape and info.shape[0] is None for info in inputs)
    return [
        {
            name: array[row : row + 1] if free else array
            for name, array in zip(names, arrays, strict=True)
        }
        for _, arrays in batches
        for row in range(len(arrays[0]) if free else 1)
    ]


def joined(given: Sequence[Sample], inputs: Sequence[TensorInfo]) -> Iterator[Sample]:
    """Samples as batches: consecutive samples of one size, up to `AT_ONCE` of them."""
    free = all(info.shape and info.shape[0] is None for info in inputs)
    group: list[Sample] = []
    for one in given:
        same = group and all(one[name].shape == value.shape for name, value in group[0].items())
        if group and not (free and same and len(group) < AT_ONCE):
            yield _joined(group)
            group = []
        group.append(one)
    if group:
        yield _joined(group)


def _joined(group: Sequence[Sample]) -> Sample:
    if len(group) == 1:
        return group[0]
    return {name: np.concatenate([one[name] for one in group]) for name in group[0]}


class Outputs:
    """The outputs of a model on some samples, and how far other models are from them.

    An image of which the model is sure hides an error: its probabilities are near 0 and 1, and
    hardly change. Of an output that ends in a softmax or sigmoid, the scores before it are compared
    as well: if they are apart by d, or the differences of two of them by d, then a probability is
    apart by at most d / 4, and by that if it is 1/2.
    """

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], given: Sequence[Sample]):
        """
        Args:
            model: all weights inside.
            names: of its outputs; those that are not numbers with a point are not compared.
            given: what is run, in batches.
        """
        self._given = given
        values = {info.name: info for info in model.graph.output}
        single = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
        self.names = tuple(
            name for name in names if values[name].type.tensor_type.elem_type in single
        )
        self._scores = {name: _scores(model, name) for name in self.names}
        self._expected = self.run(model)
        self._scales = {
            name: max((largest(row[name].ravel()) for row in self._expected), default=0.0)
            for name in self.names
        }

    def run(self, model: onnx.ModelProto) -> Rows:
        """The outputs of a model by batch, as any client of onnxruntime computes them."""
        scores = {name: _scores(model, name) for name in self.names}
        fetched = [*self.names, *(one.name for one in scores.values() if one)]
        if not fetched:
            return [{} for _ in self._given]
        part = subgraph(model, fetched, input_types(model))
        session = plain_session(part.SerializeToString())
        read = {value.name for value in session.get_inputs()}
        rows = []
        for one in self._given:
            fed = {name: value for name, value in one.items() if name in read}
            values = dict(zip(fetched, session.run(fetched, fed), strict=True))
            before = {_before(name): values[x.name] for name, x in scores.items() if x}
            rows.append({**{name: values[name] for name in self.names}, **before})
        return rows

    def reserve(self, name: str) -> float:
        """The share of a budget that may be used for an output."""
        return RESERVE if self._scores[name] is None else 1.0

    def errors(self, model: onnx.ModelProto) -> dict[str, float]:
        """By output, the largest difference over all samples, divided by its largest value."""
        return self.apart(self.run(model))

    def of_layers(self, file: layertap.Model) -> Rows:
        """The outputs of a file, computed as layers are: one operator after the other."""
        fetch = program_of(file).fetch(self.names)
        found = [fetch(one) for one in self._given]
        return [{name: np.asarray(one[name]) for name in self.names} for one in found]

    def apart(self, rows: Rows, expected: Rows | None = None) -> dict[str, float]:
        """How far results are apart: from those of the original, unless others are given."""
        found = dict.fromkeys(self.names, 0.0)
        pairs = zip(rows, self._expected if expected is None else expected, strict=True)
        for actual, wanted in pairs:
            for name in self.names:
                scale = self._scales[name]
                error = difference(actual[name], wanted[name], least_scale=scale).scaled
                scores = self._scores[name]
                key = _before(name)
                if scores is not None and key in actual and key in wanted:
                    most = scores.most_apart(actual[key], wanted[key])
                    error = np.maximum(error, scaled(most, scale))
                found[name] = float(np.maximum(found[name], error))
        return found


def _before(output: str) -> str:
    """The key of the scores of an output among the results."""
    return f"{output} before its activation"


class _Scores(NamedTuple):
    """The scores that a softmax or sigmoid makes probabilities of."""

    name: str
    axis: int | None
    """The axis of a softmax; `None` for a sigmoid."""

    def most_apart(self, actual: NDArray[Any], expected: NDArray[Any]) -> float:
        """By how much a probability is apart at most, for scores that are so far apart."""
        apart = actual.astype(np.float64) - expected
        if self.axis is None:
            return float(np.abs(apart).max(initial=0.0)) / 4
        return float(np.ptp(apart, axis=self.axis).max(initial=0.0)) / 4 if apart.size else 0.0


def _scores(model: onnx.ModelProto, output: str) -> _Scores | None:
    """The scores before the softmax or sigmoid that an output ends in, if it does."""
    made = makers(model.graph.node)
    *_, source = views(output, made)
    node = made.get(source)
    if node is None or not is_standard(node) or node.op_type not in ("Softmax", "Sigmoid"):
        return None
    axis = int(attribute(node, "axis", -1)) if node.op_type == "Softmax" else None
    return _Scores(node.input[0], axis)


def layer_errors(
    source: layertap.Model, file: layertap.Model, tensors: Sequence[str], given: Sequence[Sample]
) -> dict[str, float]:
    """By tensor, the largest difference over some samples, divided by its largest value.

    The runtime computes both files as it computes layers, one operator after the other.
    """
    apart = dict.fromkeys(tensors, 0.0)
    scales = dict.fromkeys(tensors, 0.0)
    expect, run = program_of(source).fetch(tensors), program_of(file).fetch(tensors)
    for one in given:
        expected, actual = expect(one), run(one)
        for name in tensors:
            error = difference(np.asarray(actual[name]), np.asarray(expected[name])).max_abs
            apart[name] = float(np.maximum(apart[name], error))
            scales[name] = max(scales[name], largest(np.asarray(expected[name]).ravel()))
    return {name: scaled(apart[name], scales[name]) for name in tensors}
