"""`layertap layers`: the table of a file's layers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from layertap.errors import LayertapWarning
from layertap.format.cost import activation_costs
from layertap.format.index import read_outline
from layertap.format.source import FileSource
from layertap.format.table import as_rows, as_text

from . import OK, OWN, Command

if TYPE_CHECKING:
    import argparse

    from layertap.format.card import Card
    from layertap.format.layer import Layer


def _configure(parser: argparse.ArgumentParser) -> None:
    from .options import add_layer_selection, image_size

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
    from layertap.format.select import select

    from .options import layer_selectors

    known, card = _read(FileSource(args.file), args.size is not None)
    selectors = layer_selectors(args, known)
    everything = selectors is None and not args.type
    layers = known if everything else select(known, selectors, args.type)
    costs = activation_costs(layers, card, args.size, args.batch)
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
        print("[" + ",\n ".join(json.dumps(row) for row in rows) + "]")
    else:
        print(as_text(layers, costs))
    return OK


def _read(source: FileSource, with_card: bool) -> tuple[Sequence[Layer], Card | None]:
    """The layers, and the card if it was requested and the file has one."""
    if not with_card:
        layers = read_outline(source)
        if layers is not None:
            return layers, None
    from layertap.format.index import read_index  # faster than `open`, which imports numpy

    index = read_index(source)
    return index.layers, index.card


def _print(file: str) -> int:
    layers, _ = _read(FileSource(file), False)
    print(as_text(layers, activation_costs(layers, None)))
    return OK


COMMAND = Command(OWN["layers"], _configure, _run, _print)
