"""Text in pictures: fonts, the characters that they lack, and lines that fit."""

from __future__ import annotations

import functools
import os
import unicodedata
import warnings
from typing import Any, TypeAlias

from PIL import Image, ImageDraw, ImageFont

from layertap._engine.program import outside
from layertap.errors import LayertapWarning, UsageError
from layertap.format.text import class_text

SMALLEST = 10
"""Pixels: text is not set smaller than this."""
LONGEST = 500
"""Characters of a text that are looked at; more do not fit."""
UNKNOWN = "?"
"""What is drawn for a character that neither the font has, nor `_SIMILAR`."""

FontFile: TypeAlias = str | os.PathLike[str]

_SIMILAR = {
    "Œ": "OE", "œ": "oe", "Æ": "AE", "æ": "ae", "ß": "ss", "Ø": "O", "ø": "o", "Ł": "L", "ł": "l",
    "Đ": "D", "đ": "d", "\u0131": "i", "\u00d7": "x", "÷": "/", "\u2212": "-", "\u2010": "-",
    "\u2011": "-", "\u2013": "-",
    "—": "-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "→": "->", "←": "<-", "•": "·",
    "\u201a": ",",
    "„": '"', "µ": "u", "μ": "u", "¿": "?", "¡": "!", "€": "EUR", "£": "GBP",
}  # fmt: skip
"""What is drawn for characters that a font lacks."""


class Lettering:
    """Sets text in one font.

    Args:
        font: a font file (TrueType, OpenType); by default the font that Pillow contains, Aileron,
            which has the letters of English. Letters with accents that a font lacks are drawn
            without them, and some characters as others (a multiplication sign as `x`).

    Raises:
        UsageError: the file is no font.
    """

    def __init__(self, font: FontFile | None = None) -> None:
        if font is not None and not isinstance(font, (str, os.PathLike)):
            raise UsageError(f"font must be the path of a font file, got {class_text(font)}.")
        self._file = None if font is None else os.fsdecode(font)
        self._lacking: set[str] = set()
        self.font(SMALLEST)

    def font(self, size: int) -> Any:
        """Pillow's font object for a size in pixels."""
        return _font(self._file, size)

    def line(self, text: str) -> str:
        """A text as one line of characters that the font has."""
        words = unicodedata.normalize("NFC", " ".join(text[:LONGEST].split()))
        return "".join(self._drawn(char) for char in words)

    def _drawn(self, char: str) -> str:
        if _has(self._file, char):
            return char
        plain = unicodedata.normalize("NFKD", char)
        letters = [one for one in plain if not unicodedata.combining(one)]
        if not letters:
            return ""
        if letters != [char]:
            return "".join(self._drawn(one) for one in letters)
        if char in _SIMILAR:
            return _SIMILAR[char]
        self._lacking.add(char)
        return UNKNOWN

    def warn(self) -> None:
        """Warn of characters that were drawn as question marks, once for each text."""
        if not self._lacking:
            return
        found = ", ".join(map(repr, sorted(self._lacking)[:5]))
        more = f" and {len(self._lacking) - 5} more" if len(self._lacking) > 5 else ""
        self._lacking = set()
        which = "The font of Pillow" if self._file is None else f"The font {self._file!r}"
        warnings.warn(
            f"{which} lacks {found}{more}: {UNKNOWN!r} is drawn instead. Give a font file that has "
            "these characters, with font= or --font.",
            LayertapWarning,
            stacklevel=outside(),
        )

    def fitted(self, text: str, size: int, width: int) -> tuple[str, Any]:
        """A text on one line of at most `width` pixels: smaller, and truncated, if necessary."""
        line = self.line(text)
        size = max(size, SMALLEST)
        for smaller in range(size, SMALLEST - 1, -1):
            font = self.font(smaller)
            if length(line, font) <= width:
                return line, font
        return _cut(line, font, width), font

    def wrapped(self, text: str, size: int, width: int) -> list[str]:
        """A text in lines of at most `width` pixels, where its words allow that."""
        font = self.font(size)
        lines: list[str] = []
        for word in self.line(text).split(" "):
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and length(longer, font) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return [line if length(line, font) <= width else _cut(line, font, width) for line in lines]


def length(text: str, font: Any) -> float:
    """The width of a text in pixels."""
    return _RULER.textlength(text, font=font)


_RULER = ImageDraw.Draw(Image.new("L", (1, 1)))


def _cut(line: str, font: Any, width: int) -> str:
    while line and length(f"{line}...", font) > width:
        line = line[:-1]
    return f"{line}..."


@functools.lru_cache(maxsize=64)
def _font(file: str | None, size: int) -> Any:
    if file is None:
        try:
            return ImageFont.load_default(size)
        except (TypeError, ImportError):  # before Pillow 10.1, and without FreeType: one size
            return ImageFont.load_default()
    try:
        return ImageFont.truetype(file, size)
    except ImportError as exc:
        raise UsageError(f"this Pillow reads no font files ({exc}). Leave out the font.") from exc
    except Exception as exc:  # FreeType raises OSError, Python ValueError for odd paths
        reason = "there is no such file" if not os.path.exists(file) else "it is no font file"
        raise UsageError(f"the font {file!r} cannot be read: {reason}.") from exc


@functools.lru_cache(maxsize=4096)
def _has(file: str | None, char: str) -> bool:
    """Whether a font has a character: it is not drawn like one that no font has."""
    font = _font(file, 24)
    if not isinstance(font, ImageFont.FreeTypeFont):
        return char.isascii()
    if char == " ":
        return True
    mask, missing = font.getmask(char), font.getmask("\U0010fffe")
    return (mask.size, bytes(mask)) != (missing.size, bytes(missing))
