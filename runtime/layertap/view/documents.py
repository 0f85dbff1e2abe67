"""Pictures as files: PNG, PDF and SVG, in a size on paper and a resolution."""

from __future__ import annotations

import base64
import io
import math
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from layertap._arguments import choice, number
from layertap.errors import UsageError, suggest
from layertap.format.atomic import replacing
from layertap.images.own_pictures import mark

from .panels import MOST_PIXELS

FORMATS = ("png", "pdf", "svg")
"""The formats of files, which are also their suffixes."""
DPI = 300.0
"""Pixels per inch, if no resolution is given."""
MM = 25.4
"""Millimetres in an inch."""
PAGES = {
    "a3": (297.0, 420.0), "a4": (210.0, 297.0), "a5": (148.0, 210.0), "letter": (215.9, 279.4),
}  # fmt: skip
"""Width and height of paper in millimetres, by name."""
LARGEST_PAGE = 5080.0
"""Millimetres: what readers of PDF files accept, 14,400 points."""


class Paper(NamedTuple):
    """How large a picture is on paper, in millimetres."""

    width: float
    height: float
    page: tuple[float, float]
    """Width and height of the page, in whose middle the picture is."""


def save_picture(
    picture: Image.Image,
    path: str | os.PathLike[str],
    *,
    dpi: float | None = None,
    width: float | None = None,
    page: str | Sequence[float] | None = None,
) -> None:
    """Write a picture as PNG, PDF or SVG, by the suffix of the file.

    All three hold every pixel as it is. The same picture gives the same bytes.

    Args:
        picture: what `Model.picture` or `Model.sheet` returns, or any other.
        path: the file; an existing one is replaced.
        dpi: pixels per inch. By default 300; with a width, what the pixels give.
        width: of the picture, in millimetres; with `dpi`, the picture is resized to that many
            pixels. For text in a good size, give `Model.picture` the width in pixels.
        page: for PDF and SVG: the page in whose middle the picture is placed: `a3`, `a4`, `a5`,
            `letter`, or its (width, height) in millimetres. By default it is as large as the
            picture.

    Raises:
        UsageError: an unknown suffix or page, a page that cannot hold the picture, a resolution or
            width that is not greater than 0, or a page for PNG.
        OutputError: the file cannot be written.
    """
    if not isinstance(picture, Image.Image):
        raise UsageError(f"picture must be a PIL image, got a {type(picture).__name__}.")
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"path must be the name of a file, got a {type(path).__name__}.")
    suffix = Path(os.fsdecode(path)).suffix[1:].lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"a picture is written as {', '.join('.' + one for one in FORMATS)}, got "
            f"{os.fsdecode(path)!r}." + suggest(suffix, FORMATS)
        )
    dpi, width = resolution(dpi), None if width is None else millimetres("width", width)
    if dpi is not None and width is not None:
        pixels = pixels_of(width, dpi)
        size = pixels, max(1, round(picture.height * pixels / picture.width))
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
    data = encoded(picture, suffix, dpi=dpi, width=width, page=page)
    with replacing(os.fspath(path)) as temporary:
        Path(temporary).write_bytes(data)


def resolution(dpi: Any) -> float | None:
    """A resolution in pixels per inch.

    Raises:
        UsageError: it is not a number from 1 to 10,000.
    """
    if dpi is None:
        return None
    if not 1 <= number("dpi", dpi) <= 10_000:
        raise UsageError(f"dpi must be from 1 to 10000, got {float(dpi):g}.")
    return float(dpi)


def millimetres(name: str, value: Any) -> float:
    """A length on paper.

    Raises:
        UsageError: it is not a number from 1 to `LARGEST_PAGE`.
    """
    if not 1 <= number(name, value) <= LARGEST_PAGE:
        raise UsageError(f"{name} must be from 1 to {LARGEST_PAGE:g} mm, got {float(value):g}.")
    return float(value)


def pixels_of(width: float, dpi: float | None) -> int:
    """The pixels of a width in millimetres.

    Raises:
        UsageError: they are too many for a picture.
    """
    pixels = max(1, round(width / MM * (dpi or DPI)))
    if pixels > MOST_PIXELS:
        raise UsageError(
            f"a width of {width:g} mm at {dpi or DPI:g} dpi has {pixels} pixels, but a picture has "
            f"at most {MOST_PIXELS}. Give a smaller width or dpi."
        )
    return pixels


def encoded(
    picture: Image.Image,
    format_: str,
    *,
    dpi: float | None = None,
    width: float | None = None,
    page: str | Sequence[float] | None = None,
    kind: str | None = None,
) -> bytes:
    """A picture as the bytes of a file, see `save_picture`.

    Args:
        picture: its pixels are not changed.
        format_: one of `FORMATS`.
        dpi: see `save_picture`; not used if there is a width.
        width: see `save_picture`.
        page: see `save_picture`.
        kind: marks the file as one that layertap wrote: `cam`, `attribute` or `sheet`.

    Raises:
        UsageError: see `save_picture`.
    """
    format_ = choice("format", format_, FORMATS)
    if format_ == "png":
        if page is not None:
            raise UsageError("a page is for PDF and SVG; a PNG file has only the picture.")
        return _png(picture, dpi if width is None else picture.width / (width / MM), kind)
    paper = on_paper(picture.size, dpi=dpi, width=width, page=page)
    return _pdf(picture, paper) if format_ == "pdf" else _svg(picture, paper, kind)


def on_paper(
    size: tuple[int, int],
    *,
    dpi: float | None = None,
    width: float | None = None,
    page: str | Sequence[float] | None = None,
) -> Paper:
    """The place of a picture of `size` (width, height) in pixels; see `save_picture`.

    Raises:
        UsageError: see `save_picture`.
    """
    per_pixel = MM / (dpi or DPI) if width is None else width / size[0]
    across, down = size[0] * per_pixel, size[1] * per_pixel
    sheet = None if page is None else page_size(page)
    if sheet is None:
        sheet = across, down
        name = "the largest page"
        room = LARGEST_PAGE, LARGEST_PAGE
    else:
        name, room = f"the page {page}" if isinstance(page, str) else "the page", sheet
    if across > room[0] + 0.01 or down > room[1] + 0.01:
        raise UsageError(
            f"the picture is {across:.0f} x {down:.0f} mm, which {name} ({room[0]:g} x "
            f"{room[1]:g} mm) cannot hold. Give a smaller width, a larger dpi or a larger page."
        )
    return Paper(across, down, sheet)


def page_size(page: str | Sequence[float]) -> tuple[float, float]:
    """Width and height of a page in millimetres.

    Raises:
        UsageError: it is unknown, or not two lengths.
    """
    if isinstance(page, str):
        if page.lower() in PAGES:
            return PAGES[page.lower()]
        found = re.fullmatch(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)(?:mm)?", page.lower())
        if not found:
            raise UsageError(
                f"the page {page!r} is unknown; the pages are {', '.join(PAGES)}, or its size in "
                f"millimetres, as in 120x80.{suggest(page, list(PAGES))}"
            )
        page = float(found[1]), float(found[2])
    try:
        across, down = page
    except (TypeError, ValueError):
        raise UsageError(
            f"page must be one of {', '.join(PAGES)}, or (width, height) in millimetres, got "
            f"{page!r}."
        ) from None
    return millimetres("the width of the page", across), millimetres("the height of it", down)


def _png(picture: Image.Image, dpi: float | None, kind: str | None) -> bytes:
    buffer = io.BytesIO()
    more: dict[str, Any] = {} if dpi is None else {"dpi": (dpi, dpi)}
    if kind is not None:
        more["pnginfo"] = mark(kind)
    # Level 6 of zlib takes twice the time, for a file that is about 3 % smaller.
    picture.save(buffer, "PNG", compress_level=4, **more)
    return buffer.getvalue()


def _svg(picture: Image.Image, paper: Paper, kind: str | None) -> bytes:
    """The picture as PNG inside; `xlink:href` is what older programs read."""
    data = base64.b64encode(_png(picture, None, kind)).decode()
    (width, height), (across, down) = (paper.width, paper.height), paper.page
    left, top = (across - width) / 2, (down - height) / 2
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{across:.4g}mm" height="{down:.4g}mm" viewBox="0 0 {across:.6g} {down:.6g}">\n'
        f"<desc>layertap {kind or 'picture'}</desc>\n"
        f'<image x="{left:.6g}" y="{top:.6g}" width="{width:.6g}" height="{height:.6g}" '
        f'preserveAspectRatio="none" xlink:href="data:image/png;base64,{data}"/>\n'
        "</svg>\n"
    ).encode()


def _pdf(picture: Image.Image, paper: Paper) -> bytes:
    """One page with the picture, compressed without loss (Pillow's own writer makes it a JPEG)."""
    grey = picture.mode == "L"
    pixels = picture if grey else picture.convert("RGB")
    points = [length / MM * 72 for length in (*paper.page, paper.width, paper.height)]
    across, down, width, height = points
    left, bottom = (across - width) / 2, (down - height) / 2
    place = f"q {width:.4f} 0 0 {height:.4f} {left:.4f} {bottom:.4f} cm /P Do Q".encode()
    data = zlib.compress(pixels.tobytes(), 6)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %s %s] /Contents 4 0 R "
        b"/Resources << /XObject << /P 5 0 R >> >> >>" % (_points(across), _points(down)),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(place), place),
        b"<< /Type /XObject /Subtype /Image /Width %d /Height %d /BitsPerComponent 8 "
        b"/ColorSpace /Device%s /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream"
        % (pixels.width, pixels.height, b"Gray" if grey else b"RGB", len(data), data),
        b"<< /Producer (layertap) >>",
    ]
    file = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    starts = []
    for index, body in enumerate(objects, 1):
        starts.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (index, body)
    table = len(file)
    file += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    file += b"".join(b"%010d 00000 n \n" % start for start in starts)
    file += b"trailer\n<< /Size %d /Root 1 0 R /Info 6 0 R >>\n" % (len(objects) + 1)
    file += b"startxref\n%d\n%%%%EOF\n" % table
    return bytes(file)


def _points(length: float) -> bytes:
    return f"{math.ceil(length * 1000) / 1000:g}".encode()
