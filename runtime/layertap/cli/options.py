"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence

from layertap.format.layer import Layer
from layertap.format.select import Selector, parse_selector

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_layer_choice(parser: argparse.ArgumentParser) -> None:
    """`--layers` and `--type`, as `layertap export` has them."""
    parser.add_argument(
        "--layers",
        action="append",
        metavar="LAYER",
        help="a name, glob, re:PATTERN, index, slice or `all` (repeatable)",
    )
    parser.add_argument(
        "--type", action="append", metavar="CLASS", help="a Keras class name (repeatable)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`, as `layertap.open` takes it."""
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu (default), cuda, cuda:1, auto, or another of `layertap devices`",
    )


def chosen_layers(args: argparse.Namespace, layers: Sequence[Layer]) -> list[Selector] | None:
    """What `--layers` asks for; `None` if it was not given, or asks for all."""
    if not args.layers or ("all" in args.layers and all(x.name != "all" for x in layers)):
        return None
    return [parse_selector(text, layers) for text in args.layers]


def image_size(text: str) -> tuple[int, int]:
    """`320x320`, height first, as an argparse type; `320` is both."""
    parts = text.lower().split("x")
    try:
        sizes = [int(part) for part in parts]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or any(size < 1 for size in sizes):
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"{text!r} is no size: give HEIGHTxWIDTH, as in 320x320")
    return sizes[0], sizes[-1]
