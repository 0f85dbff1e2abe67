"""Options of methods that mask parts of the image, for `layertap cam` and `layertap attribute`."""

from __future__ import annotations

import argparse
from typing import Any

from layertap.errors import UsageError


def add_masks(parser: argparse.ArgumentParser) -> None:
    """Add --window, --stride and --baseline."""
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
        "--baseline",
        metavar="VALUE",
        help="what replaces masked parts: mean, blur, zero (default), or another number",
    )


def masks_of(args: argparse.Namespace) -> dict[str, Any]:
    """These options as the library takes them."""
    return {
        "window": _sizes(args.window),
        "stride": _sizes(args.stride),
        "baseline": _baseline(args.baseline),
    }


def check_masks(
    args: argparse.Namespace, method: str, extra: dict[str, tuple[str, ...]] | None = None
) -> None:
    """Refuse options that a method does not take.

    Args:
        method: the name of a known method.
        extra: by option, further methods that take it.

    Raises:
        UsageError: one is given.
    """
    from layertap.cam.masking import TAKES

    for option in ("window", "stride", "samples", "baseline"):
        known = [one for one, takes in TAKES.items() if option in (*takes, "baseline")]
        known += (extra or {}).get(option, ())
        if getattr(args, option) is not None and method not in known:
            raise UsageError(
                f"--{option} is for --method {', '.join(known)}, got --method {method}."
            )


def _sizes(given: list[int] | None) -> Any:
    """One size for all axes, or one for each."""
    return given[0] if given is not None and len(given) == 1 else given


def _baseline(text: str | None) -> Any:
    """A number if it is one, otherwise a name."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
