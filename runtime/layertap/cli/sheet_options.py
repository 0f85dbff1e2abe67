"""Options for sheets of feature maps."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from layertap.errors import UsageError
from layertap.view.colormaps import shades
from layertap.view.lettering import Lettering
from layertap.view.pictures import SCALES
from layertap.view.sheets import SheetMaps

from .options import check_positive
from .picture_options import PrintOptions, add_print


def add_sheet(parser: argparse.ArgumentParser) -> None:
    """Add the options of `--sheet`."""
    group = parser.add_argument_group("options of --sheet")
    group.add_argument(
        "--channels",
        type=int,
        action="extend",
        nargs="+",
        metavar="N",
        help="the channels to draw (default: the strongest)",
    )
    group.add_argument(
        "--count", type=int, metavar="N", help="number of channels, without --channels (default 17)"
    )
    group.add_argument(
        "--scale", help="own (default): each map from its minimum to its maximum; or common"
    )
    group.add_argument(
        "--colormap", help="gray (default), viridis, magma, inferno, cividis, jet or RdBu_r"
    )
    group.add_argument(
        "--statistics", action="store_true", help="print minimum, mean and maximum below each map"
    )
    group.add_argument(
        "--columns", type=int, metavar="N", help="number of maps in a row (default 6)"
    )
    add_print(group, "the sheets")


@dataclass(frozen=True)
class SheetOptions:
    """How sheets are drawn."""

    print_: PrintOptions
    caption: str | None
    options: dict[str, Any]

    @classmethod
    def of(cls, args: argparse.Namespace) -> SheetOptions:
        """The values of the options.

        Raises:
            UsageError: one is invalid, or there is no `--sheet`.
        """
        print_ = PrintOptions.of(args)
        names = ("channels", "count", "scale", "colormap", "statistics", "columns", "font")
        given = {name: getattr(args, name) for name in names if getattr(args, name)}
        others = ("caption", "width", "dpi", "page")
        unused = [*given, *(name for name in others if getattr(args, name) is not None)]
        unused += ["format"] * (args.format != "png")
        if unused and not args.sheet:
            raise UsageError(f"--{unused[0]} is an option of --sheet. Add --sheet FOLDER.")
        for name in ("count", "columns"):
            if getattr(args, name) is not None:
                check_positive(f"--{name}", getattr(args, name))
        if given.get("scale", "own") not in SCALES:
            raise UsageError(f"--scale must be {' or '.join(SCALES)}, got {args.scale!r}.")
        shades(given.get("colormap", "gray"))
        Lettering(args.font)
        return cls(print_, args.caption, {**given, "width": print_.pixels})

    def sheet(self, maps: SheetMaps, sample: NDArray[Any], image: str | None) -> Image.Image:
        """The sheet of one sample `(h, w, c)` of a layer's maps."""
        return maps.drawn(sample, image, self.caption, self.options)
