"""`layertap layers`: the table of a file's layers."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence

from layertap.errors import LayertapWarning, UsageError
from layertap.format.apart import ways
from layertap.format.attention_rows import price
from layertap.format.cost import activation_costs
from layertap.format.index import read_card, read_index
from layertap.format.layer import Layer
from layertap.format.select import select
from layertap.format.source import FileSource
from layertap.format.table import as_rows, as_text

from . import OK, OWN, Command
from .options import (
    add_device,
    add_layer_selection,
    add_preprocess,
    add_threads,
    check_not_given,
    fitted_sizes,
    free_sizes,
    layer_selectors,
)
from .printing import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    add_layer_selection(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON list of objects; an object with --cost, --split or --on",
    )
    parser.add_argument(
        "--sort",
        metavar="COLUMN",
        help="with --cost or --on: order the layers by a column of the table, the largest number "
        "first, for example 'multiply-adds', ms, dead or divergence",
    )
    parser.add_argument(
        "--names", action="store_true", help="print the names only, one in each line"
    )
    parser.add_argument(
        "--size",
        type=free_sizes,
        metavar="HxW",
        help="estimate the MB of layers with free sizes, for this input size: HEIGHTxWIDTH, or one "
        "number for all free sizes, such as the length of a text",
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="show MB for a batch of N (default 1)"
    )
    cost = parser.add_argument_group("cost of the layers")
    cost.add_argument(
        "--cost",
        action="store_true",
        help="print multiply-adds, parameters, bytes of activations, and bytes that cross a cut; "
        "--size gives free sizes",
    )
    cost.add_argument(
        "--measure",
        metavar="IMAGE",
        help="measure the milliseconds of each layer on an image or a batch (.npy, .npz), or on "
        "`random` numbers",
    )
    cost.add_argument(
        "--runs", type=int, metavar="N", help="number of timed runs (default 10); medians are shown"
    )
    cost.add_argument(
        "--split",
        metavar="BANDWIDTH",
        help="find the best place to cut between this device and a server, for 10Mbit/s or 1MB/s",
    )
    cost.add_argument(
        "--server-speed",
        type=float,
        metavar="TIMES",
        help="how many times as fast as this device the server is (default 10)",
    )
    add_threads(cost)
    field = parser.add_argument_group("receptive fields of the layers")
    field.add_argument(
        "--receptive-field",
        action="store_true",
        help="print which pixels of the input the positions of each layer depend on: size, stride, "
        "start",
    )
    field.add_argument(
        "--at",
        metavar="ROW,COLUMN",
        help="print the rows and columns of the input for this position of the layers; with "
        "--measure also those that change it",
    )
    values = parser.add_argument_group("values of the layers on images")
    values.add_argument(
        "--on",
        nargs="+",
        action="extend",
        metavar="IMAGE",
        help="run images, folders, archives or an .npy file, and print what each layer's values "
        "are: mean, deviation, extremes, zeros, dead and saturated channels",
    )
    values.add_argument(
        "--against",
        nargs="+",
        action="extend",
        metavar="IMAGE",
        help="other images, or statistics that -o wrote: print how far the values are from theirs",
    )
    values.add_argument(
        "-o", "--output", metavar="OUT.json", help="write the statistics to a file for --against"
    )
    values.add_argument(
        "--page", metavar="PAGE.html", help="write a page with the statistics and histograms"
    )
    add_preprocess(values)
    values.add_argument(
        "--workers", type=int, metavar="N", help="number of threads (default: all cores)"
    )
    values.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="number of images in one run (default: 1 on a CPU, more for small models and on other "
        "devices)",
    )
    add_device(values)


def _run(args: argparse.Namespace) -> int:
    others = (args.json, args.cost, args.measure, args.split, args.on, args.receptive_field)
    if args.names and any(others):
        raise UsageError("--names prints nothing but names. Leave out the other options.")
    if args.receptive_field:
        from . import receptive_fields  # needs numpy, which the table does not

        return receptive_fields.run(args)
    check_not_given(args, ("at",), "is for --receptive-field. Give both.")
    if args.cost or args.measure is not None or args.split is not None:
        from . import layer_costs  # needs numpy, which the table does not

        return layer_costs.run(args)
    check_not_given(args, ("server_speed",), "is for the place to cut: give --split, too.")
    check_not_given(args, ("runs", "threads"), "is for the cost of layers: give --measure, too.")
    if args.on:
        from . import layer_statistics  # needs numpy, which the table does not

        return layer_statistics.run(args)
    check_not_given(args, ("sort",), "is for --on and --cost. Give one of them, too.")
    values_only = ("against", "output", "page", "preprocess", "workers", "batch_size")
    check_not_given(args, values_only, "is for the values of layers on images: give --on, too.")
    if args.device != "cpu":
        raise UsageError("--device is for --on and --measure, and the table runs nothing.")
    source = FileSource(args.file)
    card = read_card(source)
    known = card.layers if card else read_index(source).layers
    selectors = layer_selectors(args, known)
    everything = selectors is None and not args.type
    layers: Sequence[Layer] = known
    if not everything:
        layers = select(
            known, selectors, args.type, lambda: ways(card.outputs, card) if card else {}
        )
    if args.names:
        show("\n".join(layer.name for layer in layers))
        return OK
    inputs = card.inputs if card else ()
    size = fitted_sizes(args.size, inputs[0].shape if inputs else ())
    costs = activation_costs(layers, card if size else None, size, args.batch)
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
        note = price(layers)
        show(as_text(layers, costs) + (f"\n\n{note}" if note else ""))
    return OK


COMMAND = Command(
    OWN["layers"],
    _configure,
    _run,
    examples=(
        "layertap layers chest.onnx",
        "layertap layers chest.onnx --layers 'conv5_*' --type Conv2D",
        "layertap layers chest.onnx --on images/ --type Activation --sort dead",
        "layertap layers chest.onnx --on today/ --against reference.json --sort divergence",
        "layertap layers chest.onnx --measure random --sort ms",
        "layertap layers chest.onnx --split 10Mbit/s",
        "layertap layers chest.onnx --receptive-field --layers pool4_pool --at 3,5",
        "layertap layers chest.onnx --type Conv2D --names",
    ),
)
