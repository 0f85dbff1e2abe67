"""`layertap compare`: two files, or records, layer by layer."""

from __future__ import annotations

import argparse
import json

from layertap import _model
from layertap._engine.program import Program, program_of
from layertap._engine.stopping import time_limit
from layertap.comparing.comparison import ORDERS
from layertap.comparing.measures import check_tolerance
from layertap.comparing.record import Record
from layertap.comparing.record_file import is_record, read
from layertap.comparing.sides import compare_sides
from layertap.errors import UsageError
from layertap.format.atomic import check_target
from layertap.format.select import select
from layertap.images.preprocessing import Preprocessing

from . import OK, OWN, PARTLY_FAILED, STOPPED, Command
from .image_input import Samples
from .options import (
    add_layer_selection,
    add_preprocess,
    add_threads,
    add_timeout,
    layer_selectors,
)
from .printing import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "a", metavar="A.onnx", help="the file whose values are expected; or a record, .npz"
    )
    parser.add_argument("b", metavar="B.onnx", help="the file that is judged; or a record, .npz")
    parser.add_argument(
        "inputs",
        metavar="IMAGE",
        nargs="*",
        help="images, or folders of images; or one ready batch: .npy, or .npz with an array for "
        "each input; without any, those of a record, or the seeded inputs of the golden sample",
    )
    add_layer_selection(parser)
    parser.add_argument(
        "--sort",
        choices=ORDERS,
        default="graph",
        help="the order of the layers: as they are computed (default), or by the error that is "
        "born in them",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference, relative to a layer's largest value (default: what `layertap "
        "check` allows)",
    )
    parser.add_argument(
        "--no-born",
        action="store_true",
        help="do not measure where errors are born, which takes one more run of B",
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    parser.add_argument("--csv", metavar="FILE.csv", help="write a line for each layer")
    parser.add_argument(
        "--page", metavar="FILE.html", help="write the comparison as a page for the browser"
    )
    parser.add_argument(
        "--overlay",
        metavar="FILE.json",
        help="write the errors as node data for Model Explorer, in which B is open",
    )
    add_preprocess(parser)
    for side in "ab":
        parser.add_argument(
            f"--device-{side}",
            metavar="DEVICE",
            default="cpu",
            help=f"the device of {side.upper()}: cpu (default), cuda, ..., see `layertap devices`",
        )
    add_threads(parser)
    add_timeout(parser)


def _run(args: argparse.Namespace) -> int:
    if args.tolerance is not None:
        check_tolerance(args.tolerance)
    for path, suffix in ((args.csv, ".csv"), (args.page, ".html"), (args.overlay, ".json")):
        if path:
            check_target(path, suffix, [args.a, args.b, *args.inputs])
    with time_limit(args.timeout):
        return _compare(args)


def _compare(args: argparse.Namespace) -> int:
    a = _side(args.a, args.device_a, args.threads)
    b = _side(args.b, args.device_b, args.threads)
    recipe = Preprocessing.of(args.preprocess) if args.preprocess else None
    samples = Samples(args.inputs)
    if samples.unreadable:
        return STOPPED
    table = a.layers if isinstance(a, Program) else a.table
    layers = layer_selectors(args, table)
    if args.type:
        layers = list(select(table, layers, args.type))
    found = compare_sides(
        a,
        b,
        samples.inputs,
        layers,
        tolerance=args.tolerance,
        born=not args.no_born,
        preprocess=recipe,
        failed=samples.failed,
    )
    if args.csv:
        found.to_csv(args.csv, args.sort)
    if args.page:
        found.to_page(args.page, args.sort)
    if args.overlay:
        found.to_overlay(args.overlay)
    if args.json:
        show(json.dumps(found.to_dict(args.sort), indent=1))
    else:
        show(f"{found.summary()}\n\n{found.table(args.sort)}")
    return OK if found and not samples.failures else PARTLY_FAILED


def _side(path: str, device: str, threads: int | None) -> Program | Record:
    """A file, opened, or a record."""
    if not is_record(path):
        return program_of(_model.open(path, device=device, threads=threads))
    if device != "cpu":
        raise UsageError(f"{path!r} is a record, which runs on no device. Leave out the option.")
    return read(path)


COMMAND = Command(
    OWN["compare"],
    _configure,
    _run,
    examples=(
        "layertap compare chest.onnx chest_int8.onnx images",
        "layertap compare old.onnx new.onnx --sort damage --csv layers.csv",
    ),
)
