"""`layertap record`: what this machine computes, to be compared on another."""

from __future__ import annotations

import argparse
import os

from layertap import _model
from layertap._engine.program import program_of
from layertap._engine.stopping import time_limit
from layertap.comparing.record_file import record_to_file
from layertap.format.atomic import check_target
from layertap.format.text import number_of
from layertap.images.preprocessing import Preprocessing

from . import OK, OWN, PARTLY_FAILED, STOPPED, Command
from .image_input import Samples
from .options import (
    add_device,
    add_layer_selection,
    add_preprocess,
    add_threads,
    add_timeout,
    layer_selectors,
)
from .printing import tell


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "inputs",
        metavar="IMAGE",
        nargs="*",
        help="images, or folders of images; or one ready batch: .npy, or .npz with an array for "
        "each input; without any, the seeded inputs of the golden sample",
    )
    parser.add_argument("-o", "--output", required=True, metavar="RECORD.npz", help="the record")
    add_layer_selection(parser)
    parser.add_argument(
        "--no-inputs",
        action="store_true",
        help="leave the inputs out: `layertap compare` then needs the same images",
    )
    add_preprocess(parser)
    add_device(parser)
    add_threads(parser)
    add_timeout(parser)


def _run(args: argparse.Namespace) -> int:
    check_target(args.output, ".npz", [args.file, *args.inputs])
    with time_limit(args.timeout):
        return _record(args)


def _record(args: argparse.Namespace) -> int:
    model = _model.open(args.file, device=args.device, threads=args.threads)
    samples = Samples(args.inputs)
    if samples.unreadable:
        return STOPPED
    layers = layer_selectors(args, model.layers)
    if args.type:
        layers = list(model.select(layers, args.type))
    made = record_to_file(
        program_of(model),
        samples.inputs,
        args.output,
        layers,
        keep_inputs=not args.no_inputs,
        preprocess=Preprocessing.of(args.preprocess) if args.preprocess else None,
        failed=samples.failed,
    )
    size = os.path.getsize(args.output) / 1e6
    inside = "with" if made.inputs else "without"
    tell(
        f"wrote {args.output} ({size:.1f} MB): {number_of(len(made.layers), 'layer')} of "
        f"{number_of(made.samples, 'sample')}, {inside} the inputs"
    )
    return PARTLY_FAILED if samples.failures else OK


COMMAND = Command(
    OWN["record"],
    _configure,
    _run,
    examples=("layertap record chest.onnx images -o here.npz",),
)
