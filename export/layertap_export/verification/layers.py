"""Comparing a file with its model, layer by layer, on the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap._engine.stopping import STOPPED, time_left
from layertap.comparing.measures import difference
from layertap.errors import UsageError, suggest
from layertap.format.card import Golden
from layertap.format.layer import Layer
from layertap.images.preprocessing import Preprocessing
from layertap_export.errors import ExportError
from layertap_export.keras_model.subject import Subject
from layertap_export.keras_model.tracing import Trace

from .batches import Batch, Batches
from .card_like import CardLike
from .columns import column_draws
from .declared_shapes import DeclaredShapes
from .error_scales import least_scales
from .finite import NotFinite, scale_of
from .golden_values import golden_layer
from .gradient_check import GradientCheck, LayerSources
from .keras_itself import KerasItself, OwnError
from .reference import precise_runner, runner
from .report import LayerDifference, VerificationReport
from .row_search import RowSearch
from .rows_read import RowsRead
from .sample_work import sample_work
from .sizes import given_sizes
from .tolerances import DEFAULT_TOLERANCE
from .traced_part import TracedPart, layer_tensors
from .user_samples import user_batches
from .uses import follow
from .written_file import WrittenFile, tensor_types

REFERENCES = ("keras", "float64")
"""What a file is compared with: Keras as it is; `float64` adds Keras in float64."""

LAST = (1 << 62, 0)
"""The sort key of outputs that are not layers: they come last."""

Activations = dict[str, NDArray[Any]]


def verify_file(
    file: WrittenFile,
    subject: Subject,
    card: CardLike,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    samples: Any = (),
    sizes: Mapping[str, int] | None = None,
    reference: str = "keras",
    traced: Trace | None = None,
    sources: LayerSources | None = None,
) -> VerificationReport:
    """Compare every output of the file with the model that it was made from.

    Args:
        file: the file.
        subject: the model that it was made from.
        card: the card of the file, or its draft.
        tolerance: largest scaled error that passes.
        samples: the user's own batches, compared too, in one of the forms of `user_batches`.
        sizes: values for free sizes of the inputs, by the symbol in the file.
        reference: one of `REFERENCES`.
        traced: a trace of the subject, if there is one.
        sources: where the file's graph has the layers; by default, those that it exposes.

    Raises:
        ExportError: onnxruntime cannot open or run the file, or Keras the model.
        UsageError: the tolerance is not a finite number of at least 0, or the reference or the name
            of a size is unknown.
        InputError: a sample does not fit the inputs.
    """
    if not isinstance(reference, str) or reference not in REFERENCES:
        raise UsageError(
            f"reference must be 'keras' or 'float64', got {reference!r}."
            + suggest(str(reference), REFERENCES)
        )
    if not 0 <= tolerance < np.inf:
        raise UsageError(f"tolerance must be a finite number of at least 0, got {tolerance}.")
    recipe = Preprocessing.from_dict(card.preprocessing) if card.preprocessing else None
    own = user_batches(samples, card.inputs, recipe)
    session = file.session(card.gradients)
    stated = {entry.name: tuple(entry.shape) for entry in session.get_inputs()}
    fixed = given_sizes(sizes or {}, card.inputs, stated)
    gradients = card.gradients.added if card.gradients else set()
    wanted = [x.name for x in session.get_outputs() if x.name not in gradients]
    check = None
    if card.gradients:
        sources = sources or LayerSources.of(file.model.graph, card.layers)
        check = GradientCheck(file, card, subject, sources)
    precisely = precise_runner(subject, card, wanted) if reference == "float64" else None
    scales = least_scales(file.path)
    itself = KerasItself(file, subject, card, wanted, tolerance)
    totals: dict[str, LayerDifference] = {}
    shapes = DeclaredShapes(card)
    labels: list[str] = []
    golden: Golden | None = None
    largest = dict(scales)
    order = _run_order(card)
    per_sample, misnamed = set(wanted), set[str]()
    traced = traced or subject.trace()
    uses = follow(traced)
    rows = RowsRead(traced, uses.tables)
    batches = Batches(
        card.inputs,
        uses,
        subject.layers,
        recipe,
        runner(subject, card, wanted, _reusable(traced, card, wanted)),
        sizes=fixed,
        cost=_cost(traced),
        work=cache(partial(sample_work, traced)),
        gradients=card.gradients is not None,
        rows=rows,
        search=RowSearch.of(traced, rows, card.inputs),
        columns=column_draws(traced, uses, card.inputs, subject.layers),
    )
    for batch, expected in chain(batches, batches.user(own)):
        time_left(f"verifying against {subject.framework}")
        golden = golden or _golden(batch, expected, scales)
        length = tuple(len(array) for array in batch.arrays if array.ndim)[:1]
        per_sample &= {name for name, value in expected.items() if value.shape[:1] == length}
        actual = _run(session, card, batch)
        misnamed |= _misnamed(session, card, actual, length)
        fed = {info.name: x for info, x in zip(card.inputs, batch.arrays, strict=True)}
        shapes.compare({**fed, **actual})
        truth = precisely(batch.arrays) if precisely else {}
        outputs = {info.name: expected[info.name] for info in card.outputs if info.name in expected}
        found_now: dict[str, LayerDifference] = {}
        over: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
        unknown = NotFinite({} if batch.expected else expected, order)
        leasts = dict(scales if batch.expected else largest)
        for name in sorted(wanted, key=lambda name: order.get(name, LAST)):
            ours, theirs = actual.pop(name), expected.pop(name, None)
            # A difference of two numbers that are nearly equal, as on zeros, is no larger error
            # than that of the numbers.
            least_scale = leasts.get(name, 0.0)
            found = _difference(name, ours, theirs, least_scale)
            if theirs is not None and batch.expected:
                scale = scale_of(theirs)
                largest[name] = max(largest.get(name, 0.0), scale if np.isfinite(scale) else 0.0)
            if unknown.excuses(name, found, tolerance):
                continue
            if theirs is not None and name in truth:
                exact = truth.pop(name)
                found = replace(
                    found,
                    from_float64=_scaled(ours, exact, least_scale),
                    keras_from_float64=_scaled(theirs, exact, least_scale),
                )
            decided = name in totals and totals[name].worse
            if (
                theirs is not None
                and not found.problem
                and found.scaled > tolerance
                and not decided
            ):
                over[name] = ours, theirs
            found_now[name] = found
        for name, error in itself.errors(batch.arrays, over, leasts).items():
            found_now[name] = _judged(found_now[name], error, tolerance)
        for name, found in found_now.items():
            totals[name] = _larger(totals.get(name), found)
        for name, value, other in (
            check.pairs(batch.arrays, outputs) if check and batch.differentiable else ()
        ):
            totals[name] = _larger(totals.get(name), _difference(name, value, other, 0.0))
        if batch.label:
            labels.append(batch.label + unknown.words)
        time_left(f"verifying against {subject.framework}")
    for name, layer in _readers(rows, card, wanted):
        for batch, ours, theirs in _rows_alone(file, traced, card, batches, name, layer):
            found = _difference(name, ours, theirs, scales.get(name, 0.0))
            totals[name] = _larger(totals.get(name), found)
            rows.add(batch.arrays)
            labels.append(f"{batch.label}, {layer.name!r} alone")
    assert golden is not None  # the seeded batches always come first
    if check:
        golden = replace(golden, layers={**golden.layers, **check.golden})
    return VerificationReport(
        file=str(file.path),
        tolerance=tolerance,
        batches=tuple(labels),
        tables=rows.shares(),
        hardly_read=rows.hardly_read,
        inputs=tuple(info.name for info in card.inputs),
        notes=(*batches.notes, *shapes.notes),
        # Outputs that are not layers come last.
        layers=tuple(sorted(totals.values(), key=lambda x: order.get(x.name, LAST))),
        golden=golden,
        gradients=check.measured if check else None,
        reference=subject.framework,
        per_sample=frozenset(per_sample),
        misnamed=frozenset(misnamed),
        misdeclared=shapes.contradicted,
    )


def _run(session: Any, card: CardLike, batch: Batch) -> dict[str, NDArray[Any]]:
    feeds = {info.name: x for info, x in zip(card.inputs, batch.arrays, strict=True)}
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except STOPPED:
        raise
    except Exception as exc:
        raise ExportError(f"onnxruntime cannot run the exported file: {exc}") from exc


def _misnamed(
    session: Any, card: CardLike, actual: Mapping[str, NDArray[Any]], sizes: Sequence[int]
) -> set[str]:
    """Outputs with a first axis that is named after the batch and has another size.

    Args:
        sizes: the size of the batch; empty if no input has an axis.
    """
    entries = {info.name for info in card.inputs}
    batch = {x.shape[0] for x in session.get_inputs() if x.name in entries and x.shape}
    return {
        output.name
        for output in session.get_outputs()
        if output.shape and isinstance(output.shape[0], str) and output.shape[0] in batch
        if actual[output.name].shape[:1] != tuple(sizes)
    }


def _readers(
    rows: RowsRead, card: CardLike, wanted: Collection[str]
) -> Iterator[tuple[str, Layer]]:
    """The layers that read tables of which rows are left, each with its output in the file."""
    tables = {table.name for table in rows.left}
    for layer in card.layers:
        if layer.name in tables and layer.tensor in wanted:
            yield str(layer.tensor), layer


def _rows_alone(
    file: WrittenFile, traced: Trace, card: CardLike, batches: Batches, name: str, layer: Layer
) -> Iterator[tuple[Batch, NDArray[Any], NDArray[Any]]]:
    """A layer in the file and in Keras for the rows of its table that were not read.

    The network behind it may be too large to be run for every word of a vocabulary.
    """
    tensor = layer_tensors(traced).get(layer.name)
    if tensor is None:
        return
    alone = TracedPart(traced, [tensor])
    inner = math.prod(size or 1 for size in layer.shape[1:])
    for batch in batches.reading_rows(float(inner)):
        try:
            (theirs,) = alone.run(batch.arrays)
        except Exception:  # noqa: BLE001 - what Keras raises has no common class but this
            continue
        feeds = {info.name: x for info, x in zip(card.inputs, batch.arrays, strict=True)}
        part = file.part([name], tensor_types(feeds))
        (ours,) = part.run([name], {x.name: feeds[x.name] for x in part.get_inputs()})
        yield batch, ours, theirs


def _reusable(traced: Trace, card: CardLike, wanted: Collection[str]) -> Trace | None:
    """The trace, if its symbols are those that are compared."""
    layers = {layer.name for layer in card.layers if layer.tensor in wanted}
    return traced if {x.layer.name for x in traced.rows if x.symbol is not None} == layers else None


def _cost(traced: Trace) -> Callable[[int], float]:
    """About how many activations one sample has, where free sizes are of some length."""
    shapes = [row.layer.shape[1:] for row in traced.rows]
    return lambda length: float(
        sum(math.prod(length if size is None else size for size in shape) for shape in shapes)
    )


def _difference(
    name: str, actual: NDArray[Any], expected: NDArray[Any] | None, least_scale: float
) -> LayerDifference:
    if expected is None:
        problem = "the model has no such layer"
        return LayerDifference(name=name, max_abs=np.inf, scaled=np.inf, problem=problem)
    found = difference(actual, expected, least_scale=least_scale)
    return LayerDifference(name=name, **found._asdict())


def _scaled(actual: NDArray[Any], truth: NDArray[Any], least_scale: float) -> float:
    return difference(actual, truth, least_scale=least_scale, same_dtype=False).scaled


def _judged(found: LayerDifference, error: OwnError, tolerance: float) -> LayerDifference:
    """A layer over the tolerance, with how far Keras is from itself there."""
    holds = error.excuses(found.scaled, tolerance)
    return replace(
        found,
        reference_error=error.reference(tolerance) if holds else None,
        worse=not holds,
        from_float64=error.file,
        keras_from_float64=error.keras if error.file is not None else None,
    )


def _larger(one: LayerDifference | None, other: LayerDifference) -> LayerDifference:
    if one is None:
        return other
    return LayerDifference(
        name=one.name,
        max_abs=max(one.max_abs, other.max_abs),
        scaled=max(one.scaled, other.scaled),
        problem=one.problem or other.problem,
        from_float64=_largest(one.from_float64, other.from_float64),
        keras_from_float64=_largest(one.keras_from_float64, other.keras_from_float64),
        reference_error=_largest(one.reference_error, other.reference_error),
        worse=one.worse or other.worse,
    )


def _largest(one: float | None, other: float | None) -> float | None:
    return max((x for x in (one, other) if x is not None), default=None)


def _golden(batch: Batch, expected: Activations, scales: Mapping[str, float]) -> Golden:
    layers = {}
    for name, value in sorted(expected.items()):
        if value.dtype.kind in "fiub" and np.isfinite(value).all():
            layers[name] = golden_layer(value, scales.get(name, 0.0))
    return Golden(seed=0, inputs=batch.golden, layers=layers)


def _run_order(card: CardLike) -> dict[str, tuple[int, int]]:
    """Sort keys that put outputs in the order in which their layers end."""
    last: dict[str, int] = {}
    keys: dict[str, tuple[int, int]] = {}
    for layer in reversed(card.layers):
        end = max(layer.index, last.get(layer.name, 0))
        keys[str(layer.tensor)] = (end, -layer.index)
        if layer.parent is not None:
            last[layer.parent] = max(end, last.get(layer.parent, 0))
    return keys
