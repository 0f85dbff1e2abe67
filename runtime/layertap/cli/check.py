"""`layertap check`: does this machine compute what Keras computed at the export?"""

from __future__ import annotations

import argparse

from layertap import _model
from layertap._check import check

from . import OK, PARTLY_FAILED, Command


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu (default), cuda, cuda:1, auto, or another of `layertap devices`",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference, as a share of a layer's largest value (default: as the export "
        "allowed, 1e-4 unless the model computes in 16 bits)",
    )


def _run(args: argparse.Namespace) -> int:
    report = check(_model.open(args.file, device=args.device), args.tolerance)
    print(report)
    return OK if report else PARTLY_FAILED


COMMAND = Command("compare this machine with the sample in the file", _configure, _run)
