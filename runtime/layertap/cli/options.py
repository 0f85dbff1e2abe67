"""Options that several commands share, and checks of their values."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from layertap.errors import OutputError, UsageError
from layertap.format.layer import Layer
from layertap.format.select import Selector, parse_selector


def add_layer_selection(parser: argparse.ArgumentParser, reductions: bool = False) -> None:
    """Add `--layers` and `--type`; `layertap export` has the same options.

    Args:
        reductions: whether a layer may have a reduction, `bn=mean`.
    """
    more = "; with =mean, =max, =mean_l2, =flatten or =top5, a reduction of them"
    parser.add_argument(
        "--layers",
        action="extend",
        nargs="+",
        metavar="LAYER",
        help="names, globs, re:PATTERN, indices, slices, `all`, or `attention` for its scores"
        + more * reductions,
    )
    parser.add_argument(
        "--type", action="extend", nargs="+", metavar="CLASS", help="Keras class names"
    )


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add `--device`, with the values that `layertap.open` accepts."""
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu (default), cuda, cuda:1, auto, or a device that `layertap devices` lists",
    )


def add_threads(parser: argparse._ActionsContainer) -> None:
    """Add `--threads`."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="number of threads (default: all cores)"
    )


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """Add `--timeout`."""
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="stop with an error if the model runs for longer than this (default: no limit)",
    )


def add_preprocess(parser: argparse._ActionsContainer) -> None:
    """Add `--preprocess`."""
    parser.add_argument(
        "--preprocess",
        metavar="RECIPE",
        help="a preprocessing recipe to use instead of the one in the file: FILE.json, or a name "
        "from keras.applications, as in resnet50 or resnet50:320x320",
    )


def add_class_input(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--class-input`; `default` describes what holds without it."""
    parser.add_argument(
        "--class-input",
        metavar="FORM",
        help="of gradients: whether clients have to feed the weights of the classes, `required` or "
        f"`optional` (default: {default}); see docs/gradients.md",
    )


def add_strip(parser: argparse.ArgumentParser) -> None:
    """Add `--strip`."""
    parser.add_argument(
        "--strip",
        action="store_true",
        help="leave out of the card what no client needs: measured errors, golden sample, origin",
    )


def one_layer(option: str, text: str, layers: Sequence[Layer]) -> str | int | Layer:
    """The selector of one layer.

    Raises:
        UsageError: it is a slice.
    """
    found = parse_selector(text, layers)
    if isinstance(found, slice):
        raise UsageError(f"{option} must be a name or an index, got {text!r}.")
    return found


def check_positive(option: str, value: int) -> None:
    """Check that the value of an option is at least 1.

    Raises:
        UsageError: it is less.
    """
    if value < 1:
        raise UsageError(f"{option} must be at least 1, got {value}.")


def check_not_given(args: argparse.Namespace, options: Sequence[str], why: str) -> None:
    """Check that options were left out.

    Args:
        args: the parsed command line.
        options: their attributes in `args`, which are `None` if they were left out.
        why: what follows the option in the message.

    Raises:
        UsageError: one was given.
    """
    for option in options:
        if getattr(args, option) is not None:
            name = "-o" if option == "output" else f"--{option.replace('_', '-')}"
            raise UsageError(f"{name} {why}")


def check_folder(option: str, path: str) -> None:
    """Check that an output folder is not an existing file.

    Raises:
        OutputError: it is.
    """
    if os.path.exists(path) and not os.path.isdir(path):
        raise OutputError(f"{option} must be a folder, but {path!r} is a file.")


def layer_selectors(args: argparse.Namespace, layers: Sequence[Layer]) -> list[Selector] | None:
    """The selectors in `--layers`; `None` if it was not given, or is `all`."""
    if not args.layers or ("all" in args.layers and all(x.name != "all" for x in layers)):
        return None
    return [parse_selector(text, layers) for text in args.layers]


def parse_target(text: str, labels: Sequence[str]) -> str | int:
    """Parse a target from the command line: a number is an index, unless it is a label."""
    return int(text) if text not in labels and text.lstrip("-").isdecimal() else text


def free_sizes(text: str) -> tuple[int, ...]:
    """Parse `128`, `HEIGHTxWIDTH` or `64x64x64`, as an argparse type; see `fitted_sizes`."""
    sizes = _sizes(text)
    if not sizes:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give HEIGHTxWIDTH, for example 320x320, or one number"
        )
    return sizes


def fitted_sizes(
    sizes: tuple[int, ...] | None, shape: Sequence[int | str | None]
) -> tuple[int, ...] | None:
    """One size for each free axis after the batch: `--size 320` stands for all of them.

    Args:
        sizes: what was given.
        shape: of the model's first input.
    """
    if sizes is None or len(sizes) != 1:
        return sizes
    return sizes * max(1, sum(not isinstance(size, int) for size in shape[1:]))


def image_size(text: str) -> tuple[int, int]:
    """Parse `HEIGHTxWIDTH`, as an argparse type; `320` means `320x320`."""
    sizes = _sizes(text)
    if len(sizes) not in (1, 2):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give HEIGHTxWIDTH, for example 320x320"
        )
    return sizes[0], sizes[-1]


def _sizes(text: str) -> tuple[int, ...]:
    """Numbers with an `x` between them; none if one is no size."""
    try:
        sizes = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        return ()
    return sizes if min(sizes) > 0 else ()
