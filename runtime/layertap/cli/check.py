"""`layertap check`: compare this machine's results with those of Keras at the export."""

from __future__ import annotations

import argparse

from layertap import _model
from layertap.comparing.check import check

from . import OK, OWN, PARTLY_FAILED, Command
from .options import add_device, add_timeout
from .printing import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    add_device(parser)
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference, relative to a layer's largest value (default: the tolerance of "
        "the export, which is 1e-4 unless the model computes in 16 bits; more for layers of a file "
        "that was converted to 16 bits)",
    )
    add_timeout(parser)


def _run(args: argparse.Namespace) -> int:
    model = _model.open(args.file, device=args.device)
    report = check(model, args.tolerance, timeout=args.timeout)
    show(str(report))
    return OK if report else PARTLY_FAILED


COMMAND = Command(OWN["check"], _configure, _run)
