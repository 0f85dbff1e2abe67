"""`layertap layers`: the table of a file's layers."""

from __future__ import annotations

import argparse
import json
import warnings

from layertap._cost import activation_costs
from layertap._index import read_index
from layertap._select import select
from layertap._source import FileSource
from layertap._table import as_rows, as_text
from layertap.errors import LayertapWarning

from . import OK, Command
from .options import add_layer_choice, chosen_layers, image_size


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    add_layer_choice(parser)
    parser.add_argument("--json", action="store_true", help="a list of objects, for machines")
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="HxW",
        help="estimate the MB of layers with free sizes for this input size",
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="MB for a batch of N (default 1)"
    )


def _run(args: argparse.Namespace) -> int:
    index = read_index(FileSource(args.file))  # not `open`, which needs numpy
    chosen = chosen_layers(args, index.layers)
    everything = chosen is None and not args.type
    layers = list(index.layers) if everything else select(index.layers, chosen, args.type)
    costs = activation_costs(layers, index.card, args.size, args.batch)
    if (
        args.size
        and all(cost.exact for cost in costs)
        and any(cost.nbytes is None for cost in costs)
    ):
        warnings.warn(
            f"{args.file!r} does not tell how its layers grow with the input, so that --size makes "
            "no difference.",
            LayertapWarning,
            stacklevel=2,
        )
    if args.json:
        rows = as_rows(layers)
        for row, cost in zip(rows, costs, strict=True):
            row["bytes"] = cost.nbytes
        print("[" + ",\n ".join(json.dumps(row) for row in rows) + "]")
    else:
        print(as_text(layers, costs))
    return OK


COMMAND = Command("print the table of a file's layers", _configure, _run)
