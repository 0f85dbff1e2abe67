"""Options for pictures: how they are drawn, and how large they are on paper."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layertap._arguments import choice
from layertap.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from layertap.view.explained import Style

_UNITS = {"mm": 1.0, "cm": 10.0, "in": 25.4}
"""Millimetres in a unit of length."""


def add_style(parser: argparse.ArgumentParser, colormap: str) -> None:
    """Add the options for drawing maps over images; `colormap` describes the default one."""
    parser.add_argument(
        "--show",
        default="figure",
        help="figure (default): image and overlays with titles, colour bar and caption; overlay or "
        "map: that alone",
    )
    parser.add_argument(
        "--colormap",
        help=f"jet, viridis, magma, inferno, cividis, gray or RdBu_r (default: {colormap})",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        help="opacity of the map, 0 to 1 (default 0.5, or 0.8 with --opacity heat)",
    )
    parser.add_argument(
        "--opacity",
        default="fixed",
        help="fixed (default), or heat: the opacity is --alpha times the heat",
    )
    parser.add_argument(
        "--contours", type=int, default=0, metavar="N", help="number of contour lines (default 0)"
    )
    parser.add_argument("--no-bar", action="store_true", help="leave out the colour bar")
    parser.add_argument(
        "--no-original", action="store_true", help="leave out the image without the map"
    )


def add_print(parser: argparse._ActionsContainer, drawn: str) -> None:
    """Add the options for files and paper; `drawn` names the pictures."""
    parser.add_argument(
        "--caption", metavar="TEXT", help=f"text below {drawn}, '' for none (default: what it is)"
    )
    parser.add_argument(
        "--format", default="png", help=f"format of {drawn}: png (default), pdf or svg"
    )
    parser.add_argument(
        "--width", metavar="LENGTH", help="width of a picture: 84mm, 8.4cm, 3.3in or 1000px"
    )
    parser.add_argument("--dpi", type=float, help="pixels per inch on paper (default 300)")
    parser.add_argument(
        "--page", help="page of pdf and svg: a3, a4, a5, letter or 120x80 (mm); default: no margin"
    )
    parser.add_argument(
        "--font", metavar="FILE", help="font file, for characters that the font of Pillow lacks"
    )


def style_of(args: argparse.Namespace, print_: PrintOptions) -> Style:
    """How maps are drawn.

    Raises:
        UsageError: an option has an invalid value; the message names the option.
    """
    from layertap.view.explained import Style

    if args.alpha is not None and not 0 <= args.alpha <= 1:
        raise UsageError(f"--alpha must be between 0 and 1, got {args.alpha:g}.")
    if args.show != "figure":
        for option, given in (
            ("--no-bar", args.no_bar), ("--no-original", args.no_original),
            ("--caption", args.caption is not None), ("--font", args.font is not None),
        ):  # fmt: skip
            if given:
                raise UsageError(f"{option} is for --show figure, got --show {args.show}.")
    try:
        return Style(
            show=args.show,
            colormap=args.colormap,
            alpha=args.alpha,
            opacity=args.opacity,
            contours=args.contours,
            original=not args.no_original,
            bar=not args.no_bar,
            caption=args.caption,
            percentile=getattr(args, "percentile", 99.0),
            width=print_.pixels,
            font=args.font,
        )
    except UsageError as exc:
        text = str(exc)
        word = text.split(" ", 1)[0]
        if word in ("show", "opacity", "contours", "percentile"):
            raise UsageError(f"--{text}") from None
        raise


@dataclass(frozen=True)
class PrintOptions:
    """The format of picture files, and the size on paper."""

    format: str
    dpi: float | None
    width: float | None
    """In millimetres."""
    pixels: int | None
    """The width in pixels."""
    page: str | None

    @classmethod
    def of(cls, args: argparse.Namespace) -> PrintOptions:
        """The values of the options.

        Raises:
            UsageError: one is invalid.
        """
        from layertap.view.documents import FORMATS, millimetres, page_size, pixels_of

        choice("--format", args.format, FORMATS)
        if args.dpi is not None and not 1 <= args.dpi <= 10_000:
            raise UsageError(f"--dpi must be from 1 to 10000, got {args.dpi:g}.")
        if args.page is not None:
            if args.format == "png":
                raise UsageError("--page is for --format pdf and svg; a PNG file has no page.")
            page_size(args.page)
        width = pixels = None
        if args.width is not None:
            number, unit = _length(args.width)
            if unit == "px":
                pixels = int(number)
            else:
                width = millimetres("--width", number * _UNITS[unit])
                pixels = pixels_of(width, args.dpi)
        return cls(args.format, args.dpi, width, pixels, args.page)

    def encoded(self, picture: Image.Image, kind: str) -> bytes:
        """The bytes of a file, see `layertap.view.documents.encoded`."""
        from layertap.view.documents import encoded

        return encoded(
            picture, self.format, dpi=self.dpi, width=self.width, page=self.page, kind=kind
        )


def _length(text: str) -> tuple[float, str]:
    """A number and its unit.

    Raises:
        UsageError: it is no length.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(mm|cm|in|px)", text.strip().lower())
    if not found or not float(found[1]) or (found[2] == "px" and "." in found[1]):
        raise UsageError(
            f"--width must be a length with its unit, as in 84mm, 8.4cm, 3.3in or 1000px, got "
            f"{text!r}."
        )
    return float(found[1]), found[2]
