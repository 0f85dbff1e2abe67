"""Pictures that layertap wrote. They are marked, so that they are not read as images again.

The mark is a text chunk of the PNG file, `layertap`, with the kind of the picture: `cam` or
`sheet`. A second chunk, `Software`, says to people and other programs who wrote it.
"""

from __future__ import annotations

import os

from PIL import PngImagePlugin

from layertap.errors import ImageError
from layertap.format.source import open_regular

KEYWORD = "layertap"
"""The keyword of the text chunk."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD = 4096
"""Bytes in which the mark is looked for; it comes before the pixels."""


def mark(kind: str) -> PngImagePlugin.PngInfo:
    """The mark, as the argument `pnginfo` of Pillow's `save`."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Software", "layertap")
    texts.add_text(KEYWORD, kind)
    return texts


def kind_of_own(path: str | os.PathLike[str]) -> str | None:
    """The kind of a picture that layertap wrote; `None` for any other file."""
    try:
        with open_regular(path) as file:  # a pipe would be waited for
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return None
    if not head.startswith(_SIGNATURE):
        return None
    at = len(_SIGNATURE)
    while at + 8 <= len(head):
        size, name = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        keyword, _, text = head[at + 8 : at + 8 + size].partition(b"\0")
        if name == b"tEXt" and keyword == KEYWORD.encode():
            return text.decode("latin-1")
        if name in (b"IDAT", b"IEND"):
            return None
        at += 12 + size
    return None


def check_not_own(path: str | os.PathLike[str]) -> None:
    """Check that a file is not a picture that layertap wrote.

    Raises:
        ImageError: it is.
    """
    kind = kind_of_own(path)
    if kind is not None:
        raise ImageError(
            f"{os.fsdecode(path)}: layertap wrote this picture ({kind}), so it is not read as an "
            "image. Give the image that it was made from."
        )
