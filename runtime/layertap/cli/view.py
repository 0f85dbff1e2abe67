"""`layertap view`: a page for the browser."""

from __future__ import annotations

import argparse
from typing import Any

from layertap import _model
from layertap._engine.program import program_of
from layertap._engine.stopping import time_limit
from layertap.errors import UsageError
from layertap.format.atomic import check_target, replacing
from layertap.format.select import parse_selector
from layertap.images.preprocessing import Preprocessing
from layertap.view.engine import find_engine
from layertap.view.live import live_page
from layertap.view.samples import Sample, picture_of, samples_of, short_names
from layertap.view.web_page import MAX_MB, checked, make_page

from . import OK, OWN, PARTLY_FAILED, STOPPED, Command
from .image_input import ImageInput, recipe_for
from .options import (
    add_device,
    add_layer_selection,
    add_preprocess,
    add_threads,
    add_timeout,
    check_positive,
    layer_selectors,
    parse_target,
)
from .printing import tell
from .ready_batch import load_ready, ready_batch


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx")
    parser.add_argument(
        "inputs",
        metavar="IMAGE",
        nargs="*",
        help="images, or folders of images; or one ready batch: .npy, or .npz with an array for "
        "each input; without any, the page has the layers and the verification",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="PAGE.html", help="the page; one file"
    )
    add_layer_selection(parser)
    parser.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help="number of channels of each layer, the strongest (default: up to 64, as many as fit)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        action="extend",
        metavar="METHOD",
        help="methods of heat maps, as in `layertap cam` (default: gradcam, layercam, hirescam and "
        "eigencam; without gradients eigencam)",
    )
    parser.add_argument(
        "--target",
        nargs="+",
        action="extend",
        metavar="CLASS",
        help="classes of the heat maps: labels or indices, `all`, or `top` (default: the best "
        "classes of the images)",
    )
    parser.add_argument(
        "--cam-layer", metavar="LAYER", help="the layer of heat maps (default: as `layertap cam`)"
    )
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        metavar="N",
        help="number of classes to show for each image (default 5)",
    )
    parser.add_argument(
        "--max-mb",
        type=float,
        default=MAX_MB,
        metavar="MB",
        help="largest size of the page in MB (default 10): what does not fit is shown in a lower "
        "resolution, or left out",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="put the model and an engine into the page, which runs pictures dropped on it",
    )
    parser.add_argument(
        "--engine",
        metavar="FOLDER",
        help="for --live: the folder of the engine that `make javascript` builds (default: "
        "LAYERTAP_ENGINE, or that of this checkout)",
    )
    add_preprocess(parser)
    add_device(parser)
    add_threads(parser)
    add_timeout(parser)


def _run(args: argparse.Namespace) -> int:
    with time_limit(args.timeout):
        return _make(args)


def _make(args: argparse.Namespace) -> int:
    check_positive("--top", args.top)
    if args.channels is not None:
        check_positive("--channels", args.channels)
    check_target(args.output, ".html", [args.file, *args.inputs])
    _check_live(args)
    engine = find_engine(args.engine) if args.live else None
    model = _model.open(args.file, device=args.device, threads=args.threads)
    program = program_of(model)
    asked = checked(
        layers=_layers(model, args),
        methods=args.methods,
        target=args.target and [parse_target(text, model.labels or ()) for text in args.target],
        top=args.top,
        channels=args.channels,
        cam_layer=args.cam_layer and parse_selector(args.cam_layer, model.layers),
        max_mb=args.max_mb,
    )
    failures: list[str] = []
    ready = ready_batch(args.inputs)
    if ready is not None:
        samples = samples_of(program, load_ready(ready), None)
    else:
        samples, failures = _images(model, args)
        if args.inputs and not samples:
            return STOPPED
    if engine is not None:
        recipe = Preprocessing.of(args.preprocess) if args.preprocess else model.preprocessing
        page = live_page(program, samples, args.top, args.channels, recipe, engine)
    else:
        page = make_page(program, samples, asked)
    with replacing(args.output) as temporary:
        temporary.write_bytes(page.html)
    tell(f"wrote {args.output} ({len(page.html) / 1e6:.1f} MB): {page.contents}")
    for text in page.left_out:
        tell(f"left out: {text}.")
    return PARTLY_FAILED if failures else OK


def _check_live(args: argparse.Namespace) -> None:
    """Check that options for values are not given with those for a live page."""
    given = {
        "--layers": args.layers, "--type": args.type, "--methods": args.methods,
        "--target": args.target, "--cam-layer": args.cam_layer,
    }  # fmt: skip
    unused = [option for option, value in given.items() if value and args.live]
    if unused:
        raise UsageError(
            f"{unused[0]} chooses values, but a live page computes all that is asked for in it. "
            "Leave out one of the two."
        )
    if args.engine is not None and not args.live:
        raise UsageError("--engine is for pages with the model inside: give --live, too.")


def _layers(model: _model.Model, args: argparse.Namespace) -> Any:
    """The layers of `--layers` and `--type`; `None` for the default choice."""
    selectors = layer_selectors(args, model.layers)
    if selectors is None and not args.layers and not args.type:
        return None
    return model.select(selectors, args.type)


def _images(model: _model.Model, args: argparse.Namespace) -> tuple[list[Sample], list[str]]:
    """The images that could be read, and what is wrong with the others."""
    if not args.inputs:
        return [], []
    recipe = recipe_for(model, args)
    given = ImageInput(args.inputs)
    images = list(given.prepared(recipe))
    names = short_names([image.path for image in images])
    finished = program_of(model).finished is not None
    samples = [
        Sample(
            name,
            image.pixels[None],
            picture_of(image.path, recipe),
            None if finished else recipe,
        )
        for name, image in zip(names, images, strict=True)
    ]
    return samples, given.failures


COMMAND = Command(
    OWN["view"],
    _configure,
    _run,
    examples=("layertap view chest.onnx images -o page.html",),
)
