"""Gradients of a class's score with respect to layers, computed by the file itself.

A file with gradients differentiates `sum(weights * scores)` for each sample; the weights are an
additional input, which has ones as its default in some files and has to be fed in others. If one
sample can be combined with several rows of weights, several targets take one run. Otherwise, or if
the targets depend on the scores, the network runs up to the first of the layers once, and from
there on for each target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from layertap._cut import boundary
from layertap._engine.empty import is_empty_batch, with_samples
from layertap.errors import ModelFileError
from layertap.format.select import Selector, as_selectors, is_single

from . import available, targets
from .axes import copies, sample_axis
from .places import At
from .scores import (
    as_classes_last,
    class_axis,
    classes_last,
    ends_in_activation,
    labels_of,
    static_shape,
)
from .targets import Array, Target, Targets

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap._engine.program import Fetch, Program
    from layertap.format.card import Gradients


def layer_gradients(
    program: Program,
    inputs: Any,
    layers: Selector | Iterable[Selector] | None = None,
    target: Target = targets.TOP,
    preprocess: Recipe | None = None,
    at: At | None = None,
) -> Any:
    """See `Model.gradients`."""
    gradients = available.require(program)
    asked = _listed(program, layers)
    wanted = choose(program, gradients, asked)
    feeds = prepare(program, gradients, wanted.values(), (), inputs, preprocess)
    kept = slice(None)
    if is_empty_batch(feeds):  # the gradients of one sample have the right shape
        feeds, kept = with_samples(feeds, 1), slice(0)
    found = differentiate(program, gradients, feeds, wanted, (), target, at)
    values = {
        name: g[kept] if found.targets.several else np.moveaxis(g[kept, 0], 0, found.rows[name])
        for name, g in found.gradients.items()
    }
    return next(iter(values.values())) if is_single(program.layers, asked) else values


def _listed(program: Program, layers: Any) -> Any:
    """The selectors, with iterables as lists, and `None` for all layers that have a gradient."""
    if layers is None:
        return None
    if type(layers).__name__ in ("bool", "bool_"):  # as for an export
        return None if layers else []
    if isinstance(layers, str) and layers == "all" and not _names(program, layers):
        return None
    return as_selectors(layers)


def _names(program: Program, text: str) -> bool:
    """Whether a text is the name of a layer."""
    return any(layer.name == text for layer in program.layers)


def choose(program: Program, gradients: Gradients, layers: Any) -> dict[str, str]:
    """The gradients' tensors by name of the layer or input, in the order requested.

    Args:
        layers: a selector, a list of them, or `None` for all.

    Raises:
        LayerNotFoundError: a selector matches nothing, or only layers without a gradient.
    """
    if layers is None:
        return dict(gradients.tensors)
    wanted: dict[str, str] = {}
    for one in layers if isinstance(layers, (list, tuple)) else [layers]:
        if isinstance(one, str) and one in gradients.tensors:
            names = [one]
        elif is_single(program.layers, one):
            names = [program.layer(one).name]
        else:
            found = [layer.name for layer in program.select(one)]
            names = [name for name in found if name in gradients.tensors] or found
        for name in names:
            if name not in gradients.tensors:
                raise available.missing(program, gradients.tensors, name)
            wanted[name] = gradients.tensors[name]
    return wanted


class Differentiated(NamedTuple):
    """The result for a batch."""

    gradients: dict[str, Array]
    """By name of a layer or input, `(n, targets, ...)` with the other axes of the layer's shape."""
    rows: dict[str, int]
    """By name, the axis of the layer's shape along which the samples are."""
    values: dict[str, Any]
    """The other requested tensors."""
    targets: Targets

    def of(self, name: str, at: int) -> Array:
        """The gradient of one target, with the axes of the layer's shape."""
        return np.moveaxis(self.gradients[name][:, at], 0, self.rows[name])


def prepare(
    program: Program,
    gradients: Gradients,
    wanted: Iterable[str],
    also: Iterable[str],
    inputs: Any,
    preprocess: Recipe | None,
) -> dict[str, Any]:
    """Arrays by input name, for `differentiate`."""
    if gradients.weights not in program.graph.optional:
        made = (name for node in program.graph.nodes for name in node.writes)
        if gradients.weights in program.graph.initializers or gradients.weights in made:
            raise available.fixed_class(program, gradients)
        raise program.missing_tensor(gradients.weights)
    plan = program.plan([*wanted, *also, gradients.output])
    return program.prepare_arrays(plan.needs, inputs, preprocess)


def differentiate(
    program: Program,
    gradients: Gradients,
    feeds: Mapping[str, Any],
    wanted: Mapping[str, str],
    also: Sequence[str],
    target: Target | Targets,
    at: At | None = None,
) -> Differentiated:
    """Compute gradients of the targets' scores, and other tensors for the same batch.

    Args:
        feeds: values by input name, from `prepare`.
        wanted: tensors of gradients, by name of the layer or input.
        also: further tensors.
        at: the places of the scores, see `places.weights_at`; all of them by default.
    """
    if not feeds:
        raise ModelFileError(f"{program.name} is damaged: its gradients depend on no input.")
    first, value = next(iter(feeds.items()))
    samples = value.shape[sample_axis(program, first, value.ndim)]
    seed = Seed(program, gradients)
    tensors = list(wanted.values())
    if seed.resolves(target, at):
        found = seed.resolve(target, samples, at=at)
        if found.weights.shape[1] == 1 or gradients.broadcasts:
            values = _in_one_run(program, seed, feeds, wanted, also, found)
            return _result(program, values, wanted, also, found)
    starts = starts_of(program, gradients, wanted)
    values = program.fetch([*dict.fromkeys([*also, gradients.output, *starts])])(feeds)
    scores = classes_last(program, gradients.output, values[gradients.output])
    found = seed.resolve(target, samples, scores, at)
    fetch, fed = from_starts(program, wanted, feeds, starts, values)
    if samples == 1 and gradients.broadcasts:
        late = fetch({**fed, seed.name: seed.of(found, found.weights[0])})
        late = {name: value[None] for name, value in by_row(program, wanted, late).items()}
    else:
        runs = [
            by_row(program, wanted, fetch({**fed, seed.name: seed.of(found, weights)}))
            for weights in np.moveaxis(found.weights, 1, 0)
        ]
        late = {name: np.stack([run[name] for run in runs], axis=1) for name in tensors}
    return _result(program, {**values, **late}, wanted, also, found)


def _row_axis(program: Program, name: str, rank: int) -> int:
    """The axis of samples of a layer or input."""
    tensors = {layer.name: layer.tensor for layer in program.layers}
    return sample_axis(program, tensors.get(name) or name, rank)


def by_row(
    program: Program, wanted: Mapping[str, str], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Gradients with the axis of samples, or of rows of weights, first.

    Raises:
        ModelFileError: one has no such axis.
    """
    found = {}
    for name, tensor in wanted.items():
        value = values[tensor]
        axis = _row_axis(program, name, np.ndim(value))
        if axis >= np.ndim(value):
            raise ModelFileError(
                f"{program.name} is damaged: the gradient of {name!r} has the shape "
                f"{np.shape(value)}, without an axis of samples."
            )
        found[tensor] = np.moveaxis(value, axis, 0)
    return found


MOST_CLASSES = 1 << 24
"""Most classes of a score; arrays of their weights are made before the file is run."""


class Seed:
    """The input for the weights of the scores."""

    def __init__(self, program: Program, gradients: Gradients) -> None:
        graph, name = program.graph, gradients.weights
        default = graph.initializers.get(name)
        kind = default.type if default else graph.optional[name]
        sizes = [size if isinstance(size, int) else 1 for size in kind.dims or ()]
        if math.prod(sizes) > MOST_CLASSES:
            raise ModelFileError(
                f"{program.name} is damaged: its weights of classes, {name!r}, have the shape "
                f"{kind.dims}."
            )
        self.name = name
        self._shape = (1,) * (len(sizes) - 2)
        self._dtype = kind.dtype
        self._axis = class_axis(program, gradients.output, len(sizes))
        self._last = sizes[-1] if sizes else 0
        self._classes = self._last
        if self._axis != len(sizes) - 1:  # the weights state the size of their last axis only
            shape = static_shape(program, gradients.output) or ()
            classes = shape[self._axis] if len(shape) == len(sizes) else None
            if not isinstance(classes, int):
                raise ModelFileError(
                    f"{program.name} does not state how many classes {gradients.output!r} has. "
                    "Export it with a fixed number of them."
                )
            self._classes = classes
        self._program, self._output = program, gradients.output
        self._labels = labels_of(program, gradients.output)
        self._probability = ends_in_activation(program, gradients.output)

    @cached_property
    def _sizes(self) -> tuple[int, ...] | None:
        """The sizes of the axes of positions; `None` if the file leaves one free."""
        shape = static_shape(self._program, self._output) or ()
        sizes = (*shape[1 : self._axis], *shape[self._axis + 1 :])
        known = tuple(size for size in sizes if isinstance(size, int))
        return known if len(known) == len(self._shape) == len(shape) - 2 else None

    def resolves(self, target: Target | Targets, at: At | None) -> bool:
        """Whether `resolve` needs no values of the scores."""
        if targets.needs_scores(target, self._labels):
            return False
        by_place = at is not None or targets.is_by_place(target, len(self._shape) + 2)
        return not by_place or self._sizes is not None

    def resolve(
        self,
        target: Target | Targets,
        samples: int,
        values: Array | None = None,
        at: At | None = None,
    ) -> Targets:
        """See `targets.resolve`.

        Args:
            values: of the scores, `(n, ..., classes)`, unless `resolves`.
        """
        return targets.resolve(
            as_classes_last(self._program, self._output, target, len(self._shape) + 2),
            samples=samples,
            classes=self._classes,
            sizes=(self._sizes or (1,) * len(self._shape))
            if values is None
            else values.shape[1:-1],
            labels=self._labels,
            values=values,
            probability=self._probability,
            at=at,
        )

    def of(self, found: Targets, weights: Array) -> Array:
        """Rows `(rows, k)` of the weights of targets, in the shape of the input."""
        return self(weights, found.places, found.shape)

    def __call__(
        self, weights: Array, places: Array | None = None, shape: tuple[int, ...] | None = None
    ) -> Array:
        """Weights in the shape of the input.

        Args:
            weights: of the classes, `(rows, classes)`; or `(rows, k)`, of all scores.
            places: of the positions, `(1, ...)` or `(rows, ...)`; without them, all have the same
                weight.
            shape: of the scores of a sample, `(..., classes)`, if there are weights of all.
        """
        rows, count = weights.shape
        seed = weights.reshape(rows, *(shape or (*self._shape, count)))
        if places is not None:
            seed = seed * places[..., None]
        if self._axis != seed.ndim - 1:
            seed = np.moveaxis(seed, -1, self._axis)
            if seed.shape[-1] == 1:
                seed = np.broadcast_to(seed, (*seed.shape[:-1], self._last))
        return np.ascontiguousarray(seed, dtype=self._dtype)


def _in_one_run(
    program: Program,
    seed: Seed,
    feeds: Mapping[str, Any],
    wanted: Mapping[str, str],
    also: Sequence[str],
    found: Targets,
) -> dict[str, Any]:
    """One run if each sample has one target, otherwise one run per sample with all its targets."""
    samples, count, _ = found.weights.shape
    fetch = program.fetch([*dict.fromkeys([*wanted.values(), *also])])
    if count == 1:
        values = fetch({**feeds, seed.name: seed.of(found, found.weights[:, 0])})
        slopes = by_row(program, wanted, values)
        return values | {name: value[:, None] for name, value in slopes.items()}
    runs = [
        fetch(
            {**copies(program, feeds, at, samples, 1), seed.name: seed.of(found, found.weights[at])}
        )
        for at in range(samples)
    ]
    axes = {name: sample_axis(program, name, np.ndim(runs[0][name])) for name in also}
    together = {name: np.concatenate([run[name] for run in runs], axes[name]) for name in also}
    each = [by_row(program, wanted, run) for run in runs]
    return together | {name: np.stack([run[name] for run in each]) for name in wanted.values()}


def _result(
    program: Program,
    values: Mapping[str, Any],
    wanted: Mapping[str, str],
    also: Sequence[str],
    found: Targets,
) -> Differentiated:
    by_name = {name: values[tensor] for name, tensor in wanted.items()}
    rows = {name: _row_axis(program, name, value.ndim - 1) for name, value in by_name.items()}
    return Differentiated(by_name, rows, {name: values[name] for name in also}, found)


def starts_of(program: Program, gradients: Gradients, wanted: Mapping[str, str]) -> list[str]:
    """The same as `_starts`, which is computed once."""
    key = tuple(wanted.items())
    return program.gradient_starts.get(key, lambda: _starts(program, gradients, wanted))


def _starts(program: Program, gradients: Gradients, wanted: Mapping[str, str]) -> list[str]:
    """Tensors from which the gradients can be computed without the network's first half: the
    first of the layers, and what bypasses them. Empty if a layer's activations are not exposed.
    """
    graph = program.graph
    tensors = {layer.name: layer.tensor for layer in program.layers}
    ends = [tensor for tensor in (tensors.get(name, name) for name in wanted) if tensor]
    if len(ends) < len(wanted):
        return []
    first = boundary.earliest(graph, boundary.sources(graph, ends))
    plan = program.plan(list(wanted.values()))
    return sorted(first | boundary.bypassing(graph, plan, first | {gradients.weights}))


def from_starts(
    program: Program,
    wanted: Mapping[str, str],
    feeds: Mapping[str, Any],
    starts: Iterable[str],
    values: Mapping[str, Any],
) -> tuple[Fetch, dict[str, Any]]:
    """What computes the gradients from the tensors of `starts_of`, and what it is fed but weights.

    Args:
        wanted: tensors of gradients, by name of the layer or input.
        feeds: values by input name.
        starts: from `starts_of`.
        values: those of the starts.
    """
    # A value that is not an array (a sequence) cannot be fed, and is computed again.
    given = {name: values[name] for name in starts if hasattr(values[name], "dtype")}
    fed = {**feeds, **given}
    return program.fetch(list(wanted.values()), fed, tuple(given)), fed
