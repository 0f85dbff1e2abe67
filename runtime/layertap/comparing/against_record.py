"""Compares a record with a file, or with another record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layertap._engine.program import Program
from layertap.errors import ImageError, InputError, LayerNotFoundError, UsageError
from layertap.format.attention_rows import ATTENTION, SCORES
from layertap.format.layer import Layer
from layertap.format.select import Selector, select
from layertap.format.text import number_of

from .comparison import Comparison
from .inputs import Batch, Sides, batches
from .matching import Matches, Tensor, as_computed, match, no_layer_selected, tensors_of
from .measures import check_tolerance
from .record import Record, Recorded, make_record
from .row import LayerComparison
from .sizes import bytes_of_layers
from .sketch import compared

if TYPE_CHECKING:
    from layertap._engine.feeds import Recipe

NO_RUNS = "a record has no activations to run on from"


def compare_records(
    a: Program | Record,
    b: Program | Record,
    inputs: Any = None,
    layers: Selector | Iterable[Selector] | None = None,
    *,
    tolerance: float | None = None,
    preprocess: Recipe | None = None,
    failed: Callable[[str, ImageError], None] | None = None,
) -> Comparison:
    """Compare two sides, of which at least one is a record; see `layertap.compare`.

    Raises:
        InputError: the record has no inputs and none are given, or other ones.
    """
    if tolerance is not None:
        check_tolerance(tolerance)
    ours, hidden_a = _known(a, scores=layers is not None)
    theirs, hidden_b = _known(b, scores=layers is not None)
    found = _selected(match(ours, theirs, hidden_a, hidden_b), layers, a, b)
    notes: list[str] = []
    for one, other, side in ((a, b, 0), (b, a, 1)):
        if isinstance(one, Program):
            if not isinstance(other, Record):
                raise TypeError("one of the sides must be a record")
            made = _recorded(one, other, found, side, inputs, tolerance, preprocess, failed)
            a, b = (made, b) if side == 0 else (a, made)
    if not (isinstance(a, Record) and isinstance(b, Record)):
        raise TypeError("both sides must be records by now")
    if (a.counts, a.kept) != (b.counts, b.kept):
        raise InputError(
            f"the records are of other samples: {_samples_text(a)} and {_samples_text(b)}. Record "
            "the same images on both machines."
        )
    by_name = [{one.tensor.name: one for one in record.layers} for record in (a, b)]
    rows = tuple(
        _row(by_name[0][pair.a.name], by_name[1][pair.b.name], tolerance) for pair in found.pairs
    )
    parts = [part for part in ("graph", "weights") if a.digest.get(part) != b.digest.get(part)]
    if parts:
        notes.append(f"A and B differ in {' and '.join(parts)}.")
    else:
        notes.append("A and B have the same graph and weights.")
    return Comparison(
        a=a.side,
        b=b.side,
        samples=a.samples,
        tolerance=max(a.tolerance, b.tolerance) if tolerance is None else tolerance,
        layers=rows,
        only_a=found.only_a,
        only_b=found.only_b,
        notes=tuple(notes),
        estimated=True,
    )


def _samples_text(record: Record) -> str:
    return number_of(record.samples, "sample")


def _known(side: Program | Record, scores: bool) -> tuple[list[Tensor], Mapping[str, str]]:
    """What a side has, in the order in which it is computed, and what it has not.

    Args:
        side: a file or a record.
        scores: whether scores of attention are among them.
    """
    if isinstance(side, Program):
        tensors, hidden = tensors_of(side, scores)
        ordered = as_computed(side, tensors)
        return [one._replace(place=place) for place, one in enumerate(ordered)], hidden
    problems = {x.tensor.name: x.sketch.problem for x in side.layers if x.sketch.problem}
    usable = [
        one.tensor
        for one in side.layers
        if not one.sketch.problem and (scores or one.tensor.type != SCORES)
    ]
    return usable, {**side.hidden, **problems}


def _selected(
    found: Matches,
    layers: Selector | Iterable[Selector] | None,
    a: Program | Record,
    b: Program | Record,
) -> Matches:
    """The matches that were asked for.

    Raises:
        LayerNotFoundError: a selector matches nothing.
        UsageError: nothing matches.
    """
    if layers is not None:
        table = a.layers if isinstance(a, Program) else a.table
        if isinstance(a, Record) and _has_no_scores(table, layers):
            raise LayerNotFoundError(
                f"{a.name} holds no scores of attention: record them, with the layers 'all' and "
                f"{ATTENTION!r}."
            )
        names = {layer.name for layer in select(table, layers)}
        if not names:
            raise no_layer_selected()
        found = found.among(names)
        if not found.pairs:
            why = {found.only_a.get(name, f"{a.name} does not hold it") for name in names}
            reasons = "; ".join(sorted(why))
            raise UsageError(f"{a.name} and {b.name} share none of the selected layers: {reasons}.")
    if not found.pairs:
        raise UsageError(
            f"{a.name} and {b.name} share no layer of one shape. Compare two results of one model."
        )
    return found


def _has_no_scores(table: Sequence[Layer], layers: Selector | Iterable[Selector]) -> bool:
    """Whether the word for all scores is asked of a table without scores."""
    word = layers == ATTENTION or (isinstance(layers, (list, tuple)) and ATTENTION in layers)
    return word and not any(layer.attention or layer.name == ATTENTION for layer in table)


def _recorded(
    program: Program,
    record: Record,
    found: Matches,
    side: int,
    inputs: Any,
    tolerance: float | None,
    preprocess: Recipe | None,
    failed: Callable[[str, ImageError], None] | None,
) -> Record:
    """The record of a file for the samples of another record, with the same positions."""
    numbers = {one.tensor.name: at for at, one in enumerate(record.layers)}
    pairs = [(pair.a, pair.b) if side == 0 else (pair.b, pair.a) for pair in found.pairs]
    tensors = [ours for ours, _ in pairs]
    needs = program.plan([one.tensor for one in tensors]).needs
    sides = Sides(program, program, needs, needs)
    if inputs is None:
        given = _from_record(program, record, needs)
    else:
        given = batches(sides, inputs, max(record.counts), preprocess, [], failed)
    given = _checked(given, record)
    made = make_record(
        program,
        given,
        tensors,
        {},
        bytes_of_layers(program, [one.name for one in tensors], inputs, preprocess),
        kept=record.kept,
        tolerance=tolerance,
        numbers=[numbers[theirs.name] for _, theirs in pairs],
    )
    if made.counts != record.counts:
        raise InputError(
            f"the record has {_samples_text(record)}, got {made.samples}. Give the same samples, "
            "or none if the record has its inputs."
        )
    return made


def _checked(given: Iterator[Batch], record: Record) -> Iterator[Batch]:
    """The batches, as many as the record has: more would be run for nothing."""
    for number, batch in enumerate(given):
        if number >= len(record.counts) or batch.count != record.counts[number]:
            raise InputError(
                f"the record has {_samples_text(record)}, got others. Give the same samples, or "
                "none if the record has its inputs."
            )
        yield batch


def _from_record(program: Program, record: Record, needs: Sequence[str]) -> Iterator[Batch]:
    """The inputs that a record holds, by the names that a file has for them."""
    if not record.inputs:
        raise InputError(
            f"the record of {record.name} was made without its inputs. Give the same images."
        )
    theirs = program.graph.inputs.keys() | program.graph.optional.keys()
    names = dict(zip(record.input_names, program.graph.inputs, strict=False))
    for feeds, count in zip(record.inputs, record.counts, strict=True):
        known = set(feeds) <= theirs
        renamed = feeds if known else {names.get(name, name): x for name, x in feeds.items()}
        arrays = program.prepare_arrays(needs, renamed, None)
        yield Batch(arrays, arrays, count)


def _row(a: Recorded, b: Recorded, tolerance: float | None) -> LayerComparison:
    allowed = max(a.allowed, b.allowed) if tolerance is None else tolerance
    found = compared(b.sketch, a.sketch, allowed)
    pairs = list(zip(a.sketch.classes, b.sketch.classes, strict=False))
    same = [x == y for x, y in pairs if x.shape == y.shape and x.size]
    values = found.values
    return LayerComparison(
        name=a.tensor.name,
        other_name=b.tensor.name,
        type=a.tensor.type,
        scaled=math.inf if values.problem else values.scaled,
        allowed=allowed,
        max_abs=values.max_abs,
        cosine=values.cosine,
        snr=values.snr,
        channels=found.channels,
        born_unknown=NO_RUNS,
        top_class=float(np.concatenate(same).mean()) if same else None,
        problem=values.problem,
        tensors=(b.tensor.tensor,),
        nodes=b.tensor.nodes,
    )
