"""`layertap cut`: write a part of a model to a new file."""

from __future__ import annotations

import argparse
import os

from layertap import _model
from layertap._engine.program import program_of
from layertap.errors import UsageError
from layertap.format.card import TensorInfo
from layertap.format.select import parse_selector
from layertap.format.text import type_text

from . import OK, OWN, Command
from .options import add_class_input, add_strip
from .printing import tell


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "--from",
        dest="start",
        nargs="+",
        action="extend",
        metavar="LAYER",
        help="layers at which the part starts (default: the model's inputs)",
    )
    parser.add_argument(
        "--to",
        dest="end",
        nargs="+",
        action="extend",
        metavar="LAYER",
        help="layers at which the part ends (default: the model's outputs)",
    )
    add_class_input(parser, "as in FILE")
    add_strip(parser)
    parser.add_argument("-o", "--output", required=True, metavar="PART.onnx", help="the new file")


def _run(args: argparse.Namespace) -> int:
    if not args.start and not args.end and not args.class_input and not args.strip:
        raise UsageError(
            "give --to, --from or both: without them the part would be the whole model. "
            "`layertap layers` lists the layers."
        )
    model = _model.open(args.file)
    start, end = (
        [parse_selector(text, model.layers) for text in texts] if texts else None
        for texts in (args.start, args.end)
    )
    model.cut(args.output, start, end, class_input=args.class_input, strip=args.strip)
    part = _model.open(args.output)
    data = (
        os.path.join(os.path.dirname(args.output), name)
        for name in program_of(part).graph.locations
    )
    size = sum(map(os.path.getsize, (args.output, *data)))
    tell(
        f"wrote {args.output} ({size / 1e6:.1f} MB): "
        f"{_tensors(part.inputs)} -> {_tensors(part.outputs)}"
    )
    return OK


def _tensors(infos: tuple[TensorInfo, ...]) -> str:
    return ", ".join(f"{info.name} {type_text(info.shape, info.dtype)}" for info in infos) or "none"


COMMAND = Command(
    OWN["cut"],
    _configure,
    _run,
    examples=(
        "layertap cut chest.onnx --to bn -o features.onnx",
        "layertap cut chest.onnx --from bn -o head.onnx",
    ),
)
