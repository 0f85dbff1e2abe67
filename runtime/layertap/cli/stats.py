"""`layertap stats`: mean and standard deviation of images, as a preprocessing recipe."""

from __future__ import annotations

import argparse
import json
from typing import get_args

import numpy as np

from layertap.errors import ImageError
from layertap.extract.moments import collection_statistics
from layertap.format.atomic import check_target, replacing
from layertap.images.load import ColorMode, Depth, Interpolation

from . import OK, OWN, PARTLY_FAILED, Command
from .options import image_size
from .printing import show, tell


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="IMAGE_FOLDER", nargs="+", help="folders, or images")
    parser.add_argument(
        "--size",
        type=image_size,
        required=True,
        metavar="HxW",
        help="resize the images to this size",
    )
    parser.add_argument(
        "--sample",
        type=int,
        default=100,
        metavar="N",
        help="sample size: the number of images to draw (default 100)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default 0)")
    parser.add_argument(
        "--per-channel", action="store_true", help="one mean and deviation per channel"
    )
    parser.add_argument(
        "--color-mode",
        choices=get_args(ColorMode),
        default="rgb",
        help="how to convert the colours (default rgb)",
    )
    parser.add_argument(
        "--interpolation",
        choices=get_args(Interpolation),
        default="nearest",
        help="filter for resizing (default nearest)",
    )
    parser.add_argument(
        "--keep-aspect-ratio", action="store_true", help="crop instead of distorting the image"
    )
    parser.add_argument(
        "--shorter-side",
        type=int,
        metavar="N",
        help="resize to N pixels on the shorter side, then crop the centre to --size",
    )
    parser.add_argument(
        "--depth",
        choices=get_args(Depth),
        default="clip",
        help="how to convert 16-bit grey (default clip)",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE.json", help="write the recipe to a file, not to stdout"
    )


def _run(args: argparse.Namespace) -> int:
    if args.output:
        check_target(args.output, ".json", args.folder)
    found = collection_statistics(
        args.folder,
        size=args.size,
        sample=args.sample,
        seed=args.seed,
        color_mode=args.color_mode,
        interpolation=args.interpolation,
        keep_aspect_ratio=args.keep_aspect_ratio,
        shorter_side=args.shorter_side,
        depth=args.depth,
        per_channel=args.per_channel,
    )
    for reason in found.failures.values():
        tell(f"layertap: {reason}")
    if not np.all(found.std):
        raise ImageError(
            f"the standard deviation over the {found.count} images is {found.std}, and a recipe "
            "cannot divide by 0: the pixels, or those of one channel, are all equal."
        )
    text = json.dumps(found.preprocessing().to_dict(), indent=2)
    tell(
        f"mean {found.mean}, standard deviation {found.std} over {found.count} of "
        f"{found.available} images"
    )
    if args.output:
        with replacing(args.output) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    else:
        show(text)
    return PARTLY_FAILED if found.failures else OK


COMMAND = Command(
    OWN["stats"],
    _configure,
    _run,
    examples=("layertap stats images --size 320x320 -o recipe.json",),
)
