"""Checking gradients without TensorFlow: by central differences in float64.

A layer's activation is moved by a small step forwards and backwards along a random direction, and
the rest of the network is computed in float64 by the `onnx` package's reference evaluator. The
difference of the scores, divided by the two steps, is the gradient along that direction. In float64
a step of 1e-7 of the activation's size leaves about eight correct digits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from layertap._engine.stopping import STOPPED, time_left, time_limit
from layertap.comparing.measures import difference
from layertap.errors import RunTimeoutError
from layertap.format.card import Gradients
from layertap_export.errors import ExportError
from layertap_export.gradients.targets import Differentiated, SourceFinder, forward_half
from layertap_export.graph.graph import between, makers, reads
from layertap_export.graph.operators import is_stop

from .float64_operators import TimeUp, double, evaluator, in_double, tensor_in_double
from .written_file import WrittenFile, tensor_types

Scores: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

DEFAULT_SECONDS = 60.0
"""How long gradients are compared unless the caller says otherwise."""

FIRST_SECONDS = 5.0
"""How long the first comparison may take at least."""

SHORTEST = 1e-3
"""Seconds; a limit must be greater than 0."""

DIRECTION_COUNT = 2
"""Random directions per layer."""

FIRST_STEP = 1e-7
"""The first step, as a share of the activation's root mean square."""


VISIBLE_CHANGE, STEP_COUNT = 1e-10, 7
"""The smallest change of the scores, as a share of the largest score, and the number of steps that
are tried to reach it, each a hundred times the one before."""

EVALUATOR_TOLERANCE = 1e-3
"""The largest scaled difference between onnxruntime and the reference evaluator. A file that
computes in 16 bits may differ by more, see `layertap.format.narrow`."""

LARGE_STEP = 1e-3
"""The step from which a smaller one must confirm the result, as a share of the activation."""

OFFSET = 1e-2
"""How far from the real activation the gradient is compared, as a share of the activation."""


KINK_SUSPECTED = 1e-5
"""The difference, as a share of the gradient's length, from which kinks are looked for.

The file computes in float32. Where a value is within rounding of a kink, such as 0 before a relu,
it may be on the other side than in float64, and have the other slope. How much that matters is
measured by how the gradient changes with tiny changes of the activation."""

NEIGHBOUR_OFFSET, NEIGHBOUR_COUNT = 1e-5, 8
"""The size of those changes, as a share of the activation, and how many are tried.

In a file that computes in 16 bits, both are at least the rounding of its dtype."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slopes:
    """How the score changes along some directions of a layer, by the gradient and by differences.

    In units of the gradient's length, so that a direction of normal numbers has a slope of about 1.
    """

    ours: NDArray[np.float64]
    """By the gradient in the file, a number per direction and set of weights."""
    expected: NDArray[np.float64]
    """By central differences."""

    def joined(self, other: Slopes | None) -> Slopes:
        """With the slopes of the same layer on another batch, if it was compared there."""
        if other is None:
            return self
        both = [(self.ours, other.ours), (self.expected, other.expected)]
        ours, expected = map(np.concatenate, both)
        return Slopes(ours=ours, expected=expected)

    @property
    def max_abs(self) -> float:
        """The largest difference."""
        return difference(self.ours, self.expected).max_abs

    @property
    def scaled(self) -> float:
        """The largest difference, divided by the largest slope."""
        return difference(self.ours, self.expected).scaled


def compare(
    file: WrittenFile,
    gradients: Gradients,
    tensors: Mapping[str, str],
    feeds: Mapping[str, NDArray[Any]],
    seconds: float,
    first: float = FIRST_SECONDS,
) -> dict[str, Slopes]:
    """Compare gradients with central differences, until the time is up.

    Args:
        file: the file with gradients.
        gradients: the card's entry for them.
        tensors: by name of a layer or input, the tensor that it is.
        feeds: a value for each of the model's inputs.
        seconds: how long this may take. The last layers come first, as the rest of the network is
            short there, then the first layer, and then those in between. A comparison that takes
            too long is cut short.
        first: how long the first comparison may take in any case.

    Returns:
        By name, those that were compared in time and that float64 has enough digits for.

    Raises:
        RunTimeoutError: the caller's `time_limit` has ended.
    """
    started = time.monotonic()
    forward, scores = forward_half(file.model.graph, gradients)
    sources = SourceFinder(forward, scores)
    targets = {name: sources.find(name, tensors[name], ()) for name in gradients.tensors}
    found: dict[str, Slopes] = {}
    until = started + min(max(seconds, first), time_left())
    for target in _in_turn(list(targets.values()), forward):
        try:
            # NaN and infinity are no slopes, but no errors either.
            with np.errstate(all="ignore"), time_limit(max(until - time.monotonic(), SHORTEST)):
                slopes = _Check(file, gradients, target, forward, scores, feeds, until).result()
        except (TimeUp, RunTimeoutError):
            break
        if slopes is not None:
            found[target.name] = slopes
            until = min(until, started + seconds)
        if time.monotonic() > until:
            break
    time_left()
    return found


def _in_turn(
    targets: Sequence[Differentiated], nodes: Sequence[onnx.NodeProto]
) -> Iterator[Differentiated]:
    """The last, the first, and then those in between, evenly."""
    made = {name: index for index, name in enumerate(makers(nodes))}
    ordered = sorted(targets, key=lambda target: made.get(target.source, -1))
    last = len(ordered) - 1
    yield ordered[last]
    if last:
        yield ordered[0]
    gaps = [(0, last)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            yield ordered[middle]
            gaps += [(low, middle), (middle, high)]


class _Check:
    """The comparison of one gradient with differences."""

    def __init__(
        self,
        file: WrittenFile,
        gradients: Gradients,
        target: Differentiated,
        forward: Sequence[onnx.NodeProto],
        scores: str,
        feeds: Mapping[str, NDArray[Any]],
        until: float,
    ) -> None:
        self._file, self._weights, self._until = file, gradients.weights, until
        self._sessions: dict[Any, Any] = {}
        narrow = file.narrow.get(scores)
        self._rounding = narrow.rounding if narrow else 0.0
        self._inexact = narrow.tolerance if narrow else 0.0
        self._output = gradients.tensors[target.name]
        self._source, self._movers, self._scores = target.source, target.movers, scores
        # What follows a `stop_gradient` counts as constant.
        self._tail = between(
            [node for node in forward if not is_stop(node)], [self._source], [scores]
        )
        made = {output for node in self._tail for output in node.output}
        known = {*made, self._source, *(item.name for item in file.model.graph.initializer)}
        read = dict.fromkeys(name for node in self._tail for name in reads(node))
        self._border = [name for name in read if name not in known]
        # A Reshape may take its shape from the graph.
        moved = {output for node in self._movers for output in node.output}
        known = {*moved, self._source, *(item.name for item in file.model.graph.initializer)}
        used = dict.fromkeys(name for node in self._movers for name in reads(node))
        self._shapes = [name for name in used if name not in known]
        self._values = self._run([self._source, *self._border, *self._shapes, scores], feeds)

    def result(self) -> Slopes | None:
        """`None` where float64 has too few digits, or the reference evaluator differs.

        Raises:
            TimeUp: there was no time for any direction.
        """
        generator = np.random.default_rng(0)
        activation = self._values[self._source]
        size = float(np.sqrt(np.mean(np.square(activation.astype(np.float64))))) or 1.0
        # With an offset: where a value is exactly 0, a relu has two slopes.
        x = activation + (OFFSET * size * generator.normal(size=activation.shape))
        x = x.astype(activation.dtype).astype(np.float64)
        scores = self._scores_of()
        if not self._computes(scores, x):
            return None
        shape = self._values[self._scores].shape
        mixes = [np.ones(shape), *(generator.uniform(-1, 1, shape) for _ in range(2))]
        rows = [self._gradient(x, mix) for mix in mixes]
        reach = max(NEIGHBOUR_OFFSET, self._rounding) * size
        nearby = [x + reach * generator.normal(size=x.shape) for _ in range(NEIGHBOUR_COUNT)]
        # One length for all weights: the sum of a softmax never changes, so its gradient is 0.
        length = float(max(map(np.linalg.norm, rows))) or 1.0
        suspected = max(KINK_SUSPECTED, self._rounding)
        ours: list[float] = []
        expected: list[float] = []
        for _ in range(DIRECTION_COUNT):
            direction = generator.normal(size=x.shape)
            try:
                change = _change(scores, x, direction, size)
            except TimeUp:
                if not ours:
                    raise
                break
            if change is None:
                return None
            shown = self._laid_out(direction)
            for mix, row in zip(mixes, rows, strict=True):
                slope, want = float(np.sum(row * shown)), float(np.sum(mix * change))
                if abs(slope - want) > suspected * length:
                    others = [float(np.sum(self._gradient(y, mix) * shown)) for y in nearby]
                    jump = max(others) - min(others)
                    slope = want + np.sign(slope - want) * max(abs(slope - want) - jump, 0.0)
                ours.append(slope / length)
                expected.append(want / length)
        return Slopes(ours=np.array(ours), expected=np.array(expected))

    def _scores_of(self) -> Scores:
        """The scores as a function of the layer, in float64."""
        if self._source == self._scores:
            return lambda x: x
        if not self._tail:
            return lambda x: np.zeros(self._values[self._scores].shape)
        tail = self._evaluator()
        border = {name: double(self._values[name]) for name in self._border}
        return lambda x: np.asarray(tail.run(None, {**border, self._source: x})[0])

    def _computes(self, scores: Scores, x: NDArray[np.float64]) -> bool:
        """Whether the evaluator computes what onnxruntime does; it lacks some operators."""
        if not self._tail:
            return True
        given = {name: self._values[name] for name in self._border}
        given[self._source] = x.astype(self._values[self._source].dtype)
        expected = self._run([self._scores], given)[self._scores]
        try:
            found = scores(x)
        except TimeUp:
            raise
        except Exception:  # noqa: BLE001 - it raises errors of any class
            return False
        apart = difference(found, expected, same_dtype=False).scaled
        return apart <= max(EVALUATOR_TOLERANCE, self._inexact) and bool(
            np.isfinite(expected).all()
        )

    def _gradient(self, x: NDArray[np.float64], mix: NDArray[np.float64]) -> NDArray[np.float64]:
        """The gradient in the file for a value of the layer; what else it reads is as recorded."""
        given = {name: self._values[name] for name in self._border}
        given[self._source] = x.astype(self._values[self._source].dtype)
        if not self._tail:
            given.setdefault(self._scores, self._values[self._scores])
        given[self._weights] = mix.astype(self._values[self._scores].dtype)
        return self._run([self._output], given)[self._output].astype(np.float64)

    def _run(
        self, names: Sequence[str], given: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Values of tensors, computed by onnxruntime from the values of others."""
        asked = [name for name in dict.fromkeys(names) if name not in given]
        key = tuple(asked), tuple(given)
        if key not in self._sessions:
            self._sessions[key] = self._file.part(asked, tensor_types(given))
        opened = self._sessions[key]
        feeds = {value.name: given[value.name] for value in opened.get_inputs()}
        try:
            found = opened.run(asked, feeds)
        except STOPPED:
            raise
        except Exception as exc:
            raise ExportError(f"onnxruntime cannot run the file with gradients: {exc}") from exc
        return {
            **{k: given[k] for k in names if k in given},
            **dict(zip(asked, found, strict=True)),
        }

    def _evaluator(self) -> Any:
        """The part of the network after the layer, in float64."""
        read = {name for node in self._tail for name in reads(node)}
        graph = helper.make_graph(
            [in_double(node) for node in self._tail],
            "tail",
            [onnx.ValueInfoProto(name=name) for name in (self._source, *self._border)],
            [onnx.ValueInfoProto(name=self._scores)],
            [tensor_in_double(item) for item in self._weights_of(read)],
        )
        return evaluator(
            helper.make_model(graph, opset_imports=self._file.model.opset_import, ir_version=8),
            self._until,
        )

    def _weights_of(self, names: Collection[str]) -> list[onnx.TensorProto]:
        items = self._file.model.graph.initializer
        return [self._file.loaded(item) for item in items if item.name in names]

    def _laid_out(self, direction: NDArray[np.float64]) -> NDArray[np.float64]:
        """A direction in the layer's layout."""
        if not self._movers:
            return direction
        read = {name for node in self._movers for name in reads(node)}
        graph = helper.make_graph(
            [in_double(node) for node in self._movers],
            "movers",
            [onnx.ValueInfoProto(name=name) for name in (self._source, *self._shapes)],
            [onnx.ValueInfoProto(name=self._movers[-1].output[0])],
            self._weights_of(read),
        )
        model = helper.make_model(graph, opset_imports=self._file.model.opset_import, ir_version=8)
        shapes = {name: self._values[name] for name in self._shapes}
        (shown,) = evaluator(model).run(None, {**shapes, self._source: direction})
        return np.asarray(shown, np.float64)


def _change(
    scores: Scores,
    x: NDArray[np.float64],
    direction: NDArray[np.float64],
    size: float,
) -> NDArray[np.float64] | None:
    """How fast the scores change along a direction; `None` where float64 has too few digits.

    The step grows until the scores change: activations may be tiny compared with what is added to
    them later. A step that is as large as the activations must be confirmed by a smaller one.

    Args:
        size: of the activation.
    """

    def slope(step: float) -> tuple[NDArray[np.float64], bool]:
        ahead, behind = scores(x + step * direction), scores(x - step * direction)
        shows = np.abs(ahead - behind).max() >= VISIBLE_CHANGE * np.abs(ahead).max()
        return (ahead - behind) / (2 * step), bool(shows)

    step = FIRST_STEP * size
    for _ in range(STEP_COUNT):
        found, shows = slope(step)
        if shows:
            break
        step *= 100
    if step < LARGE_STEP * size or not np.any(found):
        return found
    other, _ = slope(step / 3)
    return found if np.abs(found - other).max() < 1e-5 * np.abs(found).max() else None
