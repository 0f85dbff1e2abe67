"""`layertap layers`: the table of a file's layers."""

from __future__ import annotations

import argparse
import json
import warnings

from layertap.errors import LayertapWarning
from layertap.format.apart import ways
from layertap.format.cost import activation_costs
from layertap.format.index import read_card, read_index
from layertap.format.select import select
from layertap.format.source import FileSource
from layertap.format.table import as_rows, as_text

from . import OK, OWN, Command
from .options import add_layer_selection, image_size, layer_selectors
from .printing import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    add_layer_selection(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list of objects")
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="HxW",
        help="estimate the MB of layers with free sizes, for this input size",
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="show MB for a batch of N (default 1)"
    )


def _run(args: argparse.Namespace) -> int:
    source = FileSource(args.file)
    card = read_card(source)
    known = card.layers if card else read_index(source).layers
    selectors = layer_selectors(args, known)
    everything = selectors is None and not args.type
    apart = ways(card.outputs, card) if card else {}
    layers = known if everything else select(known, selectors, args.type, apart)
    costs = activation_costs(layers, card if args.size else None, args.size, args.batch)
    if (
        args.size
        and all(cost.exact for cost in costs)
        and any(cost.nbytes is None for cost in costs)
    ):
        warnings.warn(
            f"{args.file!r} does not contain the sizes that an estimate requires, so --size has no "
            "effect.",
            LayertapWarning,
            stacklevel=2,
        )
    if args.json:
        rows = as_rows(layers)
        for row, cost in zip(rows, costs, strict=True):
            row["bytes"] = cost.nbytes
        show("[" + ",\n ".join(json.dumps(row) for row in rows) + "]")
    else:
        show(as_text(layers, costs))
    return OK


COMMAND = Command(OWN["layers"], _configure, _run)
