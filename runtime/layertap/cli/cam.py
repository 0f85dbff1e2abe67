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
    Explain,
    Explained,
    add_inputs,
    add_output,
    add_shared,
    explain_images,
)
from .mask_options import add_masks, check_masks, masks_of
from .options import one_layer
from .target_options import (
    add_places,
    add_target,
    check_places,
    mask_file,
    places_of,
    targets_of,
)


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
        help="gradcam (default), gradcam++, xgradcam, layercam, hirescam, gradcamelementwise or "
        "eigengradcam; without gradients eigencam, kpcacam, scorecam, ablationcam or reciprocam, "
        "and occlusion, rise or kernelshap, which mask the image if there is no --layer; of a "
        "vision transformer also rollout, and with gradients of its scores gradientrollout; a "
        "finished file computes one of them",
    )
    parser.add_argument(
        "--heads",
        metavar="HOW",
        help="how rollout joins the heads of an attention layer: mean (default), max or min",
    )
    parser.add_argument(
        "--aug-smooth", action="store_true", help="average the maps of augmented images"
    )
    parser.add_argument(
        "--eigen-smooth", action="store_true", help="use the first principal component"
    )
    add_places(parser, "; with scorecam also what is masked: layer (default) or input")
    parser.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help="number of channels that scorecam and ablationcam test",
    )
    add_masks(parser)
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="number of masks of rise (default 1000), or of coalitions of kernelshap",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the masks (default 0)")
    add_shared(
        parser,
        colormap="jet",
        batch="images, or of tested channels or masks,",
        drawn="the heat maps",
    )


def _run(args: argparse.Namespace) -> int:
    with time_limit(args.timeout):
        return explain_images(args, "cam", _check, _explaining)


def _check(args: argparse.Namespace) -> None:
    """Validate the arguments before the work."""
    if args.method is not None:
        _check_method(args, args.method)


def _check_method(args: argparse.Namespace, name: str) -> None:
    """Check that the method exists, and that the options are for it."""
    from layertap.cam.methods import find_method

    method = find_method(name)
    if args.mask is not None and mask_file(args) is None and method.takes != "masked":
        raise UsageError(
            f"--mask {args.mask} is for --method scorecam, got --method {name}. A file with a mask "
            "of the positions of the scores has a suffix, such as .png."
        )
    given = check_places(args)
    if given and not method.takes:
        raise UsageError(
            f"{given} gives the positions of the scores for methods that explain a class, got "
            f"--method {name}."
        )
    if given and args.aug_smooth:
        raise UsageError(f"{given} cannot be combined with --aug-smooth.")
    if args.channels is not None and method.takes not in ("masked", "ablated"):
        raise UsageError(
            f"--channels is for --method scorecam and ablationcam, got --method {name}."
        )
    if args.heads is not None and method.name != "rollout":
        raise UsageError(f"--heads is for --method rollout, got --method {name}.")
    check_masks(args, method.name)
    if args.target and not method.takes:
        raise UsageError(
            f"--target is for methods that explain a class; the map of {name} is the same "
            "for every class. Leave out --target."
        )


def _explaining(model: _model.Model, args: argparse.Namespace) -> Explain:
    from layertap.cam import heat_maps
    from layertap.cam.methods import DEFAULT
    from layertap.view.explained import of_heat_maps

    facts = program_of(model).finished
    if args.method is None:
        _check_method(args, (facts.method if facts else None) or DEFAULT)
    layer = None if args.layer is None else one_layer("--layer", args.layer, model.layers)
    targets, at = targets_of(args, model.labels or ()), places_of(args)

    def explain(batch: Any) -> Explained:
        maps = heat_maps(
            model,
            batch,
            layer,
            targets,
            method=args.method,
            aug_smooth=args.aug_smooth,
            eigen_smooth=args.eigen_smooth,
            mask="layer" if args.mask is None or mask_file(args) else args.mask,
            at=at,
            channels=args.channels,
            samples=args.samples,
            seed=args.seed,
            batch_size=args.batch_size,
            heads=args.heads,
            **masks_of(args),
        )
        found = {"layer": maps.layer, "method": maps.method}
        if given := args.at or mask_file(args):
            found["at"] = given
        return Explained(maps.maps, of_heat_maps(maps), found)

    return explain


COMMAND = Command(
    OWN["cam"],
    _configure,
    _run,
    examples=(
        "layertap cam chest.onnx chest.png -o heat",
        "layertap cam chest.onnx images --target Edema top --method layercam -o heat",
        "layertap cam chest.onnx chest.png --opacity heat --format pdf --width 84mm -o paper",
    ),
)
