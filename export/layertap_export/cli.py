"""`layertap export`, `layertap gradients` and `layertap verify`."""

from __future__ import annotations

import argparse
import sys

from layertap.cli import OK, PARTLY_FAILED, Command

TOLERANCE = 1e-4


def _configure_export(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "model")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE.onnx", help="the file to write"
    )
    parser.add_argument(
        "--layers",
        action="append",
        metavar="LAYER",
        help="expose only these: name, glob, re:PATTERN, index or slice (repeatable; default all)",
    )
    parser.add_argument(
        "--type",
        action="append",
        metavar="CLASS",
        help="expose only layers of this Keras class (repeatable)",
    )
    parser.add_argument(
        "--gradients",
        action="append",
        default=[],
        metavar="LAYER",
        help="give the gradient of the score at this layer, too: as for --layers, or last-conv, "
        "all, input (repeatable)",
    )
    _add_score(parser)
    parser.add_argument(
        "--preprocess", metavar="FILE.json", help="how an image becomes an input; kept in the file"
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="names of the classes, one per line; kept in the file"
    )
    parser.add_argument("--opset", type=int, default=18, help="ONNX opset, 13 to 18 (default 18)")
    _add_verification(parser)


def _configure_gradients(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx", help="from layertap or from elsewhere")
    parser.add_argument(
        "--layers",
        action="extend",
        nargs="+",
        required=True,
        metavar="LAYER",
        help="name, glob, re:PATTERN, index or slice; or last-conv, all, input",
    )
    _add_score(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE.onnx", help="the file to write"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest difference from central differences, as a share of the largest slope "
        "(default 1e-4)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="how long gradients are compared with central differences (default 60)",
    )


def _configure_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx", help="a file that layertap exported")
    _add_model(parser, "model")
    _add_verification(parser)


def _add_model(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(
        name,
        metavar="MODEL",
        help="a .keras file, a whole-model .h5 file, or package.module:function",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="handed to the function as its argument `weights`"
    )


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--score",
        metavar="OUTPUT",
        help="the output whose scores are differentiated; a final sigmoid or softmax is looked "
        "through, unless this is `probability` or OUTPUT:probability",
    )


def _add_verification(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest difference from Keras, as a share of a layer's largest value (default 1e-4)",
    )
    parser.add_argument(
        "--sample",
        action="append",
        default=[],
        metavar="IMAGE",
        help="compare on this image too (repeatable)",
    )
    parser.add_argument(
        "--unsafe", action="store_true", help="load models with Lambda layers: runs code in them"
    )


def _run_export(args: argparse.Namespace) -> int:
    from . import VerificationError, export

    try:
        report = export(
            args.model,
            args.output,
            layers=args.layers or "all",
            type=args.type,
            gradients=args.gradients,
            score=args.score,
            preprocess=args.preprocess,
            labels=args.labels,
            opset=args.opset,
            tolerance=args.tolerance,
            samples=args.sample,
            weights=args.weights,
            unsafe=args.unsafe,
            progress=_progress,
        )
    except VerificationError as exc:
        print(f"layertap: {exc}", file=sys.stderr)
        return PARTLY_FAILED
    print(report)
    return OK


def _run_gradients(args: argparse.Namespace) -> int:
    from . import VerificationError, add_gradients

    try:
        report = add_gradients(
            args.file,
            args.output,
            args.layers,
            score=args.score,
            tolerance=args.tolerance,
            seconds=args.seconds,
        )
    except VerificationError as exc:
        print(f"layertap: {exc}", file=sys.stderr)
        return PARTLY_FAILED
    print(report)
    return OK


def _run_verify(args: argparse.Namespace) -> int:
    from . import verify

    report = verify(
        args.file,
        args.model,
        tolerance=args.tolerance,
        samples=args.sample,
        weights=args.weights,
        unsafe=args.unsafe,
    )
    if report:
        print(report)
        return OK
    print(f"layertap: {report}", file=sys.stderr)
    return PARTLY_FAILED


def _progress(stage: str) -> None:
    if sys.stderr.isatty():
        print(f"{stage} ...", file=sys.stderr)


EXPORT = Command(
    "write a Keras model as an ONNX file with every layer an output", _configure_export, _run_export
)
GRADIENTS = Command(
    "write an ONNX file once more, with the gradients of its scores at some layers",
    _configure_gradients,
    _run_gradients,
)
VERIFY = Command(
    "compare a file with its Keras model, layer by layer", _configure_verify, _run_verify
)
