"""`layertap layers --on`: what the layers of a file do on images, and how far from others."""

from __future__ import annotations

import argparse
import json
import sys

from layertap import _model
from layertap._engine.program import program_of
from layertap._escaping import one_line
from layertap.errors import UsageError
from layertap.extract.progress import on_stream
from layertap.format.atomic import check_target, replacing
from layertap.format.text import number_of
from layertap.images.preprocessing import Preprocessing
from layertap.measuring.collecting import layer_statistics
from layertap.measuring.columns import check_title
from layertap.measuring.drift import TITLES, Drift
from layertap.measuring.layer_statistics import COLUMNS, LayerStatistics
from layertap.measuring.pages import statistics_page

from . import OK, PARTLY_FAILED
from .options import layer_selectors
from .printing import show, tell

SHOWN = 5
"""Number of failed images that are listed."""


def run(args: argparse.Namespace) -> int:
    """Measure, write and print; return the exit code."""
    given = [args.file, *args.on, *(args.against or ())]
    if args.output:
        check_target(args.output, ".json", given)
    if args.page:
        check_target(args.page, ".html", given)
    if args.sort is not None:
        check_title(args.sort, TITLES if args.against else [one.title for one in COLUMNS])
    if args.size or args.batch != 1:
        raise UsageError("--size and --batch are for the table without --on. Leave them out.")
    reference = _saved(args)
    model = _model.open(args.file, device=args.device)
    recipe = Preprocessing.of(args.preprocess) if args.preprocess else None
    found = _measured(model, args, args.on, recipe)
    if args.against and reference is None:
        reference = _measured(model, args, args.against, recipe)
    drift = Drift(found, reference) if reference else None
    if args.sort is not None:
        found, drift = _sorted(found, drift, args.sort)
    if args.output:
        found.save(args.output)
        tell(f"wrote {args.output}: {number_of(len(found.rows), 'layer')}")
    if args.page:
        page = statistics_page(found, drift)
        with replacing(args.page) as temporary:
            temporary.write_bytes(page)
        tell(f"wrote {args.page} ({len(page) / 1e6:.1f} MB)")
    if args.json:
        show(json.dumps((drift or found).to_dict(), indent=1))
    else:
        show(str(drift or found))
    failed = [*found.failures.items()]
    if args.against and reference is not None and not _is_saved(args):
        failed += reference.failures.items()
    for name, reason in failed[:SHOWN]:
        tell(f"layertap: {one_line(name)}: {one_line(reason)}")
    if len(failed) > SHOWN:
        tell(f"layertap: and {number_of(len(failed) - SHOWN, 'other image')}.")
    for name, reason in found.left_out.items():
        tell(f"layertap: warning: {one_line(name)} is left out: {one_line(reason)}.")
    return PARTLY_FAILED if failed else OK


def _sorted(
    found: LayerStatistics, drift: Drift | None, column: str
) -> tuple[LayerStatistics, Drift | None]:
    """Both in the order of a column of the table that is printed."""
    if drift is None:
        return found.sorted(column), None
    drift = drift.sorted(column)
    places = {row.name: at for at, row in enumerate(drift.rows)}
    rows = sorted(found.rows, key=lambda row: places.get(row.name, len(places)))
    ordered = LayerStatistics(rows, found.model, found.images, found.failures, found.left_out)
    return ordered, drift


def _is_saved(args: argparse.Namespace) -> bool:
    return bool(args.against) and any(path.lower().endswith(".json") for path in args.against)


def _saved(args: argparse.Namespace) -> LayerStatistics | None:
    """The statistics in the file of `--against`; `None` if it is images."""
    if not _is_saved(args):
        return None
    if len(args.against) > 1:
        raise UsageError("--against takes images, or one file of statistics, not both.")
    return LayerStatistics.load(args.against[0])


def _measured(
    model: _model.Model,
    args: argparse.Namespace,
    source: list[str],
    recipe: Preprocessing | None,
) -> LayerStatistics:
    layers = model.select(layer_selectors(args, model.layers), args.type)
    return layer_statistics(
        program_of(model),
        source,
        layers,
        batch_size=args.batch_size,
        workers=args.workers,
        preprocess=recipe,
        progress=on_stream(sys.stderr),
    )
