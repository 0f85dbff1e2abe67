"""Options that say which scores are explained, for `layertap cam` and `layertap attribute`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layertap.errors import UsageError
from layertap.images.load import load_image

from .options import parse_target
from .ready_batch import load_ready

if TYPE_CHECKING:
    from layertap.cam.targets import Array, Target


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add --target, for methods that explain a class."""
    parser.add_argument(
        "--target",
        nargs="+",
        action="extend",
        metavar="CLASS",
        help="labels or indices of classes, `all` of them, or `top` (default): each image's best "
        "class; or a .npy file with a weight for each score",
    )


def add_places(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add --at and --mask, for scores at many positions.

    Args:
        more: what else --mask means.
    """
    parser.add_argument(
        "--at",
        metavar="PLACE",
        help="for scores at many positions, such as those of a segmentation: which of them, "
        "ROW,COLUMN or a box TOP,LEFT,BOTTOM,RIGHT without the last two (default: all)",
    )
    parser.add_argument(
        "--mask",
        metavar="FILE",
        help=f"the positions as a picture (0 is outside) or a .npy file of their size{more}",
    )


def targets_of(args: argparse.Namespace, labels: Sequence[str]) -> Target:
    """The value of --target: a list of classes, or the weights in a file.

    Raises:
        UsageError: several files, or a file and classes.
    """
    texts = args.target or ["top"]
    files = [text for text in texts if text not in labels and text.lower().endswith(".npy")]
    if not files:
        return [parse_target(text, labels) for text in texts]
    if len(texts) > 1:
        raise UsageError(f"--target {files[0]} has the weights of the scores; give nothing else.")
    if args.at is not None or mask_file(args) is not None:
        raise UsageError(
            f"--target {files[0]} has a weight for each score. Leave out --at and --mask."
        )
    weights = load_ready(files[0])
    if isinstance(weights, dict) or weights.dtype.kind not in "biuf":
        raise UsageError(f"--target {files[0]} must hold numbers, one for each score.")
    found: Array = weights.astype("float64")
    return found[None, None] if found.ndim > 1 else found  # for all images, one target


def check_places(args: argparse.Namespace) -> str | None:
    """Which of --at and --mask gives positions of the scores.

    Raises:
        UsageError: both do.
    """
    file = mask_file(args)
    if args.at is not None and file is not None:
        raise UsageError("give --at or --mask, not both.")
    return "--at" if args.at is not None else "--mask" if file is not None else None


def places_of(args: argparse.Namespace) -> Any:
    """The positions of the scores that --at or --mask give; `None` for all of them."""
    if args.at is not None:
        parts = args.at.split(",")
        if not all(re.fullmatch(r"\s*-?\d{1,9}\s*", part) for part in parts):
            raise UsageError(
                f"--at must be ROW,COLUMN or TOP,LEFT,BOTTOM,RIGHT in integers, got {args.at!r}."
            )
        return [int(part) for part in parts]
    file = mask_file(args)
    if file is None:
        return None
    if file.lower().endswith(".npy"):
        return load_ready(file)
    pixels = load_image(file, color_mode="grayscale")[..., 0]
    return pixels / max(float(pixels.max()), 1.0)


def mask_file(args: argparse.Namespace) -> str | None:
    """The file that --mask names; `None` for a word."""
    return args.mask if args.mask is not None and Path(args.mask).suffix else None
