"""`layertap attribute`: how much each pixel counts for a class, as pictures and as arrays."""

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
from .ready_batch import load_ready, ready_batch
from .target_options import add_places, add_target, check_places, mask_file, places_of, targets_of


def _configure(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    add_target(parser)
    add_places(parser)
    add_output(parser, "attribute")
    parser.add_argument(
        "--method",
        default="integrated_gradients",
        help="integrated_gradients (default), saliency, smoothgrad, input_x_gradient or "
        "expected_gradients; without gradients occlusion, rise or kernelshap",
    )
    parser.add_argument(
        "--input",
        metavar="NAME",
        help="the input, in a model with several (default: the first that is an image)",
    )
    parser.add_argument(
        "--steps", type=int, default=50, help="of integrated_gradients: points (default 50)"
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="of smoothgrad: draws of noise (default 25); of expected_gradients: draws (default "
        "200); of rise: masks (default 1000); of kernelshap: coalitions",
    )
    add_masks(parser)
    parser.add_argument(
        "--background",
        metavar="FILE",
        help="of expected_gradients and kernelshap: samples to compare with, as a ready batch: "
        ".npy, or .npz with an array for each input",
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=0.15,
        help="of smoothgrad: deviation, as a fraction of the range of the input (default 0.15)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of what is drawn at random (default 0)"
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=99.0,
        help="of the absolute values, the one that gets the last colour (default 99)",
    )
    add_shared(
        parser,
        colormap="RdBu_r, or jet for saliency",
        batch="images, or of points,",
        drawn="the pictures",
    )


def _run(args: argparse.Namespace) -> int:
    with time_limit(args.timeout):
        return explain_images(args, "attribute", _check, _explaining)


def _check(args: argparse.Namespace) -> None:
    """Validate the arguments before the work."""
    from layertap.cam.attributions import check_method

    check_method(args.method)
    check_places(args)
    if args.mask is not None and mask_file(args) is None:
        raise UsageError(
            f"--mask must be a picture or a .npy file with the positions of the scores, got "
            f"{args.mask!r}."
        )
    check_masks(
        args,
        args.method,
        {
            "samples": ("smoothgrad", "expected_gradients"),
            "baseline": ("integrated_gradients",),
        },
    )
    if args.background is not None and ready_batch([args.background]) is None:
        raise UsageError(
            f"--background must be a .npy or .npz file with a ready batch, got {args.background}."
        )


def _explaining(model: _model.Model, args: argparse.Namespace) -> Explain:
    from layertap.view.explained import attributed

    targets = targets_of(args, model.labels or ())
    options = {
        "steps": args.steps,
        "samples": args.samples,
        "noise": args.noise,
        "seed": args.seed,
        "batch_size": args.batch_size,
        "background": None if args.background is None else load_ready(args.background),
        "at": places_of(args),
        **masks_of(args),
    }

    def explain(batch: Any) -> Explained:
        found = attributed(
            program_of(model), batch, args.method, targets, options=options, name=args.input
        )
        facts = {"method": args.method}
        if given := args.at or args.mask:
            facts["at"] = given
        return Explained(found.values, found.samples, facts)

    return explain


COMMAND = Command(
    OWN["attribute"],
    _configure,
    _run,
    examples=(
        "layertap attribute chest.onnx chest.png --target Edema -o attributions",
        "layertap attribute chest.onnx images --method saliency --show overlay -o attributions",
    ),
)
