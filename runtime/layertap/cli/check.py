"""`layertap check`: compare this machine's results with those of Keras at the export."""

from __future__ import annotations

import argparse
import json

from layertap import _model

from . import OK, OWN, PARTLY_FAILED, Command
from .options import add_device, add_timeout, check_positive
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
    parser.add_argument("--table", action="store_true", help="print a line for each layer")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--worst",
        type=int,
        metavar="N",
        help="print the N layers that use the largest share of what is allowed, the worst first",
    )
    add_timeout(parser)


def _run(args: argparse.Namespace) -> int:
    if args.worst is not None:
        check_positive("--worst", args.worst)
    model = _model.open(args.file, device=args.device)
    report = model.check(args.tolerance, timeout=args.timeout)
    if args.json:
        show(json.dumps(report.to_dict(args.worst), indent=1))
    else:
        if args.table or args.worst is not None:
            show(f"{report.table(args.worst)}\n")
        show(str(report))
    return OK if report else PARTLY_FAILED


COMMAND = Command(
    OWN["check"],
    _configure,
    _run,
    examples=(
        "layertap check chest.onnx",
        "layertap check chest.onnx --device cuda",
    ),
)
