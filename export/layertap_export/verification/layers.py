"""Comparing a file with its model, layer by layer, on the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layertap.compare.measures import difference
from layertap.errors import UsageError, suggest
from layertap.format.card import Golden
from layertap.format.layer import Shape
from layertap.images.load import ImageSource
from layertap.images.preprocessing import Preprocessing
from layertap_export.errors import ExportError, keras_words
from layertap_export.keras_model.subject import Subject
from layertap_export.keras_model.tracing import Trace

from .batches import Batch, doublings, seeded_batches
from .card_like import CardLike
from .declared_shapes import contradicted, freed
from .error_scales import least_scales
from .golden_values import golden_layer
from .gradient_check import GradientCheck, LayerSources
from .keras_itself import KerasItself, OwnError
from .reference import precise_runner, runner
from .report import LayerDifference, VerificationReport
from .tolerances import DEFAULT_TOLERANCE
from .written_file import WrittenFile

REFERENCES = ("keras", "float64")
"""What a file is compared with: Keras as it is; `float64` adds Keras in float64."""

Activations = dict[str, NDArray[Any]]


def verify_file(
    file: WrittenFile,
    subject: Subject,
    card: CardLike,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    samples: Sequence[ImageSource] = (),
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
        samples: the user's own images, compared too, with the card's preprocessing.
        reference: one of `REFERENCES`.
        traced: a trace of the subject, if there is one whose symbols are all in the file.
        sources: where the file's graph has the layers; by default, those that it exposes.

    Raises:
        ExportError: onnxruntime cannot open or run the file, or Keras the model.
        UsageError: the tolerance is not a finite number of at least 0, or the reference is unknown.
    """
    if reference not in REFERENCES:
        raise UsageError(
            f"reference must be 'keras' or 'float64', got {reference!r}."
            + suggest(reference, REFERENCES)
        )
    if not 0 <= tolerance < np.inf:
        raise UsageError(f"tolerance must be a finite number of at least 0, got {tolerance}.")
    session = file.session(card.gradients)
    gradients = set(card.gradients.tensors.values()) if card.gradients else set()
    wanted = [x.name for x in session.get_outputs() if x.name not in gradients]
    check = None
    if card.gradients:
        sources = sources or LayerSources.of(file.model.graph, card.layers)
        check = GradientCheck(file, card, subject, sources)
    precisely = precise_runner(subject, card, wanted) if reference == "float64" else None
    scales = least_scales(file.path)
    itself = KerasItself(file, subject, card, wanted, scales, tolerance)
    totals: dict[str, LayerDifference] = {}
    free: dict[str, Shape] = {}
    batches: list[str] = []
    golden: Golden | None = None
    per_sample, misnamed = set(wanted), set[str]()
    for batch, expected in _references(subject, card, wanted, samples, traced):
        golden = golden or _golden(batch, expected, scales)
        sizes = tuple(len(array) for array in batch.arrays if array.ndim)[:1]
        per_sample &= {name for name, value in expected.items() if value.shape[:1] == sizes}
        actual = _run(session, card, batch)
        misnamed |= _misnamed(session, card, actual, sizes)
        fed = {info.name: x for info, x in zip(card.inputs, batch.arrays, strict=True)}
        for name, shape in contradicted(card, {**fed, **actual}).items():
            free[name] = freed(shape, free.get(name, shape))
        truth = precisely(batch.arrays) if precisely else {}
        own = {info.name: expected[info.name] for info in card.outputs if info.name in expected}
        found_now: dict[str, LayerDifference] = {}
        over: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
        for name in wanted:
            ours, theirs = actual.pop(name), expected.pop(name, None)
            least_scale = scales.get(name, 0.0)
            found = _difference(name, ours, theirs, least_scale)
            if theirs is not None and name in truth:
                exact = truth.pop(name)
                found = replace(
                    found,
                    from_float64=_scaled(ours, exact, least_scale),
                    keras_from_float64=_scaled(theirs, exact, least_scale),
                )
            if theirs is not None and not found.problem and found.scaled > tolerance:
                over[name] = ours, theirs
            found_now[name] = found
        for name, error in itself.errors(batch.arrays, over).items():
            found_now[name] = _judged(found_now[name], error, tolerance)
        for name, found in found_now.items():
            totals[name] = _larger(totals.get(name), found)
        for name, value, other in check.pairs(batch.arrays, own) if check else ():
            totals[name] = _larger(totals.get(name), _difference(name, value, other, 0.0))
        batches.append(batch.label)
    assert golden is not None  # the seeded batches always come first
    if check:
        golden = replace(golden, layers={**golden.layers, **check.golden})
    order = _run_order(card)
    return VerificationReport(
        file=str(file.path),
        tolerance=tolerance,
        batches=tuple(batches),
        # Outputs that are not layers come last.
        layers=tuple(
            sorted(totals.values(), key=lambda x: order.get(x.name, (len(card.layers), 0)))
        ),
        golden=golden,
        gradients=check.measured if check else None,
        reference=subject.framework,
        per_sample=frozenset(per_sample),
        misnamed=frozenset(misnamed),
        misdeclared=free,
    )


def _run(session: Any, card: CardLike, batch: Batch) -> dict[str, NDArray[Any]]:
    feeds = {info.name: x for info, x in zip(card.inputs, batch.arrays, strict=True)}
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
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


def _references(
    subject: Subject,
    card: CardLike,
    wanted: Sequence[str],
    samples: Sequence[ImageSource],
    traced: Trace | None,
) -> Iterator[tuple[Batch, Activations]]:
    """The batches, each with the values that the subject computes for it."""
    recipe = Preprocessing.from_dict(card.preprocessing) if card.preprocessing else None
    run = runner(subject, card, wanted, traced)
    choices = doublings(card.inputs)
    for doubling in choices:
        try:
            for batch in seeded_batches(subject.layers, card.inputs, recipe, doubling):
                expected = run(batch.arrays)
                empty = [name for name, value in expected.items() if value.size == 0]
                if empty and doubling != choices[-1]:
                    raise ValueError(f"layer {empty[0]!r} returns an empty array at this size")
                yield batch, expected
            break
        except Exception as exc:
            # A deep network may shrink small sizes to nothing.
            if doubling == choices[-1]:
                raise ExportError(
                    f"Keras cannot run the model on a test batch: {keras_words(exc)}"
                ) from exc
    if samples:
        pixels = (recipe or Preprocessing()).batch(samples)
        label = f"{' x '.join(map(str, pixels.shape))}, your images"
        yield Batch(label, (pixels,)), run((pixels,))


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
        reference_error=error.keras if holds else None,
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
