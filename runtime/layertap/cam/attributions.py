"""Attributions: how much each element of the input contributes to the score of a class.

Those in this module need a file with gradients with respect to its inputs; `masked_inputs` has
those that mask the input instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from layertap._arguments import count, number
from layertap.errors import ModelFileError, UsageError, suggest

from . import available, targets
from .axes import has_rows
from .baselines import backgrounds, baselines
from .gradients import Seed, prepare
from .masked_inputs import choose_input, masked_attributions
from .masking import Options, not_for
from .places import At
from .scores import choose_output, classes_last
from .targets import Array, Target, Targets

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap._engine.program import Program
    from layertap.format.card import Gradients

MOST_STEPS = 10_000
"""Points of the quadrature: finding them takes a minute, and they are more than enough."""

MASKING_INPUT = ("occlusion", "rise", "kernelshap")
"""The methods that mask the input, and need no gradient."""

METHODS = (
    "saliency", "input_x_gradient", "smoothgrad", "integrated_gradients", "expected_gradients",
    *MASKING_INPUT,
)  # fmt: skip

WITH_BACKGROUND = ("expected_gradients", "kernelshap")
"""The methods that compare an input with several samples."""


class Point(NamedTuple):
    """A point at which the gradient is computed."""

    move: Callable[[Array, str, int], Array]
    """From one sample's input, the input's name and the sample's index, to the point."""
    share: float
    """The weight of its gradient."""
    times: Callable[[Array, str, int], Array | float]
    """From the same to what the gradient is multiplied by, element by element."""


def attribute(
    program: Program,
    inputs: Any,
    method: str = "saliency",
    target: Target = targets.TOP,
    *,
    steps: int = 50,
    baseline: Any = None,
    background: Any = None,
    samples: int | None = None,
    noise: float = 0.15,
    window: Any = None,
    stride: Any = None,
    cells: Any = None,
    keep: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    input_name: str | None = None,
    output: str | None = None,
    preprocess: Recipe | None = None,
    at: At | None = None,
) -> Any:
    """See `Model.attribute`."""
    check_method(method)
    steps, seed = count("steps", steps, most=MOST_STEPS), count("seed", seed, least=0)
    batch_size, noise = count("batch_size", batch_size), number("noise", noise)
    samples = None if samples is None else count("samples", samples)
    options = Options(window, stride, None, cells, keep)
    unused = options.unused(method)
    if unused is not None:
        raise UsageError(not_for(unused, method))
    if background is not None and method not in WITH_BACKGROUND:
        raise UsageError(
            f"background is for the methods {', '.join(WITH_BACKGROUND)}, got {method}."
        )
    if background is not None and baseline is not None:
        raise UsageError("give a baseline= or a background=, not both.")
    if method in MASKING_INPUT:
        return masked_attributions(
            program,
            inputs,
            method,
            target,
            options._replace(samples=samples, seed=seed),
            baseline=0.0 if baseline is None else baseline,
            background=background,
            batch_size=batch_size,
            input_name=input_name,
            output=output,
            preprocess=preprocess,
            at=at,
        )
    gradients = available.require(program)
    choose_output(program, output, with_gradients=True)
    wanted = _of_inputs(program, gradients, input_name)
    feeds = prepare(program, gradients, wanted.values(), (), inputs, preprocess)
    changed = {name: feeds[name] for name in wanted}
    starts = baselines(program, 0.0 if baseline is None else baseline, changed)
    if method == "smoothgrad":
        points = list(_noisy(25 if samples is None else samples, noise, seed))
    elif method == "integrated_gradients":
        points = list(_on_the_way(steps, starts))
    elif method == "expected_gradients":
        if background is None:
            raise UsageError(
                "expected_gradients needs background=: samples to compare the input with, (k, ...) "
                "in the units of the model's input."
            )
        rows = backgrounds(background, changed)
        points = list(_between(200 if samples is None else samples, rows, seed))
    else:
        points = [Point(_as_given, 1.0, _itself if method == "input_x_gradient" else _once)]
    resolved = _targets(program, gradients, feeds, target, at)
    means = _mean_gradients(program, gradients, wanted, feeds, resolved, points, batch_size)

    results = {}
    for name, mean in means.items():
        mean = np.abs(mean) if method == "saliency" else mean
        mean = mean if resolved.several else mean[:, 0]
        results[name] = mean.astype(np.float32)
    one = len(program.inputs) == 1 or input_name is not None
    return next(iter(results.values())) if one else results


def check_method(method: Any) -> None:
    """Check that there is a method of this name.

    Raises:
        UsageError: there is none.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise UsageError(
            f"unknown method {method!r}; the methods are {', '.join(METHODS)}."
            + suggest(str(method), METHODS)
        )


def _of_inputs(program: Program, gradients: Gradients, input_name: str | None) -> dict[str, str]:
    """The gradients' tensors by name of the input.

    Raises:
        LayerNotFoundError: the file has none.
        UsageError: no input has the given name.
    """
    if input_name is None and not program.inputs:
        raise ModelFileError(f"{program.name} has no input, and so no attributions to one.")
    asked = program.inputs if input_name is None else [choose_input(program, input_name)]
    named = available.of_inputs(program, gradients, asked)
    return {name: gradients.tensors[key] for name, key in named.items()}


def _targets(
    program: Program,
    gradients: Gradients,
    feeds: Mapping[str, Any],
    target: Target,
    at: At | None,
) -> Targets:
    """The targets of a batch; the scores are computed if they depend on them."""
    seed, values = Seed(program, gradients), None
    if not seed.resolves(target, at):
        fetched = program.fetch([gradients.output])(feeds)[gradients.output]
        values = classes_last(program, gradients.output, fetched)
    return seed.resolve(target, len(next(iter(feeds.values()))), values, at)


def _mean_gradients(
    program: Program,
    gradients: Gradients,
    wanted: Mapping[str, str],
    feeds: Mapping[str, Any],
    resolved: Targets,
    points: Sequence[Point],
    batch_size: int,
) -> dict[str, npt.NDArray[np.float64]]:
    """The gradients at all points, weighted and summed; `(n, targets, ...)` by input."""
    fetch, seed = program.fetch(list(wanted.values())), Seed(program, gradients)
    weights = resolved.weights
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
        batch[seed.name] = seed.of(
            resolved, np.stack([weights[sample, at] for sample, at, _ in part])
        )
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
                    times = point.times(feeds[name][sample], name, sample)
                    sums[name][sample, at] += point.share * slope.astype(np.float64) * times
    return sums


def _noisy(samples: int, noise: float, seed: int) -> Iterator[Point]:
    """Points around the input. They depend only on the seed, the sample and the input's name."""

    def shaken(draw: int, value: Array, name: str, sample: int) -> Array:
        generator = np.random.default_rng([seed, draw, sample, *name.encode()])
        spread = noise * (float(value.max()) - float(value.min()))
        moved: Array = value + spread * generator.standard_normal(value.shape)
        return moved

    for draw in range(samples):
        yield Point(functools.partial(shaken, draw), 1 / samples, _once)


def _on_the_way(steps: int, starts: Mapping[str, Array]) -> Iterator[Point]:
    """Points on the straight line from the baseline to the input, by Gauss-Legendre quadrature."""

    def between(part: float, value: Array, name: str, sample: int) -> Array:
        start = starts[name][sample]
        moved: Array = start + part * (value.astype(np.float64) - start)
        return moved

    def distance(value: Array, name: str, sample: int) -> Array:
        return np.asarray(value - starts[name][sample])

    for point, share in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        yield Point(functools.partial(between, (point + 1) / 2), share / 2, distance)


def _between(samples: int, rows: Mapping[str, Array], seed: int) -> Iterator[Point]:
    """Points between the input and rows of the background.

    The rows take turns, and the draws of the place on the way are spread evenly over it, row by
    row: the expected mean is that of independent draws, with less noise.
    """
    generator = np.random.default_rng(seed)
    count = len(next(iter(rows.values())))
    turns = -(-samples // count)
    chosen = np.concatenate([generator.permutation(count) for _ in range(turns)])[:samples]
    parts = np.empty(samples)
    for row in range(count):
        own = np.flatnonzero(chosen == row)
        parts[own] = (generator.permutation(len(own)) + generator.random(len(own))) / len(own)

    def between(row: int, part: float, value: Array, name: str, _: int) -> Array:
        start = rows[name][row]
        moved: Array = start + part * (value.astype(np.float64) - start)
        return moved

    def distance(row: int, value: Array, name: str, _: int) -> Array:
        return np.asarray(value.astype(np.float64) - rows[name][row])

    for row, part in zip(chosen, parts, strict=True):
        move = functools.partial(between, int(row), float(part))
        yield Point(move, 1 / samples, functools.partial(distance, int(row)))


def _as_given(value: Array, *_: Any) -> Array:
    return value


def _once(*_: Any) -> float:
    return 1.0


def _itself(value: Array, *_: Any) -> Array:
    return value.astype(np.float64)
