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
        help="gradcam (default), gradcam++, xgradcam, layercam, hirescam, gradcamelementwise or "
        "eigengradcam; without gradients eigencam, kpcacam, scorecam, ablationcam or reciprocam, "
        "and occlusion, rise or kernelshap, which mask the image if there is no --layer; a "
        "finished file computes one of them",
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
    parser.add_argument(
        "--window",
        type=int,
        nargs="+",
        metavar="N",
        help="size of the windows of occlusion and the patches of kernelshap: one number, or one "
        "for each axis (default: an eighth)",
    )
    parser.add_argument(
        "--stride",
        type=int,
        nargs="+",
        metavar="N",
        help="by how much the windows of occlusion move (default: half a window)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="number of masks of rise (default 1000), or of coalitions of kernelshap",
    )
    parser.add_argument(
        "--baseline",
        metavar="VALUE",
        help="what replaces masked parts: mean, blur, zero (default), or another number",
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
        return explain_images(args, "cam", _check, _explained)


def _check(args: argparse.Namespace) -> None:
    """Validate the arguments before the work."""
    if args.method is not None:
        _check_method(args, args.method)


def _check_method(args: argparse.Namespace, name: str) -> None:
    """Check that the method exists, and that the options are for it."""
    from layertap.cam.masking import TAKES
    from layertap.cam.methods import find_method

    method = find_method(name)
    if args.mask is not None and method.takes != "masked":
        raise UsageError(f"--mask is for --method scorecam, got --method {name}.")
    if args.channels is not None and method.takes not in ("masked", "ablated"):
        raise UsageError(
            f"--channels is for --method scorecam and ablationcam, got --method {name}."
        )
    for option in ("window", "stride", "samples", "baseline"):
        takes = (*TAKES.get(method.name, ()), *(["baseline"] if method.name in TAKES else []))
        if getattr(args, option) is not None and option not in takes:
            known = [one for one, takes in TAKES.items() if option in (*takes, "baseline")]
            raise UsageError(f"--{option} is for --method {', '.join(known)}, got --method {name}.")
    if args.target and not method.takes:
        raise UsageError(
            f"--target is for methods that explain a class; the map of {name} is the same "
            "for every class. Leave out --target."
        )


def _explained(model: _model.Model, args: argparse.Namespace, batch: Any) -> Explained:
    from layertap.cam import heat_maps
    from layertap.cam.methods import DEFAULT
    from layertap.view.explained import of_heat_maps

    facts = program_of(model).finished
    if args.method is None:
        _check_method(args, (facts.method if facts else None) or DEFAULT)
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
        window=_sizes(args.window),
        stride=_sizes(args.stride),
        samples=args.samples,
        baseline=_baseline(args.baseline),
        seed=args.seed,
        batch_size=args.batch_size,
    )
    found = {"layer": maps.layer, "method": maps.method}
    return Explained(maps.maps, of_heat_maps(program_of(model), maps), found)


def _sizes(given: list[int] | None) -> Any:
    """One size for all axes, or one for each."""
    return given[0] if given is not None and len(given) == 1 else given


def _baseline(text: str | None) -> Any:
    """A number if it is one, otherwise a name."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


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
