"""`layertap cam`: heat maps for images, as pictures and as arrays."""

from __future__ import annotations

import argparse
from typing import Any

from layertap import _model
from layertap._engine.program import program_of
from layertap._engine.stopping import time_limit
from layertap.errors import UsageError

from . import OWN, Command
from .explained_images import (
    Explained,
    add_inputs,
    add_output,
    add_shared,
    add_target,
    explain_images,
)
from .options import one_layer, parse_target


def _configure(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument(
        "--layer",
        metavar="LAYER",
        help="a name, an index, or last-conv, the last layer with feature maps (default: the last "
        "layer with gradients in the file)",
    )
    add_target(parser)
    add_output(parser, "cam")
    parser.add_argument(
        "--method",
        default="gradcam",
        help="gradcam (default), gradcam++, xgradcam, layercam, hirescam, gradcamelementwise or "
        "eigengradcam; without gradients eigencam, kpcacam, scorecam or ablationcam",
    )
    parser.add_argument(
        "--aug-smooth", action="store_true", help="average the maps of augmented images"
    )
    parser.add_argument(
        "--eigen-smooth", action="store_true", help="use the first principal component"
    )
    parser.add_argument("--mask", help="what scorecam masks: layer (default) or input")
    parser.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help="number of channels that scorecam and ablationcam test",
    )
    add_shared(
        parser, colormap="jet", batch="images, or of tested channels,", drawn="the heat maps"
    )


def _run(args: argparse.Namespace) -> int:
    with time_limit(args.timeout):
        return explain_images(args, "cam", _check, _explained)


def _check(args: argparse.Namespace) -> None:
    """Validate the arguments before the work."""
    from layertap.cam.methods import find_method

    method = find_method(args.method)
    if args.mask is not None and method.takes != "masked":
        raise UsageError(f"--mask is for --method scorecam, got --method {args.method}.")
    if args.channels is not None and method.takes not in ("masked", "ablated"):
        raise UsageError(
            f"--channels is for --method scorecam and ablationcam, got --method {args.method}."
        )
    if args.target and not method.takes:
        raise UsageError(
            f"--target is for methods that explain a class; the map of {args.method} is the same "
            "for every class. Leave out --target."
        )


def _explained(model: _model.Model, args: argparse.Namespace, batch: Any) -> Explained:
    from layertap.cam import heat_maps
    from layertap.view.explained import of_heat_maps

    layer = None if args.layer is None else one_layer("--layer", args.layer, model.layers)
    maps = heat_maps(
        model,
        batch,
        layer,
        [parse_target(text, model.labels or ()) for text in args.target or ["top"]],
        method=args.method,
        aug_smooth=args.aug_smooth,
        eigen_smooth=args.eigen_smooth,
        mask=args.mask or "layer",
        channels=args.channels,
        batch_size=args.batch_size,
    )
    facts = {"layer": maps.layer, "method": maps.method}
    return Explained(maps.maps, of_heat_maps(program_of(model), maps), facts)


COMMAND = Command(OWN["cam"], _configure, _run)
