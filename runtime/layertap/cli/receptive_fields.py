"""`layertap layers --receptive-field`: which pixels of the input each layer depends on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from layertap import _model
from layertap._engine.program import program_of
from layertap.errors import UsageError
from layertap.format.text import aligned
from layertap.measuring.receptive_field import (
    Fields,
    ReceptiveField,
    box_text,
    times,
)

from . import OK
from .options import check_not_given, layer_selectors
from .printing import show
from .ready_batch import ready_or_given


def run(args: argparse.Namespace) -> int:
    """Compute and print; return the exit code."""
    others = ("runs", "split", "server_speed", "sort", "on", "against", "output", "page", "workers")
    check_not_given(args, (*others, "batch_size"), "is not for --receptive-field. Leave it out.")
    if args.measure in (None, "random"):
        check_not_given(args, ("preprocess",), "is for an image: give --measure IMAGE, too.")
    if args.measure is None:
        check_not_given(args, ("threads",), "is for measured fields: give --measure, too.")
    if args.cost or args.batch != 1:
        name = "--cost" if args.cost else "--batch"
        raise UsageError(f"{name} is not for --receptive-field. Leave it out.")
    at = _place(args.at)
    if args.measure is not None and at is None:
        raise UsageError("--measure with --receptive-field is for one position: give --at, too.")
    model = _model.open(args.file, device=args.device, threads=args.threads)
    program = program_of(model)
    selectors = layer_selectors(args, model.layers)
    chosen = model.select(selectors, args.type)
    measure = None if args.measure is None else ready_or_given(args.measure)
    fields = Fields(program, chosen, None, args.size, measure, args.preprocess)
    layers = [layer for layer in chosen if fields.has_positions(layer)]
    if not layers:
        raise UsageError(
            "none of these layers has positions, only samples and channels. Choose layers with "
            "feature maps."
        )
    found: list[ReceptiveField] = []
    unknown: dict[str, None] = {}
    for layer in layers:
        try:
            found.append(fields.of(layer, at, box=at is not None))
        except UsageError as exc:
            if len(layers) == 1 or at is not None:
                raise
            unknown[str(exc)] = None
    if args.json:
        show(json.dumps([field.to_dict() for field in found], indent=1))
        return OK
    show("\n\n".join([*([_table(found, at is not None)] if found else []), *unknown]))
    return OK


def _place(text: str | None) -> tuple[int, ...] | None:
    """The position that `--at` gives."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--at must be ROW,COLUMN in integers, got {text!r}.") from None


def _table(fields: Sequence[ReceptiveField], boxes: bool) -> str:
    head = ["name", "positions", "size", "stride", "start", "reads all through"]
    rows: list[Sequence[str]] = [[*head, *(["box", "measured"] if boxes else [])]]
    for field in fields:
        cells = [
            field.layer,
            times(field.layer_size),
            *("" if one is None else times(one) for one in (field.size, field.stride)),
            "" if field.start is None else ", ".join(map(str, field.start)),
            field.whole or "",
        ]
        if boxes:
            cells += [box_text(field.box), box_text(field.measured) if field.measured else ""]
        rows.append(cells)
    return aligned(rows)
