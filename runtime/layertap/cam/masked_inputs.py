"""Attributions by masking the input: no gradient is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layertap._engine.empty import is_empty_batch, with_samples
from layertap.errors import ModelFileError, UsageError, suggest

from .axes import as_fed, has_rows, laid_out, sample_axis
from .baselines import backgrounds, baselines
from .masked import Masked
from .masking import Options
from .methods import find_method
from .perturbing import Perturbation
from .places import At
from .scores import choose_output, classes_last, find_scores, resolve_target, scores_of
from .targets import Array, Target

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe
    from layertap._engine.program import Program
    from layertap.format.card import TensorInfo


def choose_input(program: Program, name: str) -> TensorInfo:
    """The input of this name.

    Raises:
        UsageError: there is none.
    """
    for info in program.inputs:
        if isinstance(name, str) and info.name == name:
            return info
    names = [info.name for info in program.inputs]
    raise UsageError(
        f"the model has no input {name!r}; it has {', '.join(map(repr, names))}."
        + suggest(str(name), names)
    )


def masked_attributions(
    program: Program,
    inputs: Any,
    method: str,
    target: Target,
    options: Options,
    *,
    baseline: Any,
    background: Any,
    batch_size: int,
    input_name: str | None,
    output: str | None,
    preprocess: Recipe | None,
    at: At | None,
) -> Any:
    """See `Model.attribute`: arrays of the inputs' shapes, by input if there are several.

    Args:
        input_name: the only input that is masked; `None` for all.
        output: name of the output that contains the classes.
        at: the places of the scores, see `places.weights_at`; all of them by default.
    """
    output = choose_output(program, output)
    needs = program.plan([output]).needs
    names = [choose_input(program, input_name).name] if input_name is not None else list(needs)
    feeds = program.prepare_arrays(needs, inputs, preprocess)
    kept = slice(None)
    if is_empty_batch(feeds):  # the attributions of one sample have the right shape
        feeds, kept = with_samples(feeds, 1), slice(0)
    if not feeds:
        raise ModelFileError(f"{program.name} has no input, and so no attributions to one.")
    chosen = find_method(method)
    scores = scores_of(program, output) if chosen.of_output else find_scores(program, output)
    tries = Perturbation(program, {name: name for name in names}, scores, feeds, [output])
    outputs = classes_last(program, output, tries.values[output])
    found = resolve_target(program, output, target, outputs, at)
    values = {name: feeds[name] for name in names}
    for name, value in values.items():
        axis = sample_axis(program, name, value.ndim)
        if not has_rows(value, len(outputs), axis):
            raise UsageError(
                f"{name!r} of the shape {value.shape} has no row for each of the {len(outputs)} "
                "samples, so it cannot be masked. Give input_name= for another input."
            )
    positions = {name: _positions(program, name, tries.seen(name)) for name in names}
    masked = Masked(
        tries,
        chosen.compute(
            {name: size for name, (size, _) in positions.items()},
            options,
            {name for name, (_, single) in positions.items() if single},
        ),
        _fillings(program, values, baseline, background),
        found if chosen.of_output else replace(found, offsets=np.zeros_like(found.offsets)),
        batch_size,
    )
    maps = [masked.maps(sample) for sample in range(len(outputs))]
    results = {}
    for name in names:
        whole = _spread(np.stack([one[name] for one in maps]), tries.seen(name), method)
        axis = sample_axis(program, name, values[name].ndim)
        each = [
            np.moveaxis(as_fed(program, name, one), axis, 0) for one in np.moveaxis(whole, 1, 0)
        ]
        stacked = np.stack(each, axis=1)[kept]
        results[name] = stacked if found.several else np.moveaxis(stacked[:, 0], 0, axis)
    one = len(program.inputs) == 1 or input_name is not None
    return next(iter(results.values())) if one else results


def _positions(program: Program, name: str, seen: Array) -> tuple[tuple[int, ...], bool]:
    """What is masked of an input: its positions, or its columns if it has no others.

    Args:
        seen: the values, channels last.

    Returns:
        Their numbers along each axis, and whether each means something of its own.
    """
    axes = program.axes(name, seen.ndim)
    if "C" in axes and seen.ndim > 2:
        return seen.shape[1:-1], seen.dtype.kind != "f"
    columns = "C" in axes or seen.ndim < 2
    return seen.shape[1:], columns or seen.dtype.kind != "f"


def _fillings(
    program: Program, values: Mapping[str, Array], baseline: Any, background: Any
) -> dict[str, Callable[[int], Array]]:
    """What replaces masked elements, by input, see `Masked`."""

    def shared(rows: Array) -> Callable[[int], Array]:
        return lambda _: rows

    def own(rows: Array) -> Callable[[int], Array]:
        return lambda sample: rows[[sample]]

    if background is not None:
        rows = backgrounds(background, values)
        return {name: shared(laid_out(program, name, one)) for name, one in rows.items()}
    starts = baselines(program, baseline, values)
    return {name: own(laid_out(program, name, one)) for name, one in starts.items()}


def _spread(maps: Array, seen: Array, method: str) -> npt.NDArray[np.float32]:
    """Maps `(n, targets, h, w)` as attributions of all elements, `(n, targets, h, w, c)`.

    Each channel has the value of its position; Shapley values, which add up, are divided among
    them.
    """
    if maps.ndim == seen.ndim + 1:
        return maps.astype(np.float32)
    channels = seen.shape[-1]
    each = maps / channels if method == "kernelshap" else maps
    return np.repeat(each[..., None].astype(np.float32), channels, axis=-1)
