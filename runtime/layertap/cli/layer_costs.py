"""`layertap layers --cost`: what the layers of a file cost, and where to cut it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from layertap import _model
from layertap._engine.program import program_of
from layertap.errors import UsageError
from layertap.measuring.columns import check_title
from layertap.measuring.costing import RUNS, layer_costs
from layertap.measuring.layer_costs import COLUMNS, TIMED
from layertap.measuring.samples import RANDOM
from layertap.measuring.splitting import SERVER_SPEED, Split, bytes_per_second

from . import OK
from .options import check_not_given, fitted_sizes, layer_selectors
from .printing import show
from .ready_batch import ready_or_given


def run(args: argparse.Namespace) -> int:
    """Compute and print; return the exit code."""
    values_only = ("on", "against", "output", "page", "workers", "batch_size")
    check_not_given(args, values_only, "is for the values of layers, not for their cost.")
    if args.batch != 1:
        raise UsageError("the cost is that of one sample. Leave out --batch.")
    if args.split is None:
        check_not_given(args, ("server_speed",), "is for --split BANDWIDTH. Give both.")
    else:
        bytes_per_second(args.split)
    if args.split is None and args.measure is None:
        check_not_given(args, ("runs", "threads"), "is for measured times: give --measure, too.")
        if args.device != "cpu":
            raise UsageError("--device is for measured times: give --measure, too.")
    if args.measure in (None, RANDOM):
        check_not_given(args, ("preprocess",), "is for an image: give --measure IMAGE, too.")
    if args.sort is not None:
        timed = args.measure is not None or args.split is not None
        check_title(args.sort, [*(one.title for one in COLUMNS), *(TIMED if timed else ())])
    model = _model.open(args.file, device=args.device, threads=args.threads)
    program = program_of(model)
    first = next(iter(program.graph.inputs.values()), None)
    selectors = layer_selectors(args, model.layers)
    everything = selectors is None and not args.type
    found = layer_costs(
        program,
        None if everything else model.select(selectors, args.type),
        size=fitted_sizes(args.size, first.dims or () if first else ()),
        measure=_measured(args),
        runs=RUNS if args.runs is None else args.runs,
        preprocess=args.preprocess,
    )
    if args.sort is not None:
        found = found.sorted(args.sort)
    split = None
    if args.split is not None:
        speed = SERVER_SPEED if args.server_speed is None else args.server_speed
        split = Split(found, args.split, speed)
    if args.json:
        values = found.to_dict()
        if split is not None:
            values |= {"split": {**split.to_dict(), "commands": split.commands(args.file)}}
        show(json.dumps(values, indent=1))
        return OK
    if split is None or args.cost:
        show(str(found))
    if split is not None:
        lines = ["", *split.commands(args.file)] if split.best else []
        show("\n".join([*([""] if args.cost else []), str(split), *lines]))
    return OK


def _measured(args: argparse.Namespace) -> Any:
    """What `--measure` names; random numbers for `--split` alone."""
    if args.measure is None:
        return RANDOM if args.split is not None else None
    return ready_or_given(args.measure)
