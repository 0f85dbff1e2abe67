"""Attributions: how much each element of the input contributes to the score of a class.

They need a file with gradients with respect to its inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from layertap._arguments import count, number
from layertap.errors import InputError, ModelFileError, UsageError, suggest
from layertap.format.text import class_text

from . import available, targets
from .axes import has_rows
from .gradients import Seed, prepare
from .scores import by_class
from .targets import Array, Target

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap._engine.program import Program
    from layertap.format.card import Gradients

MOST_STEPS = 10_000
"""Points of the quadrature: finding them takes a minute, and they are more than enough."""

METHODS = ("saliency", "input_x_gradient", "smoothgrad", "integrated_gradients")


class Point(NamedTuple):
    """A point at which the gradient is computed."""

    share: float
    """The weight of its gradient."""
    move: Callable[[Array, str, int], Array]
    """From one sample's input, the input's name and the sample's index, to the point."""


def attribute(
    program: Program,
    inputs: Any,
    method: str = "saliency",
    target: Target = targets.TOP,
    *,
    steps: int = 50,
    baseline: Any = 0.0,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
    batch_size: int = 16,
    preprocess: Recipe | None = None,
) -> Any:
    """See `Model.attribute`."""
    if not isinstance(method, str) or method not in METHODS:
        raise UsageError(
            f"unknown method {method!r}; the methods are {', '.join(METHODS)}."
            + suggest(str(method), METHODS)
        )
    steps, samples = count("steps", steps, most=MOST_STEPS), count("samples", samples)
    batch_size, seed = count("batch_size", batch_size), count("seed", seed, least=0)
    noise = number("noise", noise)
    gradients = available.require(program)
    wanted = _of_inputs(program, gradients)
    feeds = prepare(program, gradients, wanted.values(), (), inputs, preprocess)
    baselines = _baselines(baseline, {name: feeds[name] for name in wanted})
    if method == "smoothgrad":
        points = list(_noisy(samples, noise, seed))
    elif method == "integrated_gradients":
        points = list(_on_the_way(steps, baselines))
    else:
        points = [Point(1.0, lambda value, *_: value)]
    weights = _weights(program, gradients, feeds, target)
    means = _mean_gradients(program, gradients, wanted, feeds, weights, points, batch_size)

    results = {}
    for name, mean in means.items():
        value = feeds[name][:, None].astype(np.float64)
        if method == "saliency":
            mean = np.abs(mean)
        elif method == "input_x_gradient":
            mean = mean * value
        elif method == "integrated_gradients":
            mean = mean * (value - baselines[name][:, None])
        mean = mean if targets.several(target, program.labels) else mean[:, 0]
        results[name] = mean.astype(np.float32)
    return results if len(program.inputs) > 1 else next(iter(results.values()))


def _of_inputs(program: Program, gradients: Gradients) -> dict[str, str]:
    """The gradients' tensors by name of the input.

    Raises:
        LayerNotFoundError: the file has none.
    """
    layers = {row.tensor: row.name for row in program.layers}
    found = {}
    for info in program.inputs:
        for name in (info.name, layers.get(info.name, info.name)):
            if name in gradients.tensors:
                found[info.name] = gradients.tensors[name]
    if not program.inputs:
        raise ModelFileError(f"{program.name} has no input, and so no attributions to one.")
    if not found:
        raise available.missing(program, gradients.tensors, program.inputs[0].name)
    return found


def _weights(
    program: Program, gradients: Gradients, feeds: Mapping[str, Any], target: Target
) -> npt.NDArray[np.float32]:
    """`(n, targets, classes)`."""
    scores = None
    if targets.needs_scores(target, program.labels):
        scores = by_class(program.fetch([gradients.output])(feeds)[gradients.output])
    count = len(next(iter(feeds.values())))
    return Seed(program, gradients).resolve(target, count, scores).weights


def _mean_gradients(
    program: Program,
    gradients: Gradients,
    wanted: Mapping[str, str],
    feeds: Mapping[str, Any],
    weights: npt.NDArray[np.float32],
    points: Sequence[Point],
    batch_size: int,
) -> dict[str, npt.NDArray[np.float64]]:
    """The gradients at all points, weighted and summed; `(n, targets, ...)` by input."""
    fetch, seed = program.fetch(list(wanted.values())), Seed(program, gradients)
    samples, count, _ = weights.shape
    sums = {name: np.zeros((samples, count, *feeds[name].shape[1:])) for name in wanted}
    rows = [
        (sample, at, point) for sample in range(samples) for at in range(count) for point in points
    ]
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        which = [sample for sample, _, _ in part]
        batch = {
            name: value[which] if has_rows(value, samples) else value
            for name, value in feeds.items()
        }
        for name in wanted:
            moved = [point.move(feeds[name][sample], name, sample) for sample, _, point in part]
            batch[name] = np.stack(moved).astype(feeds[name].dtype)
        batch[seed.name] = seed(np.stack([weights[sample, at] for sample, at, _ in part]))
        found = fetch(batch)
        for name, tensor in wanted.items():
            shape = (len(part), *sums[name].shape[2:])
            if np.shape(found[tensor]) != shape:
                raise ModelFileError(
                    f"{program.name} is damaged: the gradient {tensor!r} has the shape "
                    f"{np.shape(found[tensor])}, but the input {name!r} has {shape}. Export it "
                    "again."
                )
            with np.errstate(all="ignore"):  # NaN and infinity come out as they are
                for (sample, at, point), slope in zip(part, found[tensor], strict=True):
                    sums[name][sample, at] += point.share * slope.astype(np.float64)
    return sums


def _noisy(samples: int, noise: float, seed: int) -> Iterator[Point]:
    """Points around the input. They depend only on the seed, the sample and the input's name."""

    def shaken(draw: int, value: Array, name: str, sample: int) -> Array:
        generator = np.random.default_rng([seed, draw, sample, *name.encode()])
        spread = noise * (float(value.max()) - float(value.min()))
        moved: Array = value + spread * generator.standard_normal(value.shape)
        return moved

    for draw in range(samples):
        yield Point(1 / samples, functools.partial(shaken, draw))


def _on_the_way(steps: int, baselines: Mapping[str, Array]) -> Iterator[Point]:
    """Points on the straight line from the baseline to the input, by Gauss-Legendre quadrature."""

    def between(part: float, value: Array, name: str, sample: int) -> Array:
        start = baselines[name][sample]
        moved: Array = start + part * (value.astype(np.float64) - start)
        return moved

    for point, share in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        yield Point(share / 2, functools.partial(between, (point + 1) / 2))


def _baselines(baseline: Any, feeds: Mapping[str, Array]) -> dict[str, npt.NDArray[np.float64]]:
    """The baseline of each input, one per sample."""
    named = baseline if isinstance(baseline, Mapping) else dict.fromkeys(feeds, baseline)
    found = {}
    for name, value in feeds.items():
        one = named.get(name, 0.0)
        try:
            given = np.asarray(one, np.float64)
        except (TypeError, ValueError) as exc:
            raise InputError(
                f"the baseline must be a number, an array, or a dict of these by input name, got "
                f"{class_text(one)}."
            ) from exc
        try:
            found[name] = np.broadcast_to(given, value.shape)
        except ValueError:
            raise InputError(
                f"the baseline has shape {given.shape}, but input {name!r} has shape "
                f"{value.shape}. Give a number, one sample, or one sample for each."
            ) from None
    return found
