"""`layertap extract`: what is computed for each image of a collection, written to a folder."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from layertap import _model
from layertap._engine.program import program_of
from layertap._escaping import one_line
from layertap.errors import UsageError
from layertap.extract.bill import Bill
from layertap.extract.extraction import Extraction
from layertap.extract.features import Features
from layertap.extract.progress import JsonLines, Reporter, Silent, on_stream
from layertap.format.text import number_of

from . import OK, OWN, PARTLY_FAILED, SIGNALLED, Command
from .options import add_device, add_preprocess
from .printing import tell

SHOWN = 5
"""Number of failed images that are listed."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="*",
        help="folders, images, archives (.tar, .zip), or arrays with a row per item (.npy)",
    )
    parser.add_argument(
        "--layers",
        action="extend",
        nargs="+",
        required=True,
        metavar="LAYER[=REDUCTION]",
        help="names, globs or indices, with a reduction (mean, max, mean_l2, flatten, top5) or "
        "without; grad:LAYER[=CLASS] for gradients, cam:CLASS[=METHOD] for heat maps",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="the folder of the collection; if it was begun with the same request, it is "
        "continued. OUT.zarr is written as a zarr store",
    )
    parser.add_argument("--dtype", help="float16, float32 or float64 (default: each layer's own)")
    parser.add_argument(
        "--items",
        metavar="LIST",
        help="a text file with a path in each line, or a CSV file; - for stdin",
    )
    parser.add_argument(
        "--column",
        metavar="NAME",
        help="the column of the paths in a CSV file (default: the first)",
    )
    parser.add_argument(
        "--reader",
        metavar="MODULE:FUNCTION",
        help="a function that makes a PIL image or an array of a path, for other formats",
    )
    parser.add_argument(
        "--cam-layer", metavar="LAYER", help="the layer of heat maps (default: as `layertap cam`)"
    )
    add_preprocess(parser)
    parser.add_argument(
        "--shard", metavar="I/N", help="compute the part I of N, for example on another machine"
    )
    parser.add_argument(
        "--max-failures",
        metavar="N",
        help="stop when more images than this have failed: a number, or a share such as 1%%",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try the images again that failed before"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a collection that was begun differently"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse to continue with other versions, or on another device",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be written, and how long it takes"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="number of threads (default: all cores)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="number of images in one run (default: 1 on a CPU, more for small models and on other "
        "devices)",
    )
    parser.add_argument(
        "--chunk", type=int, metavar="N", help="number of images that are finished together"
    )
    add_device(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="print errors and warnings only")
    shown.add_argument(
        "--json", action="store_true", help="print the bill, progress and result as JSON lines"
    )


def _run(args: argparse.Namespace) -> int:
    if not args.sources and not args.items:
        paths = [word for word in args.layers if os.path.exists(word)]
        raise UsageError(
            "there is nothing to extract from: give folders or images, or --items."
            + (f" {paths[0]!r} was read as a layer; give it before --layers." if paths else "")
        )
    model = _model.open(args.file, device=args.device)
    with Extraction(
        program_of(model),
        args.sources,
        args.layers,
        args.output,
        dtype=args.dtype,
        preprocess=args.preprocess,
        listed=args.items,
        column=args.column,
        reader=args.reader,
        cam_layer=args.cam_layer,
        batch_size=args.batch_size,
        chunk=args.chunk,
        workers=args.workers,
        shard=args.shard,
        max_failures=args.max_failures,
        retry_failed=args.retry_failed,
        overwrite=args.overwrite,
        strict=args.strict,
    ) as extraction:
        json = JsonLines(sys.stdout) if args.json else None
        bill = extraction.bill(tried=args.dry_run)
        if json:
            json.write("bill", **bill.to_dict())
        elif bill.left and (not args.quiet or args.dry_run):
            tell(f"{bill}")
        if args.dry_run:
            if not bill.left and not json:
                tell(f"{args.output}: nothing to do.")
            return OK
        reporter: Reporter = json or (Silent() if args.quiet else on_stream(sys.stderr))
        with _finishing() as ending:
            try:
                found = extraction.run(reporter, ending.stop)
            except KeyboardInterrupt:
                tell("layertap: the same command continues; the images in hand are lost.")
                raise
    return _ended(args, bill, found, ending, json)


class _Ending:
    """Whether a signal has asked the command to end."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.number = 0


@contextmanager
def _finishing() -> Iterator[_Ending]:
    """Let SIGTERM and SIGHUP end the command after what is in hand; a second one ends it at once.

    Batch systems and machines that may be taken away send SIGTERM some time before SIGKILL.
    """
    ending = _Ending()
    before: dict[int, Any] = {}

    def end(number: int, frame: object) -> None:
        ending.number = number
        ending.stop.set()
        for one, handler in before.items():
            signal.signal(one, handler)
        tell("layertap: finishing the images in hand. A second signal stops at once.")

    for name in ("SIGTERM", "SIGHUP"):
        one = getattr(signal, name, None)
        if one is not None and signal.getsignal(one) is not signal.SIG_IGN:
            before[one] = signal.signal(one, end)
    try:
        yield ending
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _ended(
    args: argparse.Namespace, bill: Bill, found: Features, ending: _Ending, json: JsonLines | None
) -> int:
    """Say how it ended; return the exit code."""
    failed = len(found.errors)
    if json:
        json.write(
            "end",
            rows=len(found),
            done=found.done_rows,
            failed=failed,
            complete=found.complete,
            nonfinite=dict(found.nonfinite),
        )
    if not bill.left and not json and not args.quiet:  # now that no image has changed
        tell(f"{args.output}: nothing to do.")
    if bill.left and not json and not args.quiet:
        state = "" if found.complete else f" of {len(found):,}"
        noun = "row" if len(found) == 1 else "rows"
        tell(f"wrote {args.output}: {found.done_rows:,}{state} {noun}, {failed:,} failed")
    if bill.left or args.retry_failed:
        for row, reason in sorted(found.errors.items())[:SHOWN]:
            tell(f"layertap: {one_line(found.ids[row])} (row {row}): {one_line(reason)}")
        if failed > SHOWN:
            tell(f"layertap: and {number_of(failed - SHOWN, 'other image')}; see {args.output}.")
    for key, count in found.nonfinite.items():
        half = found.column(key).dtype == "float16"
        tell(
            f"layertap: warning: {one_line(key)}: {number_of(count, 'value')} not finite."
            + (" float16 holds numbers up to 65,504." if half else "")
        )
    if ending.number and not found.complete:
        tell("layertap: ended by a signal. The same command continues.")
        return SIGNALLED + ending.number
    return PARTLY_FAILED if failed else OK


COMMAND = Command(
    OWN["extract"],
    _configure,
    _run,
    examples=(
        "layertap extract chest.onnx images --layers bn=mean -o features",
        "layertap extract chest.onnx images --layers bn=mean -o features --dry-run",
    ),
)
